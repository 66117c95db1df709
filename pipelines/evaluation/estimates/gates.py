"""How the thresholds of a gate (actors/gates.py) are chosen, and how well scores rank and are calibrated. Pure.

Scores rise with the chance of being right. `correct` is 1 where the item is right and 0 where it is not. An abstention
has no score: it is no item of a curve, and a gate does not accept it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri

from actors.gates import Gate
from pipelines.evaluation.intervals import Interval

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Boundary:
    """Which scores are accepted at which uncertainty: at least `thresholds[l]` in level l.

    `edges` are the highest uncertainties of all levels but the last, ascending, so there is one more threshold than
    edges; no edge is a plain threshold. An infinite threshold accepts nothing.
    """

    thresholds: tuple[float, ...]
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.thresholds) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("a boundary has ascending edges and one more threshold than edges")

    def accepts(self, scores: Values, uncertainties: Values | None = None) -> np.ndarray:
        """True [n] for each accepted item of `scores` [n]; without `uncertainties` [n] all are in the last level."""
        scores = np.asarray(scores, dtype=np.float64)
        last = np.full(scores.shape, len(self.edges))
        levels = last if uncertainties is None else np.searchsorted(self.edges, uncertainties, side="left")
        return scores >= np.asarray(self.thresholds)[levels]

    def floors(self) -> tuple[float | None, ...]:
        """The thresholds as a gate has them: None where nothing is accepted."""
        return tuple(None if math.isinf(threshold) else threshold for threshold in self.thresholds)


def precision_bound(right: int, n: int, level: float = 0.95) -> float:
    """One-sided lower confidence bound of a share, exact (Clopper and Pearson 1934); 0 without items."""
    return float(betaincinv(right, n - right + 1, 1 - level)) if right else 0.0


def choose_threshold(scores: Values, correct: Values, precision: float, level: float = 0.95) -> float | None:
    """A low score from which on at least `precision` of new items are right, with confidence `level`; None for none.

    The lower confidence bound decides, never the share found. Thresholds are tried by halving and the level is shared
    among the tries (Geifman and El-Yaniv 2017, 1705.08500, algorithm 1), so that trying many costs no validity; the
    items must be a random sample of those to come.
    """
    scores, correct = _columns(scores, correct)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # last item of each distinct score
    right = np.cumsum(correct[order])[ends]
    tries = max(1, math.ceil(math.log2(len(ends) + 1)))
    low, high, chosen = 0, len(ends) - 1, None
    while low <= high:
        middle = (low + high) // 2
        bound = precision_bound(int(right[middle]), int(ends[middle]) + 1, 1 - (1 - level) / tries)
        if bound >= precision:
            chosen, low = float(scores[order][ends[middle]]), middle + 1
        else:
            high = middle - 1
    return chosen


def choose_gate(
    scores: Values, correct: Values, precision: float, level: float = 0.95, label_share: float = 0.0,
    coverage: float | None = None, score: str = "score", scale: tuple[float, float] | None = None,
) -> Gate:
    """The gate at the threshold of `choose_threshold`; of all items, the best `label_share` below it go to labelling.

    With a `coverage` the best of that share of the items are kept, more where scores are equal, whatever is right.
    """
    scores, correct = _columns(scores, correct)
    if coverage is None:
        chosen = choose_threshold(scores, correct, precision, level)
    else:
        chosen = float(np.sort(scores)[::-1][max(1, math.ceil(coverage * len(scores))) - 1])
    kept = Boundary((math.inf if chosen is None else chosen,)).accepts(scores)
    return Gate(
        method="threshold" if coverage is None else "coverage", score=score, scale=scale, thresholds=(chosen,),
        label_from=label_floor(scores, kept, label_share),
        required_precision=precision if coverage is None else None, required_coverage=coverage, level=level,
        promised=coverage is None and chosen is not None,
    )


def label_floor(scores: Values, kept: np.ndarray, share: float) -> float | None:
    """The score from which on items that are not `kept` go to labelling: the best, `share` of all; None for none.

    A share too small for one item still sends abstentions there, which have no score.
    """
    if not share:
        return None
    scores = np.asarray(scores, dtype=np.float64)
    left = np.sort(scores[~kept])[::-1]
    routed = min(len(left), math.floor(share * len(scores)))
    return float(left[routed - 1]) if routed else float(scores.max())


def items_needed(precision: float, level: float = 0.95) -> int:
    """Accepted items, all right, that a single threshold needs before it can promise `precision` at all."""
    return math.ceil(math.log(1 - level) / math.log(precision)) if precision > 0 else 1


def coverage_curve(scores: Values, correct: Values, axis: int = -1) -> np.ndarray:
    """Accuracy of the k items with the highest scores, for k = 1..n; `correct` [..., n] gives [..., n].

    Among equal scores the expected accuracy of a random order is taken, so the order of the items never matters. The
    selective risk at coverage k/n (El-Yaniv and Wiener 2010) is one minus this.
    """
    scores, correct = (np.moveaxis(np.asarray(x, dtype=np.float64), axis, -1) for x in (scores, correct))
    order = np.argsort(-scores, axis=-1, kind="stable")
    scores, correct = (np.take_along_axis(x, order, -1) for x in (scores, correct))
    starts = np.diff(scores, axis=-1, prepend=np.inf) != 0
    block = np.cumsum(starts.ravel()) - 1  # rows begin with a start, so blocks never cross them
    means = np.bincount(block, correct.ravel()) / np.bincount(block)
    smooth = means[block].reshape(correct.shape)
    curve = np.cumsum(smooth, axis=-1) / np.arange(1, correct.shape[-1] + 1)
    return np.moveaxis(curve, -1, axis)


def selective_auc(scores: Values, correct: Values, axis: int = -1) -> np.ndarray:
    """Area under accuracy against coverage, the mean of `coverage_curve` (R16, 2312.09300); [..., n] to [...]."""
    return coverage_curve(scores, correct, axis).mean(axis)


def aurc(scores: Values, correct: Values, axis: int = -1) -> np.ndarray:
    """Area under the risk-coverage curve (Geifman and others 2019, 1805.08206): one minus the selective AUC."""
    return 1 - selective_auc(scores, correct, axis)


def calibration_auc(scores: Values, correct: Values) -> float | None:
    """Chance that a right item scores above a wrong one, equal scores counted half (R16: the ROC-AUC of the score).

    None where all items are right, or none.
    """
    scores, correct = _columns(scores, correct)
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share the mean of their ranks
    right = correct.sum()
    pairs = right * (len(correct) - right)
    return float((ranks[correct == 1].sum() - right * (right + 1) / 2) / pairs) if pairs else None


def auc_interval(area: float, right: int, wrong: int, level: float = 0.95) -> Interval:
    """Interval of a `calibration_auc` of `right` and `wrong` items, inside [0, 1] and never of width 0.

    The areas whose own standard error (Hanley and McNeil 1982) explains the distance to `area`: Newcombe 2006,
    Statistics in Medicine 25, 559-573, method 5.
    """
    z = -float(ndtri((1 - level) / 2))
    half = (right + wrong) / 2 - 1

    def far(truth: float) -> bool:
        variance = truth * (1 - truth) * (1 + half * ((1 - truth) / (2 - truth) + truth / (1 + truth)))
        return (area - truth) ** 2 > z * z * variance / (right * wrong)

    ends = []
    for outer in (0.0, 1.0):
        inner = area
        for _ in range(60):
            middle = (outer + inner) / 2
            inner, outer = (inner, middle) if far(middle) else (middle, outer)
        ends.append(inner)
    return ends[0], ends[1]


class ReliabilityBin(NamedTuple):
    """Items whose confidence lies in [low, high): how many, their mean confidence, and the share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidences: Values, correct: Values, bins: int = 10) -> list[ReliabilityBin]:
    """Bins of equal width over 0..1 that hold items; the last one includes 1. Raises ValueError outside of 0..1."""
    confidences, correct = _columns(confidences, correct)
    if ((confidences < 0) | (confidences > 1)).any():
        raise ValueError("a confidence is a number from 0 to 1")
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            which / bins, (which + 1) / bins, int(inside.sum()), float(confidences[inside].mean()),
            float(correct[inside].mean()),
        )
        for which in range(bins)
        if (inside := place == which).any()
    ]


