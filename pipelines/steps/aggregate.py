"""Judgements become numbers: means, variances, and Elo scores with position weights. Pure and order-independent.

Sums are exactly rounded (math.fsum) and battles are counted before they are weighted, so that the order in which actors
replied cannot change a bit of the result.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.steps.newton import maximise


class Battle(NamedTuple):
    """One comparison: `first` was shown first. `result` is 1 when it won, -1 when `second` won, 0 for a tie."""

    first: Hashable
    second: Hashable
    result: int


def mean(values: Iterable[float]) -> float | None:
    """Mean of the readable scores, None when there are none (R8, 2401.10020 section 2)."""
    known = list(values)
    return math.fsum(known) / len(known) if known else None


def variance(values: Iterable[float]) -> float:
    """Population variance; raises ValueError without values."""
    known = list(values)
    centre = mean(known)
    if centre is None:
        raise ValueError("variance of no values")
    return math.fsum((value - centre) ** 2 for value in known) / len(known)


def position_weights(battles: Iterable[Battle]) -> tuple[float, float] | None:
    """(w1, w2): what a win from the first and from the second position is worth (R4, 2407.19594 section 2).

    w1 = win2/(win1+win2) and w2 = win1/(win1+win2) over all battles of an iteration, so that both positions earn the
    same in total. None when one position never won: then the winner says nothing about the judgements.
    """
    wins = Counter(battle.result for battle in battles)
    first, second = wins[1], wins[-1]
    if not first or not second:
        return None
    return second / (first + second), first / (first + second)


def battle_matrix(
    items: Sequence[Hashable], battles: Iterable[Battle], weights: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """B [len(items), len(items)]: B[m, n] = w1 * (wins of m over n shown first) + w2 * (wins of m shown second).

    Battles of other items are left out. Paper: 2407.19594 section 2, judge data.
    """
    place: Mapping[Hashable, int] = {item: i for i, item in enumerate(items)}
    counts = np.zeros((2, len(items), len(items)), dtype=np.int64)
    for first, second, result in battles:
        if first in place and second in place and result:
            winner, loser, position = (first, second, 0) if result > 0 else (second, first, 1)
            counts[position, place[winner], place[loser]] += 1
    return weights[0] * counts[0] + weights[1] * counts[1]


def elo(B: np.ndarray, l2: float = 0.01, tolerance: float = 1e-12) -> list[float]:
    """Bradley-Terry scores e maximising sum B[m,n] log sigmoid(e_m - e_n) - l2 sum e^2, centred to mean 0.

    B [n, n] holds non-negative weighted wins. The ridge makes the maximum finite and unique, so Newton's method with
    step halving finds it; scores are rounded to 9 digits, which makes equal items exactly equal.
    """
    if l2 <= 0:
        raise ValueError("l2 must be positive: without it an item that never loses has no finite score")
    B = np.asarray(B, dtype=np.float64)

    def derivatives(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lose = 1 / (1 + np.exp(e[:, None] - e[None, :]))  # sigmoid(e_n - e_m)
        curvature = (B + B.T) * lose * (1 - lose)
        gradient = (B * lose).sum(1) - (B * lose).sum(0) - 2 * l2 * e
        return gradient, np.diag(curvature.sum(1) + 2 * l2) - curvature

    e = maximise(lambda e: _objective(B, e, l2), derivatives, np.zeros(len(B)), tolerance * max(1.0, B.sum()))
    e = e - e.mean() if len(e) else e
    return [round(float(score), 9) + 0.0 for score in e]


def _objective(B: np.ndarray, e: np.ndarray, l2: float) -> float:
    return float(-(B * np.logaddexp(0, e[None, :] - e[:, None])).sum() - l2 * (e**2).sum())
