"""Which attributes a model is weak in (QualEval, 2311.02807; R18): an integer program assigns items to attributes.

Nobody is asked here: affinities, from 1 to 5 for each item and attribute, come as arrays. Pure.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluation.intervals import Interval, mean_interval, proportion_interval
from pipelines.records import digest
from pipelines.steps.new_prompts import Known

ROUNDING = 1e-9


class Assignment(NamedTuple):
    """Which items have which attributes, [n, k] of bool; the summed affinity, and the slack that it took."""

    chosen: np.ndarray
    objective: float
    slack: float


def priors(affinity: np.ndarray) -> np.ndarray:
    """How common each attribute is: its mean affinity, normalised to sum 1 (R18.3)."""
    mean = np.asarray(affinity, dtype=np.float64).mean(axis=0)
    return mean / mean.sum()


def assign(
    affinity: np.ndarray, prior: np.ndarray, per_item: int = 2, slack: float = 0.1, widen: float = 0.1
) -> Assignment:
    """The assignment of most affinity: at most `per_item` attributes an item, every attribute within its share (R18.3).

    Maximises sum x_ij a_ij over x_ij in {0, 1}, affinity [n, k], with the count of attribute j within (1 +- slack) of
    per_item n prior_j. Where that cannot be, the slack grows by `widen` until it can (R18.8); from 1 on there is no
    lower bound, so it ends. Raises ValueError for shapes, priors or slacks that make no program.
    """
    from scipy.optimize import (  # here: evaluations are listed without the second it takes
        Bounds,
        LinearConstraint,
        milp,
    )
    from scipy.sparse import csr_array, eye_array, kron

    a, p = np.asarray(affinity, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    if a.ndim != 2 or not a.size or p.shape != (a.shape[1],) or not np.isfinite(a).all():
        raise ValueError(f"affinities [n, k] and priors [k] are needed, got {a.shape} and {p.shape}")
    if (p < 0).any() or abs(p.sum() - 1) > 1e-6 or slack < 0 or widen <= 0 or per_item < 1:
        raise ValueError("priors are shares of 1, slack is not negative, widen and per_item are positive")
    n, k = a.shape
    rows = kron(eye_array(n), np.ones((1, k)))
    columns = kron(np.ones((1, n)), eye_array(k))
    wanted = per_item * n * p
    while True:
        low, high = np.ceil((1 - slack) * wanted - ROUNDING), np.floor((1 + slack) * wanted + ROUNDING)
        low = np.maximum(low, 0)
        if (low <= np.minimum(high, n)).all():
            limits = [LinearConstraint(csr_array(rows), 0, per_item), LinearConstraint(csr_array(columns), low, high)]
            found = milp(-a.ravel(), integrality=np.ones(n * k), bounds=Bounds(0, 1), constraints=limits)
            if found.success:
                chosen = found.x.reshape(n, k) > 0.5
                return Assignment(chosen, float(a[chosen].sum()), slack)
            if found.status != 2:  # 2: infeasible
                raise ValueError(f"the integer program could not be solved: {found.message}")
        slack = round(slack + widen, 12)


def top_attributes(affinity: np.ndarray, keep: int) -> list[int]:
    """Places of the `keep` attributes of highest mean affinity, in their old order (R18.2: the later 10 of 15)."""
    mean = np.asarray(affinity, dtype=np.float64).mean(axis=0)
    return sorted(sorted(range(len(mean)), key=lambda j: (-mean[j], j))[:keep])


def proficiency(names: Sequence[str], chosen: np.ndarray, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    """The mean score of the items assigned to each attribute, with an interval; items without a score are left out.

    Wilson's interval where every score is 0 or 1, else Student's. The weakest attribute comes first.
    """
    binary = is_binary(scores)
    rows = []
    for j, name in enumerate(names):
        known = [s for s, has in zip(scores, chosen[:, j], strict=True) if has and s is not None]
        interval = score_interval(known, binary)
        rows.append({
            "attribute": name, "items": int(chosen[:, j].sum()), "scored": len(known),
            "score": float(np.mean(known)) if known else None,
            "low": interval[0] if interval else None, "high": interval[1] if interval else None,
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["score"] is None, row["score"] or 0.0))


def is_binary(scores: Sequence[float | None]) -> bool:
    """Whether every score there is says right or wrong, 1 or 0."""
    return {s for s in scores if s is not None} <= {0.0, 1.0}


def score_interval(scores: Sequence[float], binary: bool) -> Interval | None:
    """Wilson's interval of a share of 1, else Student's of a mean; None without scores."""
    return proportion_interval(sum(scores), len(scores)) if binary else mean_interval(scores)


def divergence(gold: np.ndarray, output: np.ndarray, gap: float = 2.0) -> np.ndarray:
    """Share of items [k] whose affinity differs by `gap` or more between two texts, arrays [n, k] (R18.3)."""
    return (np.abs(np.asarray(gold, dtype=np.float64) - np.asarray(output)) >= gap).mean(axis=0)


def weakness_weights(scores: Sequence[float | None]) -> list[float]:
    """How much new data each attribute should get: its distance to the best attribute, normalised to sum 1.

    All the same: equal weights. An attribute without a score gets none, and without any score all are 0.
    """
    known = [s for s in scores if s is not None]
    if not known:
        return [0.0] * len(scores)
    gaps = [max(known) - s if s is not None else 0.0 for s in scores]
    if not sum(gaps):
        gaps = [float(s is not None) for s in scores]
    total = sum(gaps)
    return [gap / total for gap in gaps]


def targeted(chosen: np.ndarray, weights: Sequence[float], count: int, seed: int) -> list[tuple[int, int]]:
    """(item, attribute) of up to `count` items, each once, in proportion to the weights of attributes (R18.4).

    Whole numbers by largest remainder; items of an attribute are drawn by `seed`, those of the weakest first. Fewer
    where an attribute has no more items.
    """
    exact = [count * w for w in weights]
    quota = [int(q) for q in exact]
    for j in sorted(range(len(exact)), key=lambda j: (quota[j] - exact[j], j))[: round(sum(exact)) - sum(quota)]:
        quota[j] += 1
    taken: set[int] = set()
    found = []
    for j in sorted(range(len(quota)), key=lambda j: (-weights[j], j)):
        items = [int(i) for i in np.flatnonzero(chosen[:, j]) if int(i) not in taken]
        for i in sorted(items, key=lambda i: digest("targeted", seed, j, i))[: quota[j]]:
            taken.add(i)
            found.append((i, j))
    return found


def distinct_names(names: Sequence[str], limit: float = 0.7) -> list[str]:
    """The names that are not nearly an earlier one, with a ROUGE-L above `limit`: proposals overlap (R18.8)."""
    known, found = Known(), []
    for name in names:
        if known.why_not(name.lower(), limit) is None:
            known.add(name.lower())
            found.append(name)
    return found
