"""Bradley-Terry strengths from battles, with covariates whose influence on the winner is taken out. Pure.

P(first wins) = sigmoid(strength[first] - strength[second] + controls . effect); a tie is half a win of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from pipelines.evaluation.intervals import resampled_counts
from pipelines.steps.newton import maximise

RIDGE = 0.01  # recipes of judgements use the same: it moves a well-fought strength by less than its third digit
LARGEST_EFFECT = 15.0  # log-odds per unit of a control: beyond it the fit is running away
ELO = 400 / np.log(10)  # rating points per unit of strength: 400 points are odds of ten to one


@dataclass(frozen=True)
class Battles:
    """Comparisons of players by number: arrays [n], `controls` [n, k] (first less second, so that swapping negates).

    `share` is the first's part of the win (1, 0, a half for a tie, or a probability), `weight` what a battle counts.
    """

    players: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    share: np.ndarray
    weight: np.ndarray
    controls: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def weighed(self, weight: np.ndarray) -> "Battles":
        """The same battles with other weights; without controls, those of a pair as one, which gives the same fit."""
        if self.controls.shape[1]:
            return replace(self, weight=weight)
        size = len(self.players)
        pair, row_of = np.unique(self.first * size + self.second, return_inverse=True)
        total, won = (np.bincount(row_of, values, len(pair)) for values in (weight, weight * self.share))
        share = np.divide(won, total, out=np.zeros(len(pair)), where=total > 0)
        return Battles(self.players, pair // size, pair % size, share, total, np.zeros((len(pair), 0)))


@dataclass(frozen=True)
class Strengths:
    """A fit: `strength` [players] sums to 0, `effect` [k] is of the controls, `ridge` is what was needed."""

    strength: np.ndarray
    effect: np.ndarray
    ridge: float


def make_battles(
    names: Sequence[tuple[str, str]], share: Sequence[float] | np.ndarray,
    weight: Sequence[float] | np.ndarray | None = None, controls: np.ndarray | None = None,
) -> Battles:
    """Battles from names of first and second [n]; players are numbered by name."""
    players, numbers = np.unique(np.array(names).reshape(-1, 2), return_inverse=True)
    first, second = numbers.reshape(-1, 2).T
    n = len(first)
    return Battles(
        tuple(map(str, players)), first, second, np.asarray(share, dtype=float),
        np.ones(n) if weight is None else np.asarray(weight, dtype=float),
        np.zeros((n, 0)) if controls is None else np.asarray(controls, dtype=float),
    )


def relative_difference(first: Any, second: Any) -> np.ndarray:
    """(first - second) / (first + second), 0 where both are 0: how style features are compared in Chatbot Arena.

    Source: "Does style matter?", LMSYS 2024.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    total = first + second
    return np.divide(first - second, total, out=np.zeros(total.shape), where=total > 0)


def islands(battles: Battles) -> list[list[str]]:
    """Groups of players that never met each other, largest first: strengths across groups cannot be compared."""
    return _components(battles, battles.first, battles.second, "weak")


def one_sided(battles: Battles) -> list[str]:
    """Players outside the largest group within which everybody, by some chain, beat everybody (Ford 1957).

    Without any, and without controls, the likelihood has one finite maximum.
    """
    won, lost = battles.weight * battles.share > 0, battles.weight * (1 - battles.share) > 0
    winners = np.concatenate([battles.first[won], battles.second[lost]])
    losers = np.concatenate([battles.second[won], battles.first[lost]])
    return sorted(name for group in _components(battles, winners, losers, "strong")[1:] for name in group)


