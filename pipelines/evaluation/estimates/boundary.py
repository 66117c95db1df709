"""Decision boundaries in the plane of score and uncertainty (R17, 2311.11723). Pure.

One threshold on the score takes items of all uncertainties alike, though a score is biased differently where the judge
is unsure. Three rules are fitted here, all of them a score threshold for each level of uncertainty: exact cuts of
binned scores by dynamic programming, thresholds of the isotonic probabilities of each level (MIST), and one threshold.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.evaluation.estimates.gates import Boundary, Values

SLACK = 1e-9  # of rounding: 56 of 70 are a precision of 0.8


class Cuts(NamedTuple):
    """The top `cuts[l]` score bins of each uncertainty level l are accepted: so many items, so many of them right."""

    cuts: tuple[int, ...]
    positives: int
    accepted: int


def best_cuts(positives: Sequence[Sequence[int]], items: Sequence[Sequence[int]], precision: float) -> Cuts:
    """The cuts that accept the most positives with at least `precision` of the accepted being positive, exactly.

    `positives[l][b]` of `items[l][b]` items of level l are right in its b-th best bin. The recurrence is that of the
    paper's equal-weight case, R[l][m] = max_j R[l-1][m - items_j] + P_l(j), over m accepted items instead of bins, so
    bins of unequal weight are solved exactly too (in time that grows with the number of items; the problem is NP-hard
    only in the weights' length). Equal positives: the cuts with the fewest accepted items.
    """
    unit = math.gcd(*(weight for row in items for weight in row)) or 1
    total = sum(weight for row in items for weight in row) // unit
    best = np.full(total + 1, -1, dtype=np.int64)  # most positives with exactly m units accepted; -1 for impossible
    best[0] = 0
    chosen: list[np.ndarray] = []
    for won, weights in zip(positives, items, strict=True):
        after, which = best.copy(), np.zeros(total + 1, dtype=np.int64)
        for cut, (size, gained) in enumerate(zip(np.cumsum(weights) // unit, np.cumsum(won), strict=True), 1):
            before = best[: total + 1 - size]
            reached = np.where(before >= 0, before + gained, -1)
            better = reached > after[size:]
            after[size:][better], which[size:][better] = reached[better], cut
        best = after
        chosen.append(which)
    fits = best >= precision * np.arange(total + 1) * unit - SLACK
    units = int(np.argmax(np.where(fits, best, -1)))  # the first maximum has the fewest items
    left, cuts = units, []
    for which, weights in zip(reversed(chosen), reversed(items), strict=True):
        cuts.append(int(which[left]))
        left -= sum(weights[: cuts[-1]]) // unit
    return Cuts(tuple(reversed(cuts)), int(best[units]), units * unit)


def quantile_edges(values: Values, bins: int) -> tuple[float, ...]:
    """Highest values of all bins but the last when `values` are cut into `bins` of about equal size; equal edges merge.

    Few distinct values (the variance of three judgements, say) give fewer bins, and never an empty one.
    """
    values = np.asarray(values, dtype=np.float64)
    edges = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    return tuple(float(edge) for edge in np.unique(edges) if edge < values.max())


def fit_single(scores: Values, correct: Values, precision: float) -> Boundary:
    """The threshold on the score that accepts the most right items at `precision`; the fallback of R17."""
    return Boundary((_lowest(np.asarray(scores, dtype=np.float64), np.asarray(correct), precision),))


def fit_cuts(
    scores: Values, uncertainties: Values, correct: Values, precision: float, levels: int = 5, bins: int = 10
) -> Boundary:
    """`best_cuts` over quantile `levels` of uncertainty, and quantile `bins` of the score within each."""
    scores, correct = np.asarray(scores, dtype=np.float64), np.asarray(correct)
    edges = quantile_edges(uncertainties, levels)
    level = np.searchsorted(edges, uncertainties, side="left")
    floors: list[list[float]] = []  # lowest score of each bin, best bin first
    positives: list[list[int]] = []
    items: list[list[int]] = []
    for which in range(len(edges) + 1):
        mine, right = scores[level == which], correct[level == which]
        bin_of = np.searchsorted(quantile_edges(mine, bins), mine, side="left")
        order = range(int(bin_of.max()), -1, -1)
        floors.append([float(mine[bin_of == b].min()) for b in order])
        positives.append([int(right[bin_of == b].sum()) for b in order])
        items.append([int((bin_of == b).sum()) for b in order])
    found = best_cuts(positives, items, precision)
    return Boundary(
        tuple(floor[cut - 1] if cut else math.inf for floor, cut in zip(floors, found.cuts, strict=True)), edges
    )


def fit_isotonic(
    scores: Values, uncertainties: Values, correct: Values, precision: float, levels: int = 5
) -> Boundary:
    """MIST: in each level the chance of being right given the score by isotonic regression, then one threshold on it.

    The chance rises with the score, so the one threshold on it is a score threshold in each level.
    """
    from scipy.optimize import isotonic_regression

    scores, correct = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = quantile_edges(uncertainties, levels)
    level = np.searchsorted(edges, uncertainties, side="left")
    chance = np.empty(len(scores))
    for which in range(len(edges) + 1):
        mine = level == which
        _, place, count = np.unique(scores[mine], return_inverse=True, return_counts=True)
        share = np.bincount(place, correct[mine]) / count  # equal scores are one point, or their order would matter
        chance[mine] = isotonic_regression(share, weights=count).x[place]
    chance = chance.round(12)  # blocks of one mean are equal, whatever was added first
    least = _lowest(chance, correct, precision)
    thresholds = [scores[(level == which) & (chance >= least)] for which in range(len(edges) + 1)]
    return Boundary(tuple(float(kept.min()) if len(kept) else math.inf for kept in thresholds), edges)


def _lowest(scores: np.ndarray, correct: np.ndarray, precision: float) -> float:
    """The lowest score from which on at least `precision` of the items are right; infinite where there is none."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    right = np.cumsum(correct[order])[ends]
    fits = np.flatnonzero((right >= precision * (ends + 1) - SLACK) & (right > 0))
    # more accepted never has fewer right; the shortest of equals has no wrong tail
    best = fits[np.argmax(right[fits])] if len(fits) else None
    return math.inf if best is None else float(scores[order][ends[best]])
