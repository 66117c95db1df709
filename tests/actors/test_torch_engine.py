"""The transformers engine: seeds, limits, exact log-probabilities, and weights that change whole or not at all."""

import asyncio
import json
import math
import shutil
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine import EngineError, Request, UnsupportedRequest, WeightError
from actors.protocols import DIGITS, PROTOCOLS
from actors.speaker import Speaker
from actors.torch_engine import TorchEngine
from pipelines.config import ModelConfig
from pipelines.records import Message
from pipelines.training.checkpoint import load_model
from pipelines.training.config import TrainingConfig
from pipelines.training.learner import Learner
from pipelines.training.strategies import make_strategy
from tests.playing import Direct

PROMPT = [1, 9690, 198, 42]
RESPONSES = [[5, 6, 7, 2], [900], [31, 32, 33, 34, 35, 36]]
FLOAT32 = ModelConfig(engine="transformers", dtype="float32", threads=1)


def engine(folder: str, config: ModelConfig = FLOAT32) -> TorchEngine:
    return TorchEngine._load(folder, config)


@pytest.fixture(scope="module")
def tiny(tiny_model) -> TorchEngine:
    return engine(tiny_model)


@pytest.fixture(scope="module")
def other_model(make_tiny_model) -> str:
    return make_tiny_model(1)


def request(**changes: Any) -> Request:
    options: dict[str, Any] = {"n": 2, "temperature": 1.0, "max_tokens": 8, "seed": 5, **changes}
    return Request("r", PROMPT, **options)


