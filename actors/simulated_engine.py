"""An engine without a model: it takes its time as a GPU engine would, and replies follow from prompt and seed alone.

With it a cluster run can be rehearsed before it costs a GPU: streams, weight updates, faults and the endpoint are real.
A reply is a few plain words, closed by the verdict or the answer that the prompt asks for, so that pairs come out.
"""

import asyncio
import os
import random
from typing import Any

from actors.checkpoints import CheckpointError, weight_files
from actors.engine import Completion, EngineError, Request, UnsupportedRequest, WeightError
from actors.protocols import PROTOCOLS
from pipelines.config import ModelConfig, SimulatedConfig
from pipelines.records import digest

WORDS = ("the", "a", "of", "and", "to", "in", "is", "it", "for", "that", "on", "with", "as", "at", "this", "but")
ENDS = tuple((p.verdict.lead, p.verdict.choices) for p in PROTOCOLS.values() if p.verdict.lead)
ANSWER = ("Final answer: ", tuple(map(str, range(10))))


class SimulatedEngine:
    """Sequences take turns in `max_num_seqs` slots; each costs its prompt's and its reply's tokens in time."""

    def __init__(self, tokenizer: Any, slots: int, settings: SimulatedConfig):
        self._tokenizer, self._settings = tokenizer, settings
        self._slots = asyncio.Semaphore(slots)
        self._running: dict[str, asyncio.Event] = {}
        self._closed = False

    @classmethod
    async def start(cls, path: str, config: ModelConfig) -> "SimulatedEngine":
        """The engine that answers with the tokenizer of the checkpoint in folder `path`."""
        from transformers import AutoTokenizer

        tokenizer: Any = await asyncio.to_thread(AutoTokenizer.from_pretrained, path, local_files_only=True)
        await asyncio.sleep(config.simulated.start_s)
        return cls(tokenizer, config.max_num_seqs, config.simulated)

    async def generate(self, request: Request) -> list[Completion]:
        """`request.n` completions; sample i depends on the prompt and on seed + i alone."""
        aborted = self._running.setdefault(request.request_id, asyncio.Event())
        try:
            return list(await asyncio.gather(*(self._reply(request, i, aborted) for i in range(request.n))))
        finally:
            self._running.pop(request.request_id, None)

    async def abort(self, request_id: str) -> None:
        """Stop working on a request."""
        if request_id in self._running:
            self._running[request_id].set()

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        """Numbers between -3 and 0 that follow from the tokens."""
        async with self._slots:
            tokens = len(prompt_ids) + sum(map(len, responses))
            await asyncio.sleep(tokens / self._settings.prefill_tokens_per_s)
        drawn = [random.Random(digest("score", prompt_ids, response)) for response in responses]
        return [[-3 * rng.random() for _ in response] for rng, response in zip(drawn, responses, strict=True)]

    async def load_weights(self, path: str) -> None:
        """Check that there are weights in folder `path`, and take as long as loading them would."""
        try:
            weight_files(path)
        except (OSError, CheckpointError) as error:
            raise WeightError(str(error)) from error
        await asyncio.sleep(self._settings.load_s)

    async def check_health(self) -> None:
        """Only an engine that was shut down is ill."""
        if self._closed:
            raise EngineError("the engine was shut down")

    async def shutdown(self) -> None:
        """Stop all that runs."""
        self._closed = True
        for aborted in self._running.values():
            aborted.set()

    async def _reply(self, request: Request, index: int, aborted: asyncio.Event) -> Completion:
        seed = None if request.seed is None else request.seed + index
        rng = random.Random(digest("reply", request.prompt_ids, os.urandom(8).hex() if seed is None else seed))
        ids, finish = self._ids(self._text(request, rng), request.max_tokens)
        async with self._slots:
            settings = self._settings
            cost_s = len(request.prompt_ids) / settings.prefill_tokens_per_s + len(ids) / settings.decode_tokens_per_s
            try:
                await asyncio.wait_for(aborted.wait(), cost_s)
                return Completion(index, "", [], "abort", seed, "")
            except TimeoutError:
                pass
        return Completion(index, self._tokenizer.decode(ids, skip_special_tokens=True), ids, finish, seed, "")

    def _text(self, request: Request, rng: random.Random) -> str:
        if request.structured:
            if "choice" not in request.structured:
                raise UnsupportedRequest("the simulated engine knows structured choices only; use engine=vllm")
            return rng.choice(request.structured["choice"])
        words = [rng.choice(WORDS) for _ in range(rng.randint(self._settings.words // 4, self._settings.words))]
        prompt = self._tokenizer.decode(request.prompt_ids)
        # Two kinds of verdict share a lead; the choices that the prompt shows tell them apart.
        asked = max((*ENDS, ANSWER), key=lambda e: (prompt.rfind(e[0].strip()), all(c in prompt for c in e[1])))
        if asked[0].strip() not in prompt:
            return " ".join(words)
        return f"{' '.join(words)}.\n{asked[0]}{rng.choice(asked[1])}"

    def _ids(self, text: str, max_tokens: int) -> tuple[list[int], Any]:
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [*ids, self._tokenizer.eos_token_id]
        return (ids, "stop") if len(ids) <= max_tokens else (ids[:max_tokens], "length")
