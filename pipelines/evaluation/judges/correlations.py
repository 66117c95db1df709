"""How well scores follow gold scores, at three levels. Pure.

Levels as in SummEval (2007.12626) and BARTScore (2106.11520): `summary` is the mean over documents of the correlation
among one document's summaries, `system` the correlation of the systems' mean scores, `dataset` that of all at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.correlation import correlation
from pipelines.evaluation.intervals import bootstrap_interval

RESAMPLES = 500
REPORTED = ("spearman", "kendall", "pearson")


class Scored(NamedTuple):
    """One text with its gold score and the judge's, which is None where it abstained."""

    group: str  # the document or prompt it belongs to
    system: str | None
    gold: float
    score: float | None


def correlation_estimates(items: Sequence[Scored], seed: int = 0) -> dict[str, Estimate]:
    """Every statistic at every level that the data have, by name (`system spearman`); abstentions are left out.

    Intervals draw groups: texts about one document are not independent. Groups in which one side does not vary have no
    correlation and are left out of the summary level, whose n is the number of groups that have one.
    """
    known = [item for item in items if item.score is not None]
    if not known:
        return {name: Estimate(value=None, n=0, why="no readable score") for name in REPORTED}
    gold, scores = (np.asarray([float(getattr(item, side)) for item in known]) for side in ("gold", "score"))
    groups = np.unique([item.group for item in known], return_inverse=True)[1]
    systems = [item.system for item in known]
    found: dict[str, Estimate] = {}
    for name in REPORTED:
        statistic = partial(correlation, name)
        if groups.max() + 1 < len(known):
            found[f"summary {name}"] = _within(gold, scores, groups, statistic, seed)
        if None not in systems and len(set(systems)) > 1:
            which = np.unique(np.asarray(systems, dtype=str), return_inverse=True)[1]
            found[f"system {name}"] = _between(gold, scores, which, groups, statistic, seed)
        found[f"dataset {name}"] = _estimate(
            statistic(gold, scores), len(known), statistic, (gold, scores), groups, seed
        )
    return found


def _within(gold: np.ndarray, scores: np.ndarray, groups: np.ndarray, statistic: Any, seed: int) -> Estimate:
    some = [statistic(gold[groups == g], scores[groups == g]) for g in range(groups.max() + 1)]
    defined = [value for value in some if value is not None]
    if not defined:
        return Estimate(value=None, n=0, why="no group in which gold and scores vary")
    mean = float(np.mean(defined))
    return Estimate(value=mean, interval=bootstrap_interval(np.mean, defined, seed=seed), n=len(defined))


def _between(
    gold: np.ndarray, scores: np.ndarray, systems: np.ndarray, groups: np.ndarray, statistic: Any, seed: int
) -> Estimate:
    def of_means(gold: np.ndarray, scores: np.ndarray, systems: np.ndarray) -> float | None:
        counts = np.bincount(systems)
        there = counts > 0
        means = [np.bincount(systems, side)[there] / counts[there] for side in (gold, scores)]
        return statistic(*means)

    n = int(systems.max()) + 1
    return _estimate(of_means(gold, scores, systems), n, of_means, (gold, scores, systems), groups, seed)


def _estimate(
    value: float | None, n: int, statistic: Any, columns: tuple[np.ndarray, ...], groups: np.ndarray, seed: int
) -> Estimate:
    if value is None:
        return Estimate(value=None, n=n, why="gold or scores do not vary")
    ends = bootstrap_interval(statistic, *columns, clusters=groups, resamples=RESAMPLES, seed=seed)
    return Estimate(value=value, interval=ends, n=n)
