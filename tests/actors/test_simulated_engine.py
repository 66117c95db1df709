"""The engine without a model: same question and seed, same reply; limits, structure and stopping as of a real one."""

import asyncio
import dataclasses

import pytest

from actors.engine import EngineError, Request, UnsupportedRequest, WeightError
from actors.protocols import PROTOCOLS
from actors.simulated_engine import SimulatedEngine
from pipelines.config import ModelConfig, SimulatedConfig, resolve

FAST = SimulatedConfig(decode_tokens_per_s=1e6, prefill_tokens_per_s=1e9)


@pytest.fixture
def engine(tokenizer):
    return SimulatedEngine(tokenizer, 4, FAST)


async def replies(engine, prompt: str, n: int = 4, **settings):
    prompt_ids = engine._tokenizer(prompt)["input_ids"]
    request = Request(f"r-{prompt[:9]}", prompt_ids, n=n, seed=5)
    return await engine.generate(dataclasses.replace(request, **settings))


async def test_a_reply_follows_from_prompt_and_seed_alone(engine, tokenizer):
    first, again = await replies(engine, "Name a fruit."), await replies(engine, "Name a fruit.")
    shifted = await replies(engine, "Name a fruit.", n=1, seed=7)
    assert first == again
    assert shifted[0].text == first[2].text
    assert len({c.text for c in first}) == 4
    for c in first:
        assert (c.text, c.finish_reason) == (tokenizer.decode(c.token_ids[:-1]), "stop")
        assert c.token_ids[-1] == tokenizer.eos_token_id
    unseeded = [(await replies(engine, "Name a fruit.", n=1, seed=None))[0].text for _ in range(3)]
    assert len(set(unseeded)) == 3


@pytest.mark.parametrize("name", ["additive", "likert", "single", "pairwise", "boxed", "decision", "claim"])
async def test_it_ends_with_the_verdict_that_was_asked_for(engine, name):
    form = PROTOCOLS[name].verdict
    made = await replies(engine, f"Judge it. End with a line\n{form.lead}{' or '.join(form.choices)}", n=8)
    assert {form.parse(c.text, False).status for c in made} == {"ok"}
    assert len({c.text.rsplit(form.lead, 1)[1] for c in made}) > 1


async def test_lengths_and_structure_are_kept(engine):
    (cut,) = await replies(engine, "Name a fruit.", n=1, max_tokens=3)
    assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
    chosen = await replies(engine, "Which?", n=8, structured={"choice": [" A", " B"]})
    assert {c.text for c in chosen} == {" A", " B"}
    with pytest.raises(UnsupportedRequest, match="structured choices only"):
        await replies(engine, "Which?", structured={"regex": "a+"})


async def test_slots_are_shared_and_an_abort_frees_them(tokenizer):
    engine = SimulatedEngine(tokenizer, 1, FAST.model_copy(update={"decode_tokens_per_s": 0.001}))
    slow = asyncio.create_task(engine.generate(Request("slow", [1, 2], n=2, seed=0)))
    await asyncio.sleep(0.05)  # it has the slot
    scoring = asyncio.create_task(engine.score([1], [[2, 3]]))
    await asyncio.sleep(0.05)
    assert not slow.done() and not scoring.done()
    await engine.abort("unknown")
    await engine.abort("slow")
    assert {c.finish_reason for c in await asyncio.wait_for(slow, 30)} == {"abort"}
    ((first, second),) = await asyncio.wait_for(scoring, 30)
    assert -3 <= first <= 0 and -3 <= second <= 0 and first != second


async def test_weights_must_be_there_and_an_end_is_an_end(engine, tiny_model, tmp_path):
    await engine.load_weights(tiny_model)
    with pytest.raises(WeightError, match=r"no \*.safetensors"):
        await engine.load_weights(str(tmp_path))
    await engine.check_health()
    await engine.shutdown()
    with pytest.raises(EngineError, match="was shut down"):
        await engine.check_health()


def test_it_is_one_setting_of_a_run():
    words = ["prompts=p.jsonl", "method.structured=true", "models.actor.engine=simulated"]
    model = resolve("meta_rewarding", [*words, "models.actor.simulated.load_s=2"], "cpu").models["actor"]
    assert (model.engine, model.simulated.load_s) == ("simulated", 2.0)
    assert ModelConfig(engine="simulated").simulated == SimulatedConfig()
