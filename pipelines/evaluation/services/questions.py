"""Questions to a judge in an evaluation: a template filled, a reply read, and why where it says nothing.

The same question gets the same seed in whatever file and place it stands, so that an evaluation can be repeated.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt

from actors.protocols import PROTOCOLS
from actors.verdicts import Reading
from pipelines.config import Sampling
from pipelines.evaluation.asking import CONCURRENCY
from pipelines.prompts import load
from pipelines.records import Message, digest, new_group, record_id, record_seed
from pipelines.steps.make_prompts import given_sample
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

TOO_LONG = "prompt_too_long"
Value = TypeVar("Value")


class AskingSettings(Strict):
    """What every evaluation that asks a model can be told."""

    limit: PositiveInt | None = Field(None, description="rows read, all when empty")
    max_tokens: PositiveInt = Field(512, description="longest reply, tokens")
    temperature: float = Field(0.0, ge=0, description="of judgements; 0 is greedy")
    structured: bool = Field(False, description="let the engine hold verdicts to their form")
    seed: NonNegativeInt = 0


class Answer(NamedTuple, Generic[Value]):
    """What a reply says. `status` is that of its reading, or prompt_too_long; `value` is None unless it is ok."""

    value: Value | None
    status: str
    text: str


class Asker:
    """Asks one model, as many questions at a time as its engine takes."""

    def __init__(self, judging: "Judging", evaluation: str, settings: AskingSettings):
        from actors.judge import Judge  # here, for it loads Ray, and evaluations are listed without
        from actors.speaker import PromptTooLong

        self._judging, self._judge, self._too_long = judging, Judge(judging.speaker), PromptTooLong
        self._evaluation, self._settings = evaluation, settings
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._number = itertools.count()

    async def read(
        self, template: str, parse: Callable[[str, bool], Reading[Value]], variables: dict[str, Any],
        attempt: int = 0, n: int = 1, temperature: float | None = None,
    ) -> list[Answer[Value]]:
        """`n` replies to a filled template, each read by `parse(text, truncated)`; another `attempt`, other seeds."""
        messages = [Message(role="user", content=load(template).render(**variables))]
        place = self._place(template, messages[0]["content"], attempt)
        sampling = self._sampling(n, temperature)
        async with self._slots:
            try:
                replies = await self._judging.speaker.reply(
                    messages, sampling, record_seed(*place), self._request_id(place), self._judging.weight_version
                )
            except self._too_long:
                return [Answer(None, TOO_LONG, "")] * n
        return [Answer(*parse(c.text, c.finish_reason == "length"), c.text) for c in replies]

    async def judge(
        self, protocol: str, template: str, prompt: str, response: str, gold: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Answer[Any]:
        """One judgement of `response`, by the protocol's form and the variables that judge templates read."""
        place = self._place(template, prompt, response, gold, meta)
        group = new_group([Message(role="user", content=prompt)], gold=gold, meta=meta)
        sample = given_sample(group["prompt_id"], 0, "given", response)
        async with self._slots:
            try:
                (reply,) = await self._judge.ask(
                    group, [sample], protocol, self._sampling(1, None), record_seed(*place),
                    self._request_id(place), self._judging.weight_version, 0, template, self._settings.structured,
                )
            except self._too_long:
                return Answer(None, TOO_LONG, "")
        return Answer(*PROTOCOLS[protocol].read(reply.text, reply.finish_reason == "length"), reply.text)

    def _sampling(self, n: int, temperature: float | None) -> Sampling:
        hot = self._settings.temperature if temperature is None else temperature
        return Sampling(n=n, temperature=hot, max_tokens=self._settings.max_tokens)

    def _request_id(self, place: tuple[int, str, int, str, str]) -> str:
        """Another one for a question that comes again: an engine tells its requests apart by their ids."""
        return f"{record_id(*place)}-{next(self._number)}"

    def _place(self, template: str, *asked: Any) -> tuple[int, str, int, str, str]:
        return self._settings.seed, self._evaluation, 0, digest(*asked)[:24], template


def as_text(text: str, truncated: bool = False) -> Reading[str]:
    """A reply that is taken as it is; missing where it is blank, truncated where it was cut off."""
    if truncated:
        return Reading(None, "truncated")
    return Reading(text.strip(), "ok") if text.strip() else Reading(None, "missing")
