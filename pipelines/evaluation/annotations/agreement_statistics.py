"""How far two raters of the same items agree, as single numbers. Pure.

All functions take two arrays of codes or scores [..., n], item by item, and give [...] along `axis`: NaN where the
statistic is undefined (one class only, constant scores). Abstentions are left out before.
"""

from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluation.correlation import kendall, pearson, spearman
from pipelines.evaluation.intervals import Interval, bootstrap_interval


def accuracy(gold: Any, given: Any, axis: int = -1) -> np.ndarray:
    """Share of items on which both are equal."""
    gold, given = _pair(gold, given, axis)
    return _mean(gold == given)


def balanced_accuracy(gold: Any, given: Any, axis: int = -1) -> np.ndarray:
    """Mean over the classes that occur in `gold` of the share of their items given right."""
    gold, given = _pair(gold, given, axis)
    shares = []
    for label in np.unique(gold):
        of_class = gold == label
        with np.errstate(invalid="ignore"):
            shares.append((of_class & (given == label)).sum(-1) / of_class.sum(-1))
    found = np.array(shares)
    occurs = np.isfinite(found).sum(0) if len(found) else np.zeros(gold.shape[:-1])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isfinite(found), found, 0).sum(0) / occurs)


def cohen_kappa(gold: Any, given: Any, axis: int = -1) -> np.ndarray:
    """(p_o - p_e) / (1 - p_e), p_e from both raters' own shares of the classes (Cohen 1960)."""
    gold, given = _pair(gold, given, axis)
    expected = sum(_mean(gold == label) * _mean(given == label) for label in np.union1d(gold, given))
    return _ratio(_mean(gold == given) - expected, 1 - expected)


def krippendorff_nominal(gold: Any, given: Any, axis: int = -1) -> np.ndarray:
    """1 - D_o / D_e for two raters without missing values, every difference counting the same (Krippendorff 2011)."""
    gold, given = _pair(gold, given, axis)
    both = np.concatenate([gold, given], axis=-1)
    n = both.shape[-1]
    same = sum((c := (both == label).sum(-1)) * (c - 1) for label in np.unique(both))
    return 1 - _ratio(_mean(gold != given), 1 - same / (n * (n - 1)) if n > 1 else np.full(both.shape[:-1], 0.0))


def krippendorff_ordinal(gold: Any, given: Any, axis: int = -1) -> np.ndarray:
    """Krippendorff's alpha with the ordinal difference, for two raters without missing values (Krippendorff 2011).

    The ordinal difference of c and k, the values between them counted with half of c's and half of k's, is the
    difference of their mid-ranks among all values of both raters; so alpha is the interval alpha of these ranks.
    """
    gold, given = _pair(gold, given, axis)
    ranks = _mid_ranks(np.concatenate([gold, given], axis=-1))
    n = gold.shape[-1]
    observed = _mean((ranks[..., :n] - ranks[..., n:]) ** 2)
    return 1 - _ratio(observed, 2 * ranks.var(axis=-1, ddof=1) if n else np.full(observed.shape, np.nan))


LABELS = {
    "accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "cohen_kappa": cohen_kappa,
    "krippendorff_nominal": krippendorff_nominal,
}
ORDERED = {
    "krippendorff_ordinal": krippendorff_ordinal, "spearman": spearman, "kendall_tau_b": kendall, "pearson": pearson,
}


class Comparison(NamedTuple):
    """Two judges on the same items: `only_first` and `only_second` count items that one alone has right."""

    difference: float | None
    interval: Interval | None
    only_first: int
    only_second: int
    p_value: float | None


def compare(
    first_right: Any, second_right: Any, clusters: Any = None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Accuracy of the first judge less that of the second [n items each], by paired bootstrap, and McNemar's test.

    The p-value is of the exact two-sided test (McNemar 1947): whether of the items that one judge alone has right,
    either has half. It takes items for independent; with `clusters` only the interval knows better.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if not len(first):
        return Comparison(None, None, 0, 0, None)
    gained = first.astype(float) - second.astype(float)
    ahead, behind = int((gained > 0).sum()), int((gained < 0).sum())
    interval = bootstrap_interval(np.mean, gained, clusters=clusters, level=level, resamples=resamples, seed=seed)
    p_value = float(binomtest(ahead, ahead + behind, 0.5).pvalue) if ahead + behind else 1.0
    return Comparison(float(gained.mean()), interval, ahead, behind, p_value)


def _pair(gold: Any, given: Any, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return np.moveaxis(np.asarray(gold), axis, -1), np.moveaxis(np.asarray(given), axis, -1)


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata  # takes half a second, which a list of evaluations should not cost

    return rankdata(values, axis=-1)


def _mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.mean(-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan))


def _ratio(above: Any, below: Any) -> np.ndarray:
    """above / below, NaN where below is nothing but rounding."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 1e-12)
