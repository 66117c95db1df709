"""A mean of gold labels from few of them and many judge scores, without the judge's bias. Pure.

n items have a gold label s and a judge score t, N further items a judge score alone; the labelled items are a random
sample of all. Prediction-powered inference (PPI: Angelopoulos and others 2023, 2301.09633; PPI++: 2311.01453) as R12
(2410.13341) uses it. Accuracy and win rate are means of 0, 0.5 and 1, a comparison of two models the mean of
differences. All functions take arrays [..., n] and [..., N], so many draws are estimated at once. Where the labels'
`scale` is known, as (0, 1) for shares, intervals stay inside it and are right for few labels and rare errors too.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

Scale = tuple[float, float]  # lowest and highest possible label
CORNER = 0.375  # of an item
CROSS_FIT_BELOW = 50  # labels; a weight fitted on as few of them makes its own variance look too small
ROUNDING = 1e-24  # variance of equal numbers, relative to their square: what rounding makes of none


@dataclass(frozen=True)
class Debiased:
    """An estimate of the gold mean: `value` with `interval` (low, high) of coverage `level`.

    `weight` is how much of the judge was used (lambda: 0 gold only, 1 PPI), `variance` what the interval is made from,
    all as arrays [...] where many draws were given.
    """

    value: Any
    interval: tuple[Any, Any]
    variance: Any
    weight: Any
    level: float


def gold_only(gold: Any, level: float = 0.95, scale: Scale | None = None) -> Debiased:
    """The mean of the labels alone: variance var(s) / n, t(n - 1) quantile; at least 2 labels."""
    gold = np.asarray(gold, dtype=np.float64)
    n = gold.shape[-1]
    if n < 2:
        raise ValueError("an interval needs at least 2 labels")
    variance, shift = _error(gold, np.zeros_like(gold), (0.0, 0.0), scale)
    return _debiased(gold.mean(-1), shift, variance, np.zeros(gold.shape[:-1])[()], n - 1, level, scale)


def ppi(gold: Any, judged: Any, rest: Any, level: float = 0.95, scale: Scale | None = None) -> Debiased:
    """mean_N(t) + mean_n(s - t): unbiased for any judge, wider than gold alone for a weak one (2301.09633)."""
    return _with_weight(gold, judged, rest, 1.0, level, scale, 0)


def ppi_tuned(
    gold: Any, judged: Any, rest: Any, level: float = 0.95, scale: Scale | None = None,
    clip: bool = True,
) -> Debiased:
    """PPI++: mean_n(s) + L (mean_N(t) - mean_n(t)) with the weight L of least variance (2311.01453, section 6).

    `gold` and `judged` [..., n >= 3], `rest` [..., N >= 2]. `clip` keeps L in 0..1 as the paper's code does; give False
    where the judge's scale is another one. Below 50 labels every item is weighed by the others (leave-one-out
    cross-fitting, Zrnic and Candes 2024, 2309.16598), else the interval would cover too little.
    """
    gold, judged, rest = (np.asarray(x, dtype=np.float64) for x in (gold, judged, rest))
    if gold.shape[-1] < CROSS_FIT_BELOW:
        return _with_weight(gold, judged, rest, _weights_of_others(gold, judged, rest, clip), level, scale, 1)
    return _with_weight(gold, judged, rest, tuned_weight(gold, judged, rest, clip), level, scale, 1)


def tuned_weight(gold: Any, judged: Any, rest: Any, clip: bool = True) -> Any:
    """L* = cov_n(s, t) / var(t) * N / (N + n), the variance over all n + N scores; 0 for a judge that never varies."""
    gold, judged, rest = (np.asarray(x, dtype=np.float64) for x in (gold, judged, rest))
    return _weight(_covariance(gold, judged), judged, rest, clip)[..., 0]


def correlation(gold: Any, judged: Any) -> Any:
    """Pearson's rho of labels and scores [..., n]; 0 where one of them does not vary."""
    gold, judged = (np.asarray(x, dtype=np.float64) for x in (gold, judged))
    spreads = [x.var(-1, ddof=1) for x in (gold, judged)]
    varies = np.logical_and(*(v > ROUNDING * x.mean(-1) ** 2 for v, x in zip(spreads, (gold, judged), strict=True)))
    norm = np.where(varies, np.sqrt(spreads[0] * spreads[1]), 1.0)
    return np.where(varies, _covariance(gold, judged)[..., 0] / norm, 0.0).clip(-1, 1)[()]


