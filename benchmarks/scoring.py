"""How answers and verdicts of the learning bench are counted. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.judges.verdict_numbers import Outcome, length_correlation, points

_NUMBER = re.compile(r"-?[0-9]+")


def strict_number(text: str, lead: str) -> int | None:
    """The number of the last line if that is `lead` and a whole number and nothing else; None otherwise."""
    lines = text.strip().splitlines()
    if not lines or not lines[-1].startswith(lead):
        return None
    rest = lines[-1][len(lead):]
    return int(rest) if _NUMBER.fullmatch(rest) else None


def majority(numbers: Sequence[int | None]) -> int | None:
    """The most frequent number, of equally frequent ones the one that came first; unreadable answers do not vote."""
    votes = Counter(number for number in numbers if number is not None)
    return votes.most_common(1)[0][0] if votes else None


def judge_numbers(
    verdicts: Sequence[tuple[str | None, str | None]], labels: Sequence[str], longer: Sequence[int], tie: float = 0.0
) -> dict[str, Any]:
    """How good and how sound a judge is.

    `verdicts` are "A", "B", "tie" or None (unreadable) about the answers as listed, with A shown first and with B
    shown first; `longer` is by how many characters A is longer; `tie` is what a tie is worth where the label names a
    winner, and what cannot be read is worth nothing, as a run is to learn the form too. A judge that always names the
    same place is right in half of the orders. `points` is each row's share of right orders, which bootstrapping needs.
    """
    rows = zip(labels, verdicts, longer, strict=True)
    outcomes = [Outcome(i, label, two, gap) for i, (label, two, gap) in enumerate(rows)]
    found = [points(outcome, tie, unread=0.0) or 0.0 for outcome in outcomes]
    said = [v for two in verdicts for v in two]
    correlation = length_correlation(outcomes)
    return {
        "accuracy": mean(found),
        "right_in_both_orders": mean([float(point == 1.0) for point in found]),
        "same_in_both_orders": mean([float(a is not None and a == b) for a, b in verdicts]),
        "ties": mean([float(v == "tie") for v in said]),
        "readable": mean([float(v is not None) for v in said]),
        "first_place": mean([float(v == place) for two in verdicts for v, place in zip(two, "AB", strict=True)]),
        "length_correlation": None if correlation is None else round(correlation, 4),
        "points": found,
    }


def mean(values: Sequence[float]) -> float:
    """Rounded, as the results are read by people."""
    return round(sum(values) / len(values), 4)


def gain_interval(
    before: Sequence[float], after: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of mean(after) - mean(before), bootstrapped over the problems that both answered."""
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired bootstrap needs the same problems on both sides, got {len(before)}, {len(after)}")
    gains = np.asarray(after, float) - np.asarray(before, float)
    drawn = np.random.default_rng(seed).integers(0, len(gains), (resamples, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
