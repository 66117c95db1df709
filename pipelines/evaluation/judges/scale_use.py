"""How a judge uses its scale, and how far repeated judgements agree. Pure."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.judges.verdict_numbers import share


def scale_estimates(scores: Sequence[float], scale: tuple[int, int] | None) -> dict[str, Estimate]:
    """Share of scores at the ends and at the most frequent value, and the entropy of the histogram.

    `scale` are its ends; the lowest and highest score given where it is not known. The entropy is of whole-number bins,
    as a share of that of an even use of the scale: 0 says one value alone, 1 all values equally.
    """
    if not scores:
        return {}
    low, high = scale or (math.floor(min(scores)), math.ceil(max(scores)))
    bins = Counter(round(score) for score in scores)
    ends = [(i, float(round(s) <= low or round(s) >= high)) for i, s in enumerate(scores)]
    most = [(i, float(round(s) == bins.most_common(1)[0][0])) for i, s in enumerate(scores)]
    steps = high - low + 1
    entropy = -math.fsum(n / len(scores) * math.log(n / len(scores)) for n in bins.values())
    even = Estimate(value=entropy / math.log(steps) + 0.0, n=len(scores)) if steps > 1 else Estimate(
        value=None, n=len(scores), why="a scale of one value"
    )
    return {"scores at the ends": share(ends, ""), "scores at the most frequent": share(most, ""), "scale used": even}


def scale_rows(scores: Sequence[float]) -> list[dict[str, Any]]:
    """The histogram in whole-number bins, one row a bin."""
    bins = Counter(round(score) for score in scores)
    return [{"score": value, "given": bins[value], "share": bins[value] / len(scores)} for value in sorted(bins)]


def retest_verdicts(repeated: Sequence[tuple[int, Sequence[str | None]]], seed: int = 0) -> Estimate:
    """Share of two readable votes on one question, drawn at random, that say the same: (row, votes) of each question.

    Questions with fewer than two readable votes say nothing.
    """
    found = []
    for row, votes in repeated:
        pairs = list(itertools.combinations([vote for vote in votes if vote is not None], 2))
        if pairs:
            found.append((row, sum(a == b for a, b in pairs) / len(pairs)))
    return share(found, "no question was judged twice", seed)


def retest_scores(repeated: Sequence[tuple[int, Sequence[float]]], seed: int = 0) -> Estimate:
    """Mean absolute difference of two scores of one response, drawn at random: (row, scores) of each response."""
    found = []
    for row, scores in repeated:
        pairs = list(itertools.combinations(scores, 2))
        if pairs:
            found.append((row, math.fsum(abs(a - b) for a, b in pairs) / len(pairs)))
    return share(found, "no response was scored twice", seed)