def correlation_interval(rho: float, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Fisher's interval of a correlation, tanh(artanh(rho) +- z / sqrt(n - 3)); None for fewer than four items."""
    if n < 4:
        return None
    reach = -ndtri((1 - level) / 2) / math.sqrt(n - 3)
    centre = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    return math.tanh(centre - reach), math.tanh(centre + reach)


def saving(rho: float, n: float, more: float) -> float:
    """tau = 1 / (1 - rho^2 N / (N + n)): how many labels one label is worth beside N = `more` scores (R12, section 3).

    Its limit for many scores is 1 / (1 - rho^2). A judge that runs against the gold (rho < 0) saves nothing here,
    because its weight is kept from falling below 0.
    """
    useful = max(0.0, rho) ** 2 * more / (more + n)
    return math.inf if useful >= 1 else 1 / (1 - useful)


class Agreement(NamedTuple):
    """A judge of two outcomes against gold. Rates are None where gold has no such item."""

    agreement: float
    true_positive: float | None
    true_negative: float | None
    balanced: float | None


def agreement(gold: Any, judged: Any) -> Agreement:
    """Agreement, TPR, TNR and BA = (TPR + TNR) / 2 of `gold` and `judged` [n], both of 0 and 1."""
    gold, judged = (np.asarray(x, dtype=np.float64) for x in (gold, judged))
    yes = float(judged[gold == 1].mean()) if (gold == 1).any() else None
    no = float(1 - judged[gold == 0].mean()) if (gold == 0).any() else None
    both = None if yes is None or no is None else (yes + no) / 2
    return Agreement(float((gold == judged).mean()), yes, no, both)


def correlation_limit(balanced: float) -> float:
    """The bound rho^2 <= 2 BA - 1 for a judge with BA >= 1/2: rho^2 is TPR + TNR - 1 times PPV + NPV - 1, at most 1."""
    return max(0.0, 2 * balanced - 1)


def saving_limit(score: float, agreed: float, balanced: float) -> float | None:
    """2p, which tau cannot exceed where the judge agrees with gold no more often than the model is right (p = `score`).

    R12: then rho^2 <= 1 - 1/(2p) < 1/2, so a judge no better than the judged saves less than half of the labels,
    however many items it scores. None where the bound does not hold: the judge is better, or is against the gold.
    """
    if agreed > score or balanced < 0.5 or score <= 0.5:
        return None
    return 2 * score


def _with_weight(
    gold: Any, judged: Any, rest: Any, weight: Any, level: float, scale: Scale | None, fitted: int
) -> Debiased:
    """The estimate for a weight [...], or one for each item [..., n]; `fitted` parameters cost degrees of freedom."""
    gold, judged, rest = (np.asarray(x, dtype=np.float64) for x in (gold, judged, rest))
    n, more = gold.shape[-1], rest.shape[-1]
    if n < 3 or more < 2:
        raise ValueError(f"{n} labelled and {more} other items; at least 3 and 2 are needed")
    each = np.asarray(weight, dtype=np.float64)
    if each.shape != gold.shape:
        each = np.broadcast_to(each[..., None], gold.shape)
    used, far = each.mean(-1), rest.mean(-1)
    value = (gold + each * (far[..., None] - judged)).mean(-1)
    near = judged.mean(-1)
    low, high = np.minimum(judged.min(-1), rest.min(-1)) - near, np.maximum(judged.max(-1), rest.max(-1)) - near
    variance, shift = _error(gold, each * (judged - near[..., None]), (used * low, used * high), scale)
    variance = variance + used**2 * rest.var(-1, ddof=1) / more
    return _debiased(value, shift, variance, used, n - 1 - fitted, level, scale)


def _error(
    gold: np.ndarray, correction: np.ndarray, ends: tuple[Any, Any], scale: Scale | None
) -> tuple[Any, Any]:
    """Variance of the mean of the corrected labels s - L t [..., n], and how far its interval's centre is moved.

    A clean sample (all labels equal, or the judge right on all of them) shows no variance, and an interval from it none
    of the doubt. So where the scale of the labels is known, `CORNER` of an item stands at each corner of labels x
    scores, as half an item stands in each cell for matched shares (Agresti and Min 2005, Statistics in Medicine 24,
    729-740). Three eighths is about the least by which no interval covered too little in simulation, 40 labels of a
    model that is right on 95 % included.
    """
    left, n = gold - correction, gold.shape[-1]
    if scale is None:
        return left.var(-1, ddof=1) / n, 0.0
    corners = np.stack([np.broadcast_to(s - end, gold.shape[:-1]) for s in scale for end in ends], -1)
    everything = np.concatenate([left, corners], -1)
    shares = np.concatenate([np.ones(n), np.full(4, CORNER)])
    mean = (everything * shares).sum(-1, keepdims=True) / shares.sum()
    spread = ((everything - mean) ** 2 * shares).sum(-1) / (shares.sum() - 1)
    return spread / shares.sum(), mean[..., 0] - left.mean(-1)


def _weight(cov: np.ndarray, judged: np.ndarray, rest: np.ndarray, clip: bool) -> np.ndarray:
    """The weights for covariances [..., 1] or [..., n]."""
    n, more = judged.shape[-1], rest.shape[-1]
    centre = (judged.sum(-1, keepdims=True) + rest.sum(-1, keepdims=True)) / (n + more)
    squares = ((judged - centre) ** 2).sum(-1, keepdims=True) + ((rest - centre) ** 2).sum(-1, keepdims=True)
    spread = squares / (n + more - 1)
    varies = spread > ROUNDING * centre**2
    found = np.where(varies, cov / np.where(varies, spread, 1.0), 0.0) * more / (more + n)
    return np.clip(found, 0.0, 1.0) if clip else found


def _covariance(gold: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Sample covariance, [..., 1]."""
    s, t = gold - gold.mean(-1, keepdims=True), judged - judged.mean(-1, keepdims=True)
    return (s * t).sum(-1, keepdims=True) / (gold.shape[-1] - 1)


def _weights_of_others(gold: np.ndarray, judged: np.ndarray, rest: np.ndarray, clip: bool) -> np.ndarray:
    """For each item [..., n] the weight whose covariance is of the n - 1 others, in closed form."""
    n = gold.shape[-1]
    s, t = gold - gold.mean(-1, keepdims=True), judged - judged.mean(-1, keepdims=True)
    # leaving item j out takes s_j t_j n / (n - 1) from the sum of products of centred values
    cov = ((s * t).sum(-1, keepdims=True) - s * t * n / (n - 1)) / (n - 2)
    return _weight(cov, judged, rest, clip)


def _debiased(
    value: Any, shift: Any, variance: Any, weight: Any, freedom: int, level: float, scale: Scale | None
) -> Debiased:
    reach = -stdtrit(freedom, (1 - level) / 2) * np.sqrt(variance)
    low, high = value + shift - reach, value + shift + reach
    if scale is not None:  # nothing outside the scale can be true
        value, low, high = (np.clip(x, *scale)[()] for x in (value, low, high))
    return Debiased(value, (low, high), variance, weight, level)


class Plan(NamedTuple):
    """Labels for a wanted half-width: with the judge, without it, and what one label is worth then (tau)."""

    labels: int
    without_judge: int
    tau: float


def plan(half_width: float, sd: float, rho: float, more: float, level: float = 0.95) -> Plan:
    """How many gold labels give an interval of +- `half_width`, with N = `more` judge scores and without them.

    Solves z^2 sd^2 / n (1 - rho^2 N / (N + n)) = half_width^2 for n; `sd` is the labels' standard deviation. `more` may
    be infinite: that is the most any number of judge scores can save. Normal quantiles, so at least 3 labels are asked.
    """
    z = -ndtri((1 - level) / 2)
    alone = (z * sd / half_width) ** 2
    left = 1 - max(0.0, rho) ** 2
    if math.isinf(more):
        needed = left * alone
    else:  # n^2 + (N - alone) n - left * alone * N = 0
        half = (alone - more) / 2
        needed = half + math.sqrt(half * half + left * alone * more)
    labels, without = (max(3, math.ceil(x - 1e-9)) for x in (needed, alone))
    return Plan(labels, without, 1 / left if math.isinf(more) and left else saving(rho, labels, more))
