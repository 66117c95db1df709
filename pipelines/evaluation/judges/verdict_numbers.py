"""How good and how sound a judge of pairs is, from its verdicts. Pure.

A verdict is "A", "B" or "tie" about the two as listed, or None where it could not be read: an abstention, which is no
error and no success. A tie is a verdict like the others: right where the label is a tie. Comparisons of one row of the
data are one cluster: intervals draw rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.intervals import bootstrap_interval, proportion_interval

SIGN = {"A": 1.0, "tie": 0.0, "B": -1.0}
PRM, CODE = "math-prm", "hep-"  # subsets of RewardBench's Reasoning


class Outcome(NamedTuple):
    """One comparison. `verdicts` are of A-B and of B-A, or one where there is one order or none (scores)."""

    cluster: int  # comparisons of one cluster are not independent
    label: str
    verdicts: tuple[str | None, ...]
    longer: int = 0  # by how many characters A is longer
    subset: str = ""
    section: str = ""
    decided: str | None = None  # what all votes come to


def points(outcome: Outcome, tie: float = 0.0, unread: float | None = None) -> float | None:
    """The share of orders with the right verdict; a tie where the label names a winner is worth `tie`.

    Orders without a readable verdict are left out, or are worth `unread`; None when none is left.
    """
    worth = [
        unread if v is None else 1.0 if v == outcome.label else tie if v == "tie" else 0.0 for v in outcome.verdicts
    ]
    known = [value for value in worth if value is not None]
    return sum(known) / len(known) if known else None


def share(values: Sequence[tuple[int, float]], why: str, seed: int = 0) -> Estimate:
    """The mean of (row, value). Wilson's interval of yes and no, one a row or all alike; else a bootstrap of rows."""
    if not values:
        return Estimate(value=None, n=0, why=why)
    rows, held = zip(*values, strict=True)
    clusters, constant = len(set(rows)), len(set(held)) == 1
    if set(held) <= {0.0, 1.0} and (constant or clusters == len(rows)):
        interval = proportion_interval(clusters * held[0] if constant else sum(held), clusters)
    else:
        which = np.unique(rows, return_inverse=True)[1]
        interval = bootstrap_interval(_ratio, np.bincount(which, held), np.bincount(which), seed=seed)
    return Estimate(value=sum(held) / len(held), interval=interval, n=len(held))


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
    return sums.sum(axis) / counts.sum(axis)


def accuracy(outcomes: Sequence[Outcome], tie: float = 0.0, unread: float | None = None, seed: int = 0) -> Estimate:
    """Mean points of the comparisons that have any."""
    found = [(o.cluster, p) for o in outcomes if (p := points(o, tie, unread)) is not None]
    return share(found, "no readable verdict", seed)


def _of(
    outcomes: Sequence[Outcome], value: Callable[[Outcome], float | None], why: str, seed: int
) -> Estimate:
    return share([(o.cluster, v) for o in outcomes if (v := value(o)) is not None], why, seed)


def _both(outcome: Outcome) -> tuple[str, str] | None:
    first, second = outcome.verdicts if len(outcome.verdicts) == 2 else (None, None)
    return (first, second) if first is not None and second is not None else None


def right_in_both_orders(outcome: Outcome) -> float | None:
    """Whether both orders give the label; None unless both can be read."""
    both = _both(outcome)
    return None if both is None else float(both == (outcome.label, outcome.label))


def flipped(outcome: Outcome) -> float | None:
    """Whether the verdict changes with the order; None unless both can be read."""
    both = _both(outcome)
    return None if both is None else float(both[0] != both[1])


def first_places(outcome: Outcome) -> list[float]:
    """Of each order with a winner, whether it is what was shown first; nothing where there are not both orders."""
    if len(outcome.verdicts) < 2:
        return []
    return [float(v == first) for v, first in zip(outcome.verdicts, "AB", strict=True) if v in ("A", "B")]


def length_correlation(outcomes: Sequence[Outcome]) -> float | None:
    """Pearson's r of by how much A is longer and the verdict for it, over all readable verdicts; None if constant."""
    read = [(float(o.longer), SIGN[v]) for o in outcomes for v in o.verdicts if v is not None]
    gaps, values = np.asarray(read, float).reshape(-1, 2).T
    if len(read) < 2 or not gaps.std() or not values.std():
        return None
    return float(np.corrcoef(gaps, values)[0, 1])


