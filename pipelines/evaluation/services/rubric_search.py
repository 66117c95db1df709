"""A judge's rubric found without gradients (AutoCalibrate, 2309.13308; R19): draft, select by correlation, refine.

Nobody is asked here: drafts, edits and scores come from callables, so the schedule can be played with stub judges.
Items that choose a rubric never say how good it is: that is for the held-out half.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.evaluation.correlation import MEASURES
from pipelines.evaluation.intervals import Interval, bootstrap_interval
from pipelines.records import digest
from pipelines.strict import Strict

EDITS = (  # R19.2: a few atomic ones
    "say the same more clearly, in other words",
    "add one detail that the experts seem to look at and the criterion does not name",
    "change or leave out the one part that leads the judge astray",
    "say what earns a low, a middle and a high score",
)
MIN_ITEMS = 8  # four to choose by, four to report on
Measure = Literal["spearman", "mean"]


class Labelled(NamedTuple):
    """A text and the score that people gave it, on any scale."""

    response: str
    score: float
    prompt: str = ""


Score = Callable[[str, Sequence[Labelled]], Awaitable[Sequence[float | None]]]  # None: unreadable
Draft = Callable[[Sequence[Labelled], int], Awaitable[Sequence[str]]]  # from examples, by number of the draw
Refine = Callable[[str, Sequence[tuple[Labelled, float]], str], Awaitable[Sequence[str]]]  # rubric, misjudged, edit


class Plan(Strict):
    """How much is tried. Sizes, draws and samples are the paper's (R19.2); it leaves `keep` open."""

    sizes: list[PositiveInt] = Field([4, 6, 8, 10, 12], min_length=1, description="examples of a draft")
    draws: PositiveInt = Field(4, description="subsets and orders of each size")
    samples: PositiveInt = Field(3, description="drafts of each draw")
    keep: PositiveInt = Field(3, description="rubrics that are refined")
    rounds: NonNegativeInt = Field(3, description="most rounds of edits; the first without a gain is the last")
    shown: PositiveInt = Field(4, description="misjudged items that an edit sees")
    unreadable: float = Field(0.05, ge=0, lt=1, description="share of unreadable judgements that disqualifies a rubric")
    measure: Measure = Field("spearman", description="or mean: of Pearson's, Spearman's and Kendall's correlation")


class Merit(NamedTuple):
    """How a rubric does on some items. A constant judge has correlation -1 (R19.8)."""

    correlation: float
    unreadable: float
    disqualified: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better; every disqualified rubric is below every other."""
        return not self.disqualified, self.correlation


@dataclass(frozen=True)
class Candidate:
    """A rubric, where it comes from, and its scores and merit on the selection half."""

    rubric: str
    origin: str
    scores: Sequence[float | None]
    merit: Merit


@dataclass(frozen=True)
class Calibration:
    """The chosen rubric, everything that was tried, and both rubrics on the held-out half.

    `verdict`: better or worse where the interval of the difference of correlations leaves out 0; else not better.
    """

    best: Candidate
    start: Candidate
    tried: list[Candidate] = field(repr=False)
    held_out_start: Merit
    held_out_best: Merit
    intervals: tuple[Interval | None, Interval | None]  # of start and best on the held-out half
    interval: Interval | None  # of the difference
    n_selection: int
    n_held_out: int
    verdict: Literal["better", "not better", "worse"]
    why: str


def correlation(x: Any, y: Any, measure: Measure = "spearman", axis: int = -1) -> Any:
    """Correlation of scores and gold along the last axis, -1 where one side is constant (R19.8).

    "mean" is that of Pearson's, Spearman's and Kendall's (R19.3). Arrays [..., n] along `axis`.
    """
    names = (measure,) if measure != "mean" else tuple(MEASURES)
    found = sum(MEASURES[name](x, y, axis) for name in names) / len(names)
    return np.where(np.isnan(found), -1.0, found)[()]


def merit(scores: Sequence[float | None], gold: Sequence[float], plan: Plan) -> Merit:
    """The merit of a rubric's scores; unreadable ones are left out, and too many of them disqualify it (R19.3)."""
    known = [(s, g) for s, g in zip(scores, gold, strict=True) if s is not None]
    silent = 1 - len(known) / len(gold) if gold else 1.0
    judged, labels = [s for s, _ in known], [g for _, g in known]
    value = float(correlation(judged, labels, plan.measure)) if len(known) > 1 else -1.0
    return Merit(value, silent, silent > plan.unreadable)


