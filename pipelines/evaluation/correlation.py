"""Correlation of two columns: Pearson's r, Spearman's rho, Kendall's tau-b. Pure.

Arrays [..., n] along `axis` give [...]; NaN where it is undefined: fewer than two items, or a side that does not vary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def pearson(x: Any, y: Any, axis: int = -1) -> np.ndarray:
    """Linear correlation."""
    x, y = _last(x, axis), _last(y, axis)
    varies = np.logical_and(*(one.max(-1, initial=-np.inf) > one.min(-1, initial=np.inf) for one in (x, y)))
    x, y = (one - one.sum(-1, keepdims=True) / max(1, one.shape[-1]) for one in (x, y))
    norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    varies &= norm > 0
    return np.where(varies, np.clip((x * y).sum(-1) / np.where(varies, norm, 1.0), -1.0, 1.0), np.nan)


def spearman(x: Any, y: Any, axis: int = -1) -> np.ndarray:
    """Linear correlation of the ranks, ties at their mean rank."""
    from scipy.stats import rankdata  # takes half a second, which a list of evaluations should not cost

    return pearson(rankdata(_last(x, axis), axis=-1), rankdata(_last(y, axis), axis=-1))


def kendall(x: Any, y: Any, axis: int = -1) -> np.ndarray:
    """Kendall's tau-b, which counts ties on either side."""
    from scipy.stats import kendalltau

    x, y = np.broadcast_arrays(_last(x, axis), _last(y, axis))
    if x.shape[-1] < 2:
        return np.full(x.shape[:-1], np.nan)
    rows = zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True)
    found = [kendalltau(a, b).statistic for a, b in rows]
    return np.asarray(found, dtype=np.float64).reshape(x.shape[:-1])


def _last(values: Any, axis: int) -> np.ndarray:
    return np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1)


MEASURES: dict[str, Callable[..., np.ndarray]] = {"pearson": pearson, "spearman": spearman, "kendall": kendall}


def correlation(measure: str, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """One correlation of two columns [n] by its name in MEASURES; None where it is undefined."""
    found = float(MEASURES[measure](x, y))
    return None if np.isnan(found) else found
