"""Judgements against the label of their row: what the label asks of a judge, and which judgements say it.

One label decides the protocol: A, B (or 1, 2) or tie compare two responses, yes or no classify one, a number rates one.
Pure and independent of the order of arrival.
"""

import re
from typing import NamedTuple

from actors.protocols import PROTOCOLS
from actors.verdicts import as_listed
from pipelines.records import Group, Judgement, Sample
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.render import sample_by_id

RESPONSES = ("given", "sample", "chosen", "rejected")  # kinds of samples that a label can be about
_SIDE = re.compile(r"(?P<named>response[ _])?(?P<side>[ab12])", re.A)
_NUMBER = re.compile(r"[-+]?[0-9]{1,9}(?:\.[0-9]{1,9})?")


class Label(NamedTuple):
    """What a right judgement says: "A", "B" or "tie" of the responses as listed, 1.0 or 0.0 for yes or no, a score."""

    protocol: str  # in actors.protocols.PROTOCOLS
    value: str | float


def label_of(group: Group) -> Label | None:
    """The label in the row's `gold`; None without one that can be read."""
    gold = (group["gold"] or "").strip().lower()
    side = _SIDE.fullmatch(gold)
    if side and (side["named"] or side["side"] in "ab" or len(distinct_samples(group, RESPONSES)) == 2):
        return Label("pairwise", "A" if side["side"] in "a1" else "B")
    if gold == "tie":
        return Label("pairwise", gold)
    if gold in ("yes", "no"):
        return Label("classify", float(gold == "yes"))
    score = score_of(group)
    return None if score is None else Label("likert", score)


def score_of(group: Group) -> float | None:
    """The number in the row's `gold`; None without one."""
    gold = (group["gold"] or "").strip()
    return float(gold) if _NUMBER.fullmatch(gold) else None


def asks_for(protocol: str, group: Group) -> bool:
    """Whether the row's label is one of this protocol (a JudgeStep's `only`, with the protocol filled in)."""
    label = label_of(group)
    return label is not None and label.protocol == protocol


def said(judgement: Judgement) -> str | float | None:
    """What a judgement says, in a label's terms; None where it cannot be read."""
    if judgement["status"] != "ok":
        return None
    return judgement.get("verdict") if len(judgement["sample_ids"]) == 2 else judgement.get("value")


def said_as_shown(judgement: Judgement) -> str | float | None:
    """The same in the judge's own terms: "A" is what was shown first."""
    value = said(judgement)
    return as_listed(value, judgement["order"]) if isinstance(value, str) else value


def questions(group: Group) -> list[tuple[tuple[Sample, ...], list[Judgement]]]:
    """What a judge was shown, in that order, each with its readable judgements in index order.

    Only judgements of one question answer the same prompt.
    """
    found: dict[tuple[str, ...], list[Judgement]] = {}
    for judgement in sorted(group["judgements"], key=lambda j: (j["order"], j["index"], j["judgement_id"])):
        ids = tuple(judgement["sample_ids"])
        if said(judgement) is not None:
            found.setdefault(ids[::-1] if judgement["order"] else ids, []).append(judgement)
    return [(tuple(sample_by_id(group, i) for i in ids), asked) for ids, asked in sorted(found.items())]


def right_and_wrong(
    judgements: list[Judgement], value: str | float, margin: float = 0.0
) -> tuple[list[Judgement], list[Judgement]]:
    """The judgements that say `value`, and those that say something else at least `margin` away from it.

    Of equal texts the first is taken. A score that is wrong by less is in neither (R11, 2410.05495).
    """
    by_text: dict[str, Judgement] = {}
    for judgement in judgements:
        by_text.setdefault(judgement["text"].strip(), judgement)
    right = [j for j in by_text.values() if said(j) == value]
    return right, [j for j in by_text.values() if said(j) != value and distance(j, value) >= margin]


def verdict_line(protocol: str, shown: str | float | None) -> str:
    """The last line of a judgement that says this and no more, "A" being what was shown first."""
    word = shown if isinstance(shown, str) else f"{shown:g}"
    word = ("yes" if shown else "no") if protocol == "classify" else word
    return PROTOCOLS[protocol].verdict.lead + word


def distance(judgement: Judgement, value: str | float) -> float:
    """How far what a judgement says is from `value`: of scores the difference, else 1 where they differ."""
    own = said(judgement)
    if isinstance(own, str) or isinstance(value, str) or own is None:
        return float(own != value)
    return abs(own - value)
