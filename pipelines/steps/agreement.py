"""Judges of pairs against humans when both orders are asked (Auto-J, 2310.05470). Pure.

A verdict that cannot be read is None: it agrees with nothing and is consistent with nothing, never a tie.
"""

from collections.abc import Iterable
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


def _share(held: list[bool]) -> float | None:
    return sum(held) / len(held) if held else None
