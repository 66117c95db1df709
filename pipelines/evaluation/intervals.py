"""Intervals for what was measured on a sample of items: of a mean, of a share, and of any statistic by resampling.

All return (low, high) with two-sided coverage `level`, or None where the data leave the interval undefined.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

Interval = tuple[float, float]
CELLS_AT_ONCE = 4_000_000  # rows of all resamples that are held in memory together
DEFINED_SHARE = 0.9  # a statistic that fewer resamples than this have says nothing about its own spread


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval | None:
    """Mean +- t(n - 1) quantile * standard error, for independent `values` [n]; None for fewer than two.

    Raises ValueError for a value that is not finite: an abstention is left out before, never a number.
    """
    known = np.asarray(values, dtype=np.float64)
    tail = _tail(level)
    if not np.isfinite(known).all():
        raise ValueError("a value is not finite; leave abstentions out")
    if len(known) < 2:
        return None
    reach = -stdtrit(len(known) - 1, tail) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean() - reach), float(known.mean() + reach)


def proportion_interval(successes: float, n: float, level: float = 0.95) -> Interval | None:
    """Wilson's score interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001), inside [0, 1]; None for n = 0."""
    tail = _tail(level)
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no share")
    if not n:
        return None
    z, share = -ndtri(tail), successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, float(centre - reach))  # exactly, where rounding would miss it
    return low, 1.0 if successes == n else min(1.0, float(centre + reach))


def bootstrap_interval(
    statistic: Callable[..., Any],
    *columns: Sequence[Any] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of `statistic(*columns)` (Efron 1979): rows of all columns [n] are drawn together.

    With `clusters` [n], all rows of a drawn cluster come together (prompts that were judged several times). A statistic
    with a parameter `axis` gets resamples as rows [some, n] and axis=-1, and returns [some]: much faster. Resamples
    where it is None or not finite (one class only, say) are left out; None when they are more than a tenth, or when
    there are not two rows, or two clusters, to draw from. Raises ValueError for columns of unequal lengths.
    """
    tail = _tail(level)
    arrays = [np.asarray(column) for column in columns]
    n = len(arrays[0])
    if any(len(array) != n for array in arrays) or (clusters is not None and len(clusters) != n):
        raise ValueError("columns have unequal lengths")
    rng = np.random.default_rng(seed)
    found = np.concatenate([
        _of_resamples(statistic, arrays, rows) for rows in _drawn_rows(n, clusters, resamples, rng)
    ] or [np.empty(0)])
    found = found[np.isfinite(found)]
    if not len(found) or len(found) < DEFINED_SHARE * resamples:
        return None
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _drawn_rows(n: int, clusters: Any, resamples: int, rng: np.random.Generator) -> Any:
    """Row numbers of resamples, [some, n] together, or [rows] one by one where clusters differ in size."""
    if clusters is None:
        members, sizes = np.arange(n)[:, None], np.ones(n, dtype=int)
    else:
        _, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
        sizes = np.bincount(cluster_of)
        members = np.split(np.argsort(cluster_of, kind="stable"), np.cumsum(sizes)[:-1])
    if len(sizes) < 2:
        return
    if (sizes == sizes[0]).all():
        members = np.stack(list(members))
        for start in range(0, resamples, some := max(1, CELLS_AT_ONCE // n)):
            drawn = rng.integers(len(sizes), size=(min(some, resamples - start), len(sizes)))
            yield members[drawn].reshape(len(drawn), n)
        return
    for _ in range(resamples):
        yield np.concatenate([members[which] for which in rng.integers(len(sizes), size=len(sizes))])


def _of_resamples(statistic: Callable[..., Any], arrays: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    if _takes_axis(statistic):
        return np.atleast_1d(np.asarray(statistic(*(array[rows] for array in arrays), axis=-1), dtype=np.float64))
    found = [statistic(*(array[drawn] for array in arrays)) for drawn in np.atleast_2d(rows)]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _takes_axis(statistic: Callable[..., Any]) -> bool:
    try:
        return "axis" in inspect.signature(statistic).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    return (1 - level) / 2