def fit(battles: Battles, ridge: float = 0.0, start: np.ndarray | None = None) -> Strengths:
    """Maximise sum weight * (share log p + (1 - share) log(1 - p)) - ridge * sum strength^2, strengths summing to 0.

    Where some player is one-sided there is no finite maximum, and a ridge of 0.01 is used instead of none; the result
    says so. Raises ValueError where the controls cannot be told from the players or decide every battle.
    """
    if not ridge and one_sided(battles):
        ridge = RIDGE
    n, k = len(battles.players), battles.controls.shape[1]
    rows = battles.weighed(battles.weight)
    first, second, share, weight, controls = rows.first, rows.second, rows.share, rows.weight, rows.controls

    def logit(x: np.ndarray) -> np.ndarray:
        return x[first] - x[second] + controls @ x[n:]

    def objective(x: np.ndarray) -> float:
        eta = logit(x)
        likelihood = (weight * (share * log_expit(eta) + (1 - share) * log_expit(-eta))).sum()
        return float(likelihood - ridge * (x[:n] ** 2).sum() - x[:n].sum() ** 2 / 2)  # the last only centres

    def derivatives(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        won = expit(logit(x))
        missed, spread = weight * (share - won), weight * won * (1 - won)
        of_players = _less(first, second, missed, n) - 2 * ridge * x[:n] - x[:n].sum()
        met = np.bincount(first * n + second, spread, n * n).reshape(n, n)
        met = met + met.T
        curvature = np.zeros((n + k, n + k))
        curvature[:n, :n] = np.diag(met.sum(1) + 2 * ridge) - met + 1
        for column in range(k):
            curvature[:n, n + column] = _less(first, second, spread * controls[:, column], n)
        curvature[n:, :n] = curvature[:n, n:].T
        curvature[n:, n:] = controls.T @ (spread[:, None] * controls)
        return np.concatenate([of_players, controls.T @ missed]), curvature

    begin = np.zeros(n + k) if start is None else start
    if k and np.linalg.cond(derivatives(begin)[1]) > 1e12:
        raise ValueError("a control does not vary apart from the players or another control; leave it out")
    tolerance = 1e-9 * max(1.0, float(weight.sum()))
    x = maximise(objective, derivatives, begin, tolerance)
    if np.abs(derivatives(x)[0]).max(initial=0.0) > 100 * tolerance or np.abs(x[n:]).max(initial=0.0) > LARGEST_EFFECT:
        raise ValueError("the controls decide every battle, so their effect has no finite value; leave one out")
    return Strengths(x[:n] - x[:n].mean(), x[n:], ridge)


def resampled_fits(
    battles: Battles, found: Strengths, clusters: Sequence[Any] | np.ndarray | None, resamples: int, seed: int
) -> np.ndarray:
    """Strengths and effects [resamples, players + k] of fits to battles, or whole clusters, drawn with replacement.

    NaN for a player who is in no battle drawn, and for all where the controls have no finite effect.
    """
    n = len(battles.players)
    start = np.concatenate([found.strength, found.effect])
    drawn = np.full((resamples, len(start)), np.nan)
    for row, counts in zip(drawn, resampled_counts(len(battles.first), clusters, resamples, seed), strict=True):
        weight = battles.weight * counts
        try:
            again = fit(replace(battles, weight=weight), found.ridge, start)
        except ValueError:  # few battles and controls: this resample says nothing
            continue
        fought = np.bincount(battles.first, weight, n) + np.bincount(battles.second, weight, n) > 0
        row[:] = np.concatenate([np.where(fought, again.strength, np.nan), again.effect])
    return drawn


def ratings(strength: np.ndarray, anchor: int | None = None, at: float = 1000.0) -> np.ndarray:
    """Elo-like ratings [..., players] of strengths that sum to 0: the anchor's, or else the mean's, is `at`.

    400 points are odds of ten to one.
    """
    return at + ELO * (strength if anchor is None else strength - strength[..., [anchor]])


def _less(first: np.ndarray, second: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sums of values by first player less those by second player [n]."""
    return np.bincount(first, values, n) - np.bincount(second, values, n)


def _components(battles: Battles, heads: np.ndarray, tails: np.ndarray, connection: str) -> list[list[str]]:
    n = len(battles.players)
    graph = coo_matrix((np.ones(len(heads)), (heads, tails)), shape=(n, n))
    label_of = connected_components(graph, directed=True, connection=connection)[1]
    groups = [[battles.players[i] for i in np.flatnonzero(label_of == label)] for label in np.unique(label_of)]
    return sorted(groups, key=lambda group: (-len(group), group))