def full_softmax(folder: str, prompt: list[int], response: list[int]) -> list[float]:
    """log p by the plain forward pass of a fresh model, one row without padding."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    logps = logits.log_softmax(-1)
    return [float(logps[len(prompt) - 1 + t, token]) for t, token in enumerate(response)]


async def test_it_starts_from_a_folder(tiny, tiny_model):
    started = await TorchEngine.start(tiny_model, FLOAT32)
    assert await started.score(PROMPT, RESPONSES) == await tiny.score(PROMPT, RESPONSES)


async def test_a_sample_depends_on_its_seed_and_index_alone(tiny):
    first, again = await tiny.generate(request()), await tiny.generate(request())
    assert first == again
    assert [c.index for c in first] == [0, 1]
    assert [c.seed for c in first] == [5, 6]
    (alone,) = await tiny.generate(request(n=1, seed=6))
    assert alone.token_ids == first[1].token_ids
    assert first[0].token_ids != first[1].token_ids
    other, _ = await asyncio.gather(tiny.generate(request()), tiny.generate(request(seed=77)))
    assert other == first  # whatever runs beside it


async def test_greedy_takes_the_likeliest_token(tiny, tiny_model):
    (greedy,) = await tiny.generate(request(n=1, temperature=0.0, max_tokens=1))
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        assert greedy.token_ids == [int(model(torch.tensor([PROMPT])).logits[0, -1].argmax())]


async def test_a_reply_ends_at_its_limit(tiny, tokenizer):
    (reply,) = await tiny.generate(request(n=1, max_tokens=3))
    assert (len(reply.token_ids), reply.finish_reason) == (3, "length")
    assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)


async def test_a_reply_ends_with_the_end_of_turn(tiny_model, tokenizer):
    """The first greedy token is made the end of turn."""
    fresh = engine(tiny_model)
    (greedy,) = await fresh.generate(request(n=1, temperature=0.0, max_tokens=1))
    (end,) = greedy.token_ids
    fresh._model.generation_config.eos_token_id = end
    fresh._tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    for limit in (8, 1):  # also where it comes exactly at the limit
        (reply,) = await fresh.generate(request(n=1, temperature=0.0, max_tokens=limit))
        assert (reply.token_ids, reply.finish_reason) == ([end], "stop")


async def test_a_stop_string_ends_the_reply_and_is_cut_off(tiny, tokenizer):
    (whole,) = await tiny.generate(request(n=1, max_tokens=12))
    stop = tokenizer.decode(whole.token_ids[4:6])
    (cut,) = await tiny.generate(request(n=1, max_tokens=12, stop=[stop]))
    assert cut.text == whole.text.split(stop, 1)[0]
    assert len(cut.token_ids) < 12
    (at_limit,) = await tiny.generate(request(n=1, max_tokens=len(cut.token_ids), stop=[stop]))
    assert (cut.finish_reason, at_limit.finish_reason, at_limit.text) == ("stop", "stop", cut.text)
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


async def test_an_aborted_reply_says_so_and_an_unknown_id_is_ignored(tiny):
    await tiny.abort("r")
    running = asyncio.create_task(tiny.generate(request(n=1, max_tokens=400)))
    await asyncio.sleep(0.05)
    await tiny.abort("r")
    (reply,) = await running
    assert reply.finish_reason == "abort"
    assert len(reply.token_ids) < 400
    assert (await tiny.generate(request(n=1)))[0].finish_reason == "length"  # the id is free again


async def test_structured_replies_are_refused(tiny):
    with pytest.raises(UnsupportedRequest, match="no structured outputs; use engine=vllm"):
        await tiny.generate(request(structured={"choice": ["A", "B"]}))


async def test_scores_are_the_log_softmax_of_a_plain_forward_pass(tiny, tiny_model):
    scores = await tiny.score(PROMPT, RESPONSES)
    for score, response in zip(scores, RESPONSES, strict=True):
        assert score == pytest.approx(full_softmax(tiny_model, PROMPT, response), abs=2e-5)
    assert min(min(score) for score in scores) < max(max(score) for score in scores) - 1  # they say something


@pytest.mark.parametrize(("dtype", "weights"), [("bfloat16", "float32"), ("bfloat16", "bfloat16")])
async def test_scores_are_those_of_the_trainers_numerics(tiny_model, dtype, weights):
    """So that the first loss of a training is ln 2: the same weights, packs and autocast, bit for bit."""
    config = TrainingConfig(autocast=dtype, weights=weights)
    learner = Learner(make_strategy(load_model(tiny_model, config), config, "cpu"), config)
    live = engine(tiny_model, ModelConfig(engine="transformers", dtype=dtype, weights=weights, threads=1))
    assert live._model.dtype == getattr(torch, weights)
    rows = [{"prompt_ids": PROMPT, "chosen_ids": RESPONSES[0], "rejected_ids": RESPONSES[2]}]
    pairs: Any = rows
    (expected,) = learner.reference(pairs, "v0")
    scores = await live.score(PROMPT, [RESPONSES[0], RESPONSES[2]])
    assert scores == [expected["ref_logps_chosen"], expected["ref_logps_rejected"]]
    exact = [full_softmax(tiny_model, PROMPT, RESPONSES[i]) for i in (0, 2)]
    for found, other in zip(scores, exact, strict=True):
        assert found != other
        assert found == pytest.approx(other, abs=0.5)


async def test_digits_are_weighed_as_a_plain_forward_pass_has_them(tiny, tiny_model, chat):
    question = [Message(role="user", content="How good is this, from 0 to 9?")]
    client: Any = Direct(tiny)
    reply = await Speaker(client, chat, 512).weigh(question, DIGITS.choices, "v0")
    prompt = chat.render(question)
    exact = [full_softmax(tiny_model, prompt, chat.encode(digit))[0] for digit in DIGITS.choices]
    assert list(json.loads(reply.text).values()) == pytest.approx(exact, abs=2e-5)
    weights = [math.exp(logp) for logp in exact]
    expected = sum(digit * weight for digit, weight in enumerate(weights)) / sum(weights)
    assert PROTOCOLS["digits"].read(reply.text, False).value == pytest.approx(expected, abs=1e-4)


async def test_equal_responses_are_each_scored(tiny):
    first, other, second = await tiny.score(PROMPT, [RESPONSES[0], RESPONSES[1], RESPONSES[0]])
    assert first == second
    assert (len(first), len(other)) == (4, 1)


async def test_after_scores_the_model_generates_as_before(tiny_model):
    """Scores attend over trees of responses, which generation knows nothing of."""
    live = engine(tiny_model)
    before = await live.generate(request())
    await live.score(PROMPT, RESPONSES)
    assert await live.generate(request()) == before


async def test_loaded_weights_score_as_a_fresh_engine_does(tiny_model, other_model):
    live, fresh = engine(tiny_model), engine(other_model)
    before = await live.score(PROMPT, RESPONSES)
    await live.load_weights(other_model)
    after = await live.score(PROMPT, RESPONSES)
    assert after == await fresh.score(PROMPT, RESPONSES)
    assert after != before
    assert await live.generate(request()) == await fresh.generate(request())
    await live.load_weights(tiny_model)
    assert await live.score(PROMPT, RESPONSES) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 64}, r"shape \['model\."),
        ({"num_hidden_layers": 1}, r"missing \['model\.layers\.1\."),
        ({"num_hidden_layers": 3}, r"extra \['model\.layers\.2\."),
    ],
)
async def test_an_unfit_checkpoint_is_refused_and_nothing_changes(tiny, make_tiny_model, changes, named):
    before = await tiny.score(PROMPT, RESPONSES)
    unfit = make_tiny_model(3, **changes)
    with pytest.raises(WeightError, match=named) as error:
        await tiny.load_weights(unfit)
    assert unfit in str(error.value)
    assert await tiny.score(PROMPT, RESPONSES) == before


async def test_a_checkpoint_cut_into_shards_is_loaded_whole(tiny, other_model, tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(other_model, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    live = engine(other_model)
    expected = await live.score(PROMPT, RESPONSES)
    with torch.no_grad():
        for parameter in live._model.parameters():
            parameter.zero_()
    await live.load_weights(str(tmp_path))
    assert await live.score(PROMPT, RESPONSES) == expected


async def test_an_engine_that_was_shut_down_is_ill(tiny_model):
    gone = engine(tiny_model)
    await gone.check_health()
    await gone.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        await gone.check_health()


async def test_sampling_values_are_the_requests_alone(tiny, tiny_model, tmp_path):
    """A checkpoint's generation_config may ask for penalties; vLLM is told to ignore it, so must this engine."""
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    opinions = {"repetition_penalty": 5.0, "do_sample": True, "top_k": 1, "min_p": 0.9, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(opinions))
    opinionated = engine(str(tmp_path))
    for temperature in (0.0, 1.0):
        asked = request(n=1, temperature=temperature, max_tokens=12)
        assert await opinionated.generate(asked) == await tiny.generate(asked)
