"""How often a model breaks a word limit that it was told, and how often it wins where breaking it loses (LIFT).

Violation rate and length-instructed win rate of 2406.17744 (R5): a response longer than its limit has lost to the
baseline, whatever its quality; the rest is a judge's preference. Limits may be scaled: a model that learned the limits
of its training data alone fails at half of them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from pipelines.evaluation.abilities.responses import (
    Answering,
    Answers,
    answered_notes,
    answered_result,
    asked_answers,
    first_responses,
    read_answered,
    recorded_answers,
)
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import read_columns
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.rates import average, rate
from pipelines.prompts import load
from pipelines.records import Message
from pipelines.steps.lengths import count_words, violates
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

TEMPLATE = "length_instructed"
Scale = Annotated[float, Field(gt=0)]


class Duel(NamedTuple):
    """What a judge compares: the instruction with its limit, a response that keeps to it, and the baseline."""

    prompt: str
    response: str
    baseline: str


# Preference for each response over its baseline: 1 a win, 0.5 a tie, 0 a loss, None where the judge was unreadable.
Compare = Callable[[list[Duel]], Awaitable[list[float | None]]]


COLUMNS = {"instruction": "text", "max_len": "number", "generator": "text", "baseline": "text", "preference": "number"}


class Settings(Answering):
    """`key=value` of `appellate eval length-instructed`."""

    key: str = Field("idx", description="column by which rows, `limits` and `problems` belong together")
    response: str = Field("output", description="column of a recorded response")
    limits: str | None = Field(None, description="file of limits by `key`, `max_len` words each; the rows' own else")
    scale: Scale | list[Scale] = Field(1.0, description="what limits are multiplied by; a list for several")
    max_tokens: PositiveInt = Field(1024, description="of an answer; one that is cut off there is counted as truncated")


class Limited(NamedTuple):
    """A response under a limit in words. `preference` is over the baseline, None where nobody said one."""

    generator: str
    problem: str
    words: int
    limit: int
    preference: float | None

    @property
    def violation(self) -> float:
        """1 where the response is longer than its limit."""
        return float(violates(self.words, self.limit))


def scaled_limit(limit: int, scale: float) -> int:
    """The whole words of a scaled limit, one at least."""
    return max(1, int(limit * scale))


def limited_prompt(instruction: str, limit: int) -> str:
    """An instruction with its limit, in the words of LIFT's data (2406.17744)."""
    return load(TEMPLATE).render(prompt=instruction, limit=limit)


def numbers(limited: Sequence[Limited]) -> dict[str, Estimate]:
    """Violation rate, length as a part of the limit, and win rate, of responses under one scale."""
    problems = [row.problem for row in limited]
    return {
        "violation_rate": rate([row.violation for row in limited], problems),
        "length_by_limit": average([row.words / row.limit for row in limited], problems),
        "win_rate": win_rate(limited),
    }


def win_rate(limited: Sequence[Limited]) -> Estimate:
    """The length-instructed win rate: the share that keeps to its limit, times the mean preference for those (R5).

    A response that is too long has lost. One without a preference is left out of the mean, so that a judge who is often
    unreadable does not pull the rate towards the losses. The interval is bootstrapped over problems.
    """
    kept = np.array([1 - row.violation for row in limited])
    known = np.array([row.preference is not None for row in limited]) * kept
    liked = np.array([row.preference or 0.0 for row in limited]) * known
    if all(row.preference is None for row in limited):
        return Estimate(value=None, n=0, why="nobody compared the responses with baselines")
    if kept.any() and not known.any():
        return Estimate(value=None, n=0, why="no response that keeps to its limit was compared")

    def statistic(kept: np.ndarray, known: np.ndarray, liked: np.ndarray, axis: int = -1) -> np.ndarray:
        count = known.sum(axis)
        liking = np.where(count > 0, liked.sum(axis) / np.maximum(count, 1), np.where(kept.sum(axis) > 0, np.nan, 0.0))
        return kept.mean(axis) * liking  # not defined where all that kept to their limits are unread

    interval = bootstrap_interval(statistic, kept, known, liked, clusters=[row.problem for row in limited])
    counted = int((1 - kept + known).sum())
    return Estimate(value=float(statistic(kept, known, liked)), interval=interval, n=counted)


def divide(limited: Sequence[Limited]) -> dict[str, dict[str, float | None]]:
    """Violation rate, and win rate where there is one, by generator; nothing where all are of one generator."""
    names = sorted({row.generator for row in limited})
    own = {name: numbers([row for row in limited if row.generator == name]) for name in names if len(names) > 1}
    found: dict[str, dict[str, float | None]] = {}
    for what in ("violation_rate", "win_rate"):
        values = {name: estimates[what].value for name, estimates in own.items()}
        if any(value is not None for value in values.values()):
            found[f"{what} by generator"] = values
    return found


