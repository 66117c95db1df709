"""Judges of pairs against humans when both orders are asked (Auto-J, 2310.05470), and scores that say when to answer.

A verdict that cannot be read is None: it agrees with nothing and is consistent with nothing, never a tie. Pure.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from actors.verdicts import as_listed


class BothOrders(NamedTuple):
    """Verdicts on one pair as shown ("A" is what came first) in the normal and in the swapped order, and the label."""

    normal: str | None
    swapped: str | None
    gold: str


def agrees(row: BothOrders) -> bool:
    """Whether both orders give the label, the swapped one after un-swapping; a tie is a label like the others."""
    return row.normal == row.gold == as_listed(row.swapped, 1)


def is_consistent(row: BothOrders) -> bool:
    """Whether both orders give the same verdict, right or wrong."""
    return row.normal is not None and row.normal == as_listed(row.swapped, 1)


def agreement(rows: Iterable[BothOrders]) -> float | None:
    """Share of pairs on which the judge agrees with the label in both orders; None without any."""
    return _share([agrees(row) for row in rows])


def consistency(rows: Iterable[BothOrders]) -> float | None:
    """Share of pairs on which both orders say the same; None without any."""
    return _share([is_consistent(row) for row in rows])


def selective_accuracy(scores: Sequence[float], right: Sequence[bool], coverage: float) -> float:
    """Share of right answers among the `coverage` of them with the highest scores (Self-J, 2409.00935).

    Of answers with one score, of which only some are covered, every choice counts the same: constant scores give the
    accuracy of all. Raises ValueError unless 0 < coverage <= 1 and there are answers.
    """
    if not 0 < coverage <= 1 or not scores:
        raise ValueError(f"coverage {coverage:g} of {len(scores)} answers is none")
    left = wanted = coverage * len(scores)
    found = 0.0
    ranked = sorted(zip(scores, right, strict=True), key=lambda answer: -answer[0])
    for _, equal in groupby(ranked, key=lambda answer: answer[0]):
        held = [was_right for _, was_right in equal]
        taken = min(left, len(held))
        found += taken * sum(held) / len(held)
        left -= taken
    return found / wanted


def _share(held: list[bool]) -> float | None:
    return sum(held) / len(held) if held else None