def calibration_error(confidences: Values, correct: Values, bins: int = 10) -> float:
    """ECE: the bins' distance between confidence and accuracy, weighted by items (Guo and others 2017, 1706.04599)."""
    table = reliability(confidences, correct, bins)
    return math.fsum(row.n * abs(row.confidence - row.accuracy) for row in table) / len(np.asarray(correct))


def calibration_error_by_chance(confidences: Values, bins: int = 10) -> float:
    """The ECE to expect of perfectly calibrated confidences on so many items: it is above 0 because items are few.

    In each bin |accuracy - confidence| is about half-normal with the variance mean(p(1 - p)) / n.
    """
    confidences = np.asarray(confidences, dtype=np.float64)
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    inside = [confidences[place == which] for which in range(bins)]
    return math.fsum(math.sqrt(2 / math.pi * len(p) * float((p * (1 - p)).mean())) for p in inside if len(p)) / len(
        confidences
    )


def brier(confidences: Values, correct: Values, axis: int = -1) -> np.ndarray:
    """Mean squared distance between confidence and outcome (Brier 1950); [..., n] to [...]."""
    return ((np.asarray(confidences, dtype=np.float64) - np.asarray(correct, dtype=np.float64)) ** 2).mean(axis)


def _columns(scores: Values, correct: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays [n]; raises ValueError for unequal lengths, no item, or a value that is not finite."""
    found = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if found[0].shape != found[1].shape or found[0].ndim != 1 or not len(found[0]):
        raise ValueError("scores and correct are columns of one length with at least one item")
    if not np.isfinite(found[0]).all() or not np.isin(found[1], (0.0, 1.0)).all():
        raise ValueError("a score is not finite, or a label is neither 0 nor 1; leave abstentions out")
    return found