class LengthInstructed(Evaluation):
    """LIFT's violation rate and win rate; `compare` asks a judge where rows have a `baseline` and no `preference`."""

    about = "how often a model breaks word limits, and wins where breaking them loses"
    settings = Settings
    judge = "optional"

    def __init__(self, compare: Compare | None = None):
        self.compare = compare

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        needed = {"instruction": "text"} if judge else {}
        rows = with_limits(data, read_answered(data, needed, COLUMNS, settings), settings)
        scales = settings.scale if isinstance(settings.scale, list) else [settings.scale]
        estimates: dict[str, Estimate] = {}
        tables: dict[str, dict[str, dict[str, Any]]] = {}  # by what is measured, generator and scale
        everybody: list[Answers] = []
        for scale in scales:
            scaled = [{**row, "max_len": scaled_limit(row["max_len"], scale)} for row in rows]
            answers = await asked(judge, scaled, settings) if judge else recorded_answers(data, rows, settings)
            limited = await self.limited(scaled, answers, settings)
            everybody += answers
            found = numbers(limited)
            if judge:
                found["truncated"] = rate([float(bool(given.one.truncated)) for given in answers if given.one])
            tag = f" x{scale:g}"
            estimates |= {name + (tag if len(scales) > 1 else ""): estimate for name, estimate in found.items()}
            for name, by_generator in divide(limited).items():
                for generator, value in by_generator.items():
                    tables.setdefault(name, {}).setdefault(generator, {"generator": generator})[tag.strip()] = value
        return Result(
            **answered_result("length-instructed", data, len(rows), judge, everybody, settings), estimates=estimates,
            tables={name: list(table.values()) for name, table in tables.items()} | first_responses(rows, everybody),
            notes=notes(settings, judge),
        )

    async def limited(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answers], settings: Settings
    ) -> list[Limited]:
        """The responses with lengths and preferences. A judge is asked only about those that keep to their limits."""
        made: list[Limited] = []
        duels: dict[int, Duel] = {}
        for number, (row, given) in enumerate(zip(rows, answers, strict=True)):
            if given.one is None:
                continue
            recorded = row.get("preference") if given.one.truncated is None else None  # it is of a recorded response
            found = Limited(row.get("generator", ""), str(row.get(settings.key, f"row {number}")),
                            count_words(given.one.text), row["max_len"], recorded)
            if recorded is None and not found.violation and {"baseline", "instruction"} <= set(row):
                prompt = limited_prompt(row["instruction"], found.limit)
                duels[len(made)] = Duel(prompt, given.one.text, row["baseline"])
            made.append(found)
        if self.compare is not None and duels:
            for place, preference in zip(duels, await self.compare(list(duels.values())), strict=True):
                made[place] = made[place]._replace(preference=preference)
        return made


async def asked(judge: "Judging", rows: Sequence[Mapping[str, Any]], settings: Settings) -> list[Answers]:
    """What a model answers to the instructions of `rows` under their limits `max_len`."""
    prompts = [limited_prompt(row["instruction"], row["max_len"]) for row in rows]
    return await asked_answers(judge, [[Message(role="user", content=prompt)] for prompt in prompts], settings)


def with_limits(data: str, rows: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Rows with `max_len`, their own or that of the file `limits`; raises InputError that says which row has none."""
    key = settings.key
    limits: dict[str, Any] = {}
    if settings.limits is not None:
        found = read_columns(settings.limits, {key: "label", "max_len": "number"}, {"baseline": "text"})
        limits = {str(row.pop(key)): row for row in found}
    made = [{**limits.get(str(row.get(key)), {}), **row} for row in rows]
    for number, row in enumerate(made, 1):
        where = f"{data}: row {number}"
        if "max_len" not in row:
            raise InputError(f"{where}: no max_len, and no row of limits={settings.limits} has its {key}")
        if not row["max_len"] >= 1:
            raise InputError(f"{where}: max_len is {row['max_len']}; a limit is one word or more")
        if not 0 <= row.get("preference", 0) <= 1:
            raise InputError(f"{where}: preference is {row['preference']}; it is 1 for a win, 0.5 a tie, 0 a loss")
    return made


def notes(settings: Settings, judge: "Judging | None") -> list[str]:
    """What a reader must know."""
    found = ["words are counted without markdown and bare signs, so a response may have fewer than by its white space"]
    if isinstance(settings.scale, list):
        found.append("limits are scaled: a row that abstains is counted once under each scale")
    if judge is not None:
        found.append("a response that was cut off may keep to its limit for that alone: see `truncated`")
    else:
        found.append("unless they were asked for under these limits, recorded responses show what lengths they have, "
                     "and not whether the model keeps to a limit")
    return found + answered_notes(judge, settings)


EVALUATION = LengthInstructed