def halves(items: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Items to choose by and items to report on, every second one by score so that both have all levels.

    Which of two neighbours goes where is drawn by `seed`. Raises ValueError for fewer than MIN_ITEMS.
    """
    if len(items) < MIN_ITEMS:
        raise ValueError(f"{len(items)} labelled items are too few to choose by and to report on; give {MIN_ITEMS}")
    order = sorted(items, key=lambda item: (item.score, digest("halves", seed, item)))
    parts: tuple[list[Labelled], list[Labelled]] = ([], [])
    for place in range(0, len(order), 2):
        first = int(digest("half", seed, place)[:8], 16) % 2
        for which, item in enumerate(order[place : place + 2]):
            parts[first ^ which].append(item)
    return parts


def example_sets(items: Sequence[Labelled], plan: Plan, seed: int) -> list[list[Labelled]]:
    """`plan.draws` subsets of each size, each in an order of its own: against label and position bias (R19.2)."""
    sizes = dict.fromkeys(min(size, len(items)) for size in plan.sizes)
    return [
        sorted(items, key=lambda item, size=size, draw=draw: digest("shots", seed, size, draw, item))[:size]
        for size in sizes for draw in range(plan.draws)
    ]


def select(candidates: Iterable[Candidate], keep: int = 1) -> list[Candidate]:
    """The `keep` best by correlation on the selection half; of equal ones the first; disqualified ones come last."""
    ranked = sorted(enumerate(candidates), key=lambda c: (not c[1].merit.rank[0], -c[1].merit.correlation, c[0]))
    return [candidate for _, candidate in ranked[:keep]]


def misjudged(scores: Sequence[float | None], items: Sequence[Labelled], count: int) -> list[tuple[Labelled, float]]:
    """The items whose score is farthest from people's, both brought to a scale from 0 to 1, with the judge's score."""
    known = [(item, s) for item, s in zip(items, scores, strict=True) if s is not None]
    judged, gold = _unit([s for _, s in known]), _unit([item.score for item, _ in known])
    order = sorted(range(len(known)), key=lambda i: (-abs(judged[i] - gold[i]), i))
    return [known[i] for i in order[:count]]


def _unit(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(v - low) / (high - low) if high > low else 0.5 for v in values]


async def calibrate(
    start: str, items: Sequence[Labelled], draft: Draft, refine: Refine, score: Score, plan: Plan, seed: int = 0
) -> Calibration:
    """The best rubric that drafts and edits of `start` lead to (R19.2), and whether it holds on the held-out half.

    An edit is kept only where it is better on the selection half, so nothing that is returned is worse there than
    `start`. Raises ValueError for too few items.
    """
    selection, held_out = halves(items, seed)
    gold = [item.score for item in selection]
    tried: dict[str, Candidate] = {}

    async def consider(rubrics: Iterable[tuple[str, str]]) -> list[Candidate]:
        fresh = {r.strip(): origin for r, origin in rubrics if r.strip() and r.strip() not in tried}
        scored = await asyncio.gather(*(score(rubric, selection) for rubric in fresh))
        for (rubric, origin), scores in zip(fresh.items(), scored, strict=True):
            tried[rubric] = Candidate(rubric, origin, scores, merit(scores, gold, plan))
        return [tried[rubric] for rubric in fresh]

    (first,) = await consider([(start, "start")])
    sets = example_sets(selection, plan, seed)
    drafts = await asyncio.gather(*(draft(examples, number) for number, examples in enumerate(sets)))
    await consider((text, f"draft from {len(of)}") for of, texts in zip(sets, drafts, strict=True) for text in texts)
    for kept in select(tried.values(), plan.keep):
        current = kept
        for _ in range(plan.rounds):
            wrong = misjudged(current.scores, selection, plan.shown)
            texts = await asyncio.gather(*(refine(current.rubric, wrong, edit) for edit in EDITS))
            edited = await consider((text, edit) for edit, made in zip(EDITS, texts, strict=True) for text in made)
            better = [c for c in edited if c.merit.rank > current.merit.rank]
            if not better:
                break
            (current,) = select(better)
    (best,) = select(tried.values())
    return await _report(first, best, list(tried.values()), held_out, len(selection), score, plan)


async def _report(
    start: Candidate, best: Candidate, tried: list[Candidate], held_out: list[Labelled], n: int, score: Score,
    plan: Plan,
) -> Calibration:
    """Both rubrics on items that chose neither."""
    gold = [item.score for item in held_out]
    before = await score(start.rubric, held_out)
    after = before if best is start else await score(best.rubric, held_out)
    merits = merit(before, gold, plan), merit(after, gold, plan)
    interval = gain_interval(before, after, gold, plan.measure)
    verdict, why = _verdict(start, best, merits, interval)
    each = [gain_interval(None, scores, gold, plan.measure) for scores in (before, after)]
    return Calibration(best, start, tried, *merits, (each[0], each[1]), interval, n, len(held_out), verdict, why)


def gain_interval(
    before: Sequence[float | None] | None, after: Sequence[float | None], gold: Sequence[float], measure: Measure
) -> Interval | None:
    """Bootstrap interval of the gain in correlation, or without `before` of the correlation; items are drawn together.

    None for fewer than two items that both could be read of.
    """
    of = after if before is None else before
    both = [(b, a, g) for b, a, g in zip(of, after, gold, strict=True) if b is not None and a is not None]
    if len(both) < 2:
        return None

    def gain(b: Any, a: Any, g: Any, axis: int = -1) -> Any:
        of_after = correlation(a, g, measure, axis)
        return of_after if before is None else of_after - correlation(b, g, measure, axis)

    return bootstrap_interval(gain, *map(list, zip(*both, strict=True)))


def _verdict(
    start: Candidate, best: Candidate, merits: tuple[Merit, Merit], interval: Interval | None
) -> tuple[Literal["better", "not better", "worse"], str]:
    if best is start:
        return "not better", "no draft and no edit beat the start rubric on the items that choose"
    if merits[1].disqualified:
        return "not better", f"{merits[1].unreadable:.0%} of its judgements on the held-out items are unreadable"
    if interval is None:
        return "not better", "the held-out items leave the difference undefined"
    shown = f"the interval of the held-out difference, {interval[0]:.3f} to {interval[1]:.3f}, "
    if interval[0] > 0:
        return "better", shown + "is above 0"
    if interval[1] < 0:
        return "worse", shown + "is below 0"
    return "not better", shown + "includes 0"
