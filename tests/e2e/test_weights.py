"""After an update the live engine is the engine that one would have started on the new weights."""

import asyncio
import shutil
from pathlib import Path

import pytest

from actors.chat import ChatFormat
from actors.engine import Request, WeightError
from pipelines.config import ModelConfig

pytestmark = pytest.mark.slow
CONFIG = ModelConfig(kv_cache_gib=1.0, max_model_len=1024, max_num_seqs=32, enforce_eager=True)
QUESTIONS = [f"What is {n} plus {n + 3}, and why do people count {n} apples?" for n in range(20)]


@pytest.fixture(scope="module")
def perturbed(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real model with every tensor moved a little; embeddings stay tied."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("weights") / "perturbed"
    shutil.copytree(smollm2, folder)
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    moved = {
        name: (t.float() * (1 + 0.05 * torch.randn(t.shape, generator=generator))).to(t.dtype)
        for name, t in tensors.items()
    }
    assert "lm_head.weight" not in moved, "the point of this test is a tied output head"
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


async def _next_tokens(engine, chat: ChatFormat) -> tuple[list[float], list[float]]:
    """Log-probabilities of single tokens, from one prefill for all, and from one a response of two tokens."""
    prompt = chat.render([{"role": "user", "content": f"{QUESTIONS[0]} Reply yes or no."}])
    tokens = [chat.encode(word)[0] for word in ("yes", "no", "Yes", "No", "7")]
    together = await engine.score(prompt, [[token] for token in tokens])
    apart = await engine.score(prompt, [[token, token] for token in tokens])
    return [logp for (logp,) in together], [logps[0] for logps in apart]


async def _scores(engine, chat: ChatFormat) -> list[list[float]]:
    prompts = [chat.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    answer = chat.encode("It is a number that people use when they count things one after another.")
    return [(await engine.score(prompt, [answer]))[0] for prompt in prompts]


def test_scores_after_an_update_equal_those_of_a_fresh_engine(smollm2: str, perturbed: str, tmp_path: Path) -> None:
    from actors.vllm_engine import VllmEngine

    chat = ChatFormat.load(smollm2)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")

    async def updated() -> tuple[list, list, list]:
        engine = await VllmEngine.start(smollm2, CONFIG)
        try:
            before = await _scores(engine, chat)
            question = chat.render([{"role": "user", "content": QUESTIONS[0]}])
            await engine.generate(Request("warm", question, max_tokens=8))
            together, apart = await _next_tokens(engine, chat)
            assert together == pytest.approx(apart, abs=0.1)  # bfloat16, prompts of different lengths
            with pytest.raises(WeightError):
                await engine.load_weights(str(broken))
            await engine.load_weights(perturbed)
            after = await _scores(engine, chat)
            await engine.load_weights(smollm2)
            return before, after, await _scores(engine, chat)
        finally:
            await engine.shutdown()

    async def fresh() -> list:
        engine = await VllmEngine.start(perturbed, CONFIG)
        try:
            return await _scores(engine, chat)
        finally:
            await engine.shutdown()

    before, after, back = asyncio.run(updated())
    assert after == asyncio.run(fresh())  # bit for bit, tied embeddings included
    assert back == before
    assert after != before