def judge_estimates(outcomes: Sequence[Outcome], seed: int = 0) -> dict[str, Estimate]:
    """The numbers of a judge on labelled pairs, by name."""
    one_order = "not asked in both orders"
    said = [(o.cluster, v) for o in outcomes for v in o.verdicts]
    places = [(o.cluster, place) for o in outcomes for place in first_places(o)]
    correlation = length_correlation(outcomes)
    return {
        "accuracy": accuracy(outcomes, seed=seed),
        "accuracy_ties_half": accuracy(outcomes, tie=0.5, seed=seed),
        "accuracy_abstentions_half": accuracy(outcomes, unread=0.5, seed=seed),
        "right_in_both_orders": _of(outcomes, right_in_both_orders, one_order, seed),
        "decision_accuracy": _of(
            outcomes, lambda o: None if o.decided is None else float(o.decided == o.label), "no decision", seed
        ),
        "consistency": _of(outcomes, lambda o: None if (f := flipped(o)) is None else 1 - f, one_order, seed),
        "flip_rate": _of(outcomes, flipped, one_order, seed),
        "ties": share([(row, float(v == "tie")) for row, v in said if v is not None], "no readable verdict", seed),
        "readable": share([(row, float(v is not None)) for row, v in said], "no comparison", seed),
        "first_position_rate": share(places, one_order if not places else "", seed),
        "length_correlation": Estimate(
            value=correlation, n=sum(v is not None for _, v in said),
            why="lengths or verdicts do not vary" if correlation is None else None,
        ),
    }


def subset_rows(outcomes: Sequence[Outcome], key: Callable[[Outcome], str], name: str) -> list[dict[str, Any]]:
    """One row a subset: how many, the accuracies, both orders, ties, and abstentions in a column of their own."""
    rows = []
    for value in sorted({key(o) for o in outcomes}):
        some = [o for o in outcomes if key(o) == value]
        verdicts = [v for o in some for v in o.verdicts]
        correct = accuracy(some)
        rows.append({
            name: value,
            "n": len(some),
            "accuracy": correct.value,
            "low": correct.interval and correct.interval[0],
            "high": correct.interval and correct.interval[1],
            "unread half": accuracy(some, unread=0.5).value,
            "both right": _of(some, right_in_both_orders, "", 0).value,
            "flips": _of(some, flipped, "", 0).value,
            "ties": sum(v == "tie" for v in verdicts),
            "unread": sum(v is None for v in verdicts),
        })
    return rows


def section_estimates(outcomes: Sequence[Outcome], seed: int = 0) -> dict[str, Estimate]:
    """Scores of sections and the overall score, as RewardBench has them (2403.13787, section 4).

    A section is the mean of its subsets' accuracies weighted by their comparisons, the overall score the plain mean of
    sections. Ties are worth half. RewardBench gives math-prm the weight of all code subsets together; where both are
    there, `section X, math-prm as all code` has it too. Subsets without a readable verdict are left out.
    """
    known = [(o, p) for o in outcomes if o.section and (p := points(o, tie=0.5)) is not None]
    if not known:
        return {}
    sections = sorted({o.section for o, _ in known})
    subsets = sorted({(o.section, o.subset) for o, _ in known})
    place = np.asarray([subsets.index((o.section, o.subset)) for o, _ in known])
    plain = np.asarray([sum((o.section, o.subset) == subset for o in outcomes) for subset in subsets], float)
    official = plain.copy()
    for i, (section, subset) in enumerate(subsets):
        code = sum(n for n, (s, name) in zip(plain, subsets, strict=True) if s == section and name.startswith(CODE))
        official[i] = code if subset == PRM and code else plain[i]

    def scores(values: np.ndarray, where: np.ndarray, weights: np.ndarray) -> list[float]:
        counts = np.bincount(where, minlength=len(subsets))
        means = np.bincount(where, values, minlength=len(subsets)) / np.maximum(counts, 1)
        weights = weights * (counts > 0)
        found = []
        for section in sections:
            mine = np.asarray([s == section for s, _ in subsets])
            total = weights[mine].sum()
            found.append(float((weights[mine] * means[mine]).sum() / total) if total else float("nan"))
        return found

    def estimate(statistic: Callable[[np.ndarray, np.ndarray], float], n: int) -> Estimate:
        values = np.asarray([p for _, p in known])
        ends = bootstrap_interval(
            statistic, values, place, clusters=[o.cluster for o, _ in known], resamples=500, seed=seed
        )
        return Estimate(value=statistic(values, place), interval=ends, n=n)

    found = {}
    for i, section in enumerate(sections):
        n = sum(o.section == section for o, _ in known)
        found[f"section {section}"] = estimate(lambda v, w, i=i: scores(v, w, plain)[i], n)
        if any(official[j] != plain[j] for j, (s, _) in enumerate(subsets) if s == section):
            name = f"section {section}, {PRM} as all code"
            found[name] = estimate(lambda v, w, i=i: scores(v, w, official)[i], n)
    found["overall"] = estimate(lambda v, w: float(np.mean(scores(v, w, plain))), len(known))
    if not np.array_equal(official, plain):
        found[f"overall, {PRM} as all code"] = estimate(lambda v, w: float(np.mean(scores(v, w, official))), len(known))
    return found
