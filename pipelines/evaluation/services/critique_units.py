"""The critique of a critique by its units: precision, recall and F1 of single claims (MetaCritique, 2401.04518; R9).

A verdict is True, False, or None where it cannot be read; those are left out of every share and counted. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from actors.verdicts import Reading, as_listed
from pipelines.records import Judgement, MetaJudgement, record_id

Verdicts = Sequence[bool | None]


class CritiqueScore(NamedTuple):
    """How good one critique is; None where it is not defined, and `status` says why as of a judgement."""

    precision: float | None  # share of its units that are right
    recall: float | None  # share of the reference's units that it says
    f1: float | None
    status: str = "ok"


def share_true(verdicts: Verdicts) -> float | None:
    """Share of true among the readable verdicts; None without any, as of a critique without units."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else None


def f1_score(precision: float | None, recall: float | None) -> float | None:
    """2 / (1/P + 1/R), 0 where either is 0, None where either is undefined (R9.3)."""
    if precision is None or recall is None:
        return None
    return 2 / (1 / precision + 1 / recall) if precision and recall else 0.0


def critique_score(precision: Verdicts, recall: Verdicts, status: str = "ok") -> CritiqueScore:
    """The score of a critique from the verdicts on its own units and on those of the reference critique.

    A critique without units has no precision and no F1: its status is missing, unless `status` knows better.
    """
    p, r = share_true(precision), share_true(recall)
    f1 = f1_score(p, r)
    return CritiqueScore(p, r, f1, status if f1 is None and status != "ok" else "missing" if f1 is None else "ok")


def meta_winner(a: CritiqueScore, b: CritiqueScore, margin: float = 0.0) -> Reading[str]:
    """ "A" or "B", whose F1 is higher by more than `margin`, else "tie"; an abstention where one has no F1 (R9.4).

    Raises ValueError for a negative margin.
    """
    if margin < 0:
        raise ValueError(f"a margin of {margin} is negative")
    if a.f1 is None or b.f1 is None:
        return Reading(None, "missing")
    gap = a.f1 - b.f1
    return Reading("tie" if abs(gap) <= margin else "A" if gap > 0 else "B", "ok")


def claims_meta_judgement(
    a: Judgement, b: Judgement, scores: tuple[CritiqueScore, CritiqueScore], margin: float = 0.0, order: int = 0,
    weight_version: str = "",
) -> MetaJudgement:
    """Two judgements of one response compared by their F1, as a record that Elo and pair selection read (R4, R9).

    Its text ends in the verdict that the pairwise protocol reads again on replay. Counting has no positions, but Elo
    weighs a win by its position (R4): record both orders, and they weigh the same.
    """
    winner = meta_winner(*scores, margin)
    names = a["judgement_id"], b["judgement_id"]
    counts = ", ".join(
        f"{name}: precision {_shown(s.precision)}, recall {_shown(s.recall)}, F1 {_shown(s.f1)}"
        for name, s in zip("AB", scores[::-1] if order else scores, strict=True)
    )
    shown = as_listed(winner.value, order)
    return MetaJudgement(
        meta_id=record_id(0, "claims", 0, "", "meta_judge", *names, order), judgement_a=names[0], judgement_b=names[1],
        order=order, text=f"{counts}\nWinner: {shown}" if shown else counts, winner=winner.value, status=winner.status,
        seed=0, weight_version=weight_version, prompt_hash="",
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def means(scores: Iterable[CritiqueScore]) -> dict[str, float | None]:
    """Means over items of P, R and F1, each over the items that have it; F1 is no F1 of means (R9.3)."""
    scores = list(scores)
    found: dict[str, float | None] = {}
    for name in ("precision", "recall", "f1"):
        known = [value for s in scores if (value := getattr(s, name)) is not None]
        found[name] = float(np.mean(known)) if known else None
    return found


def critic_table(scores: Mapping[str, Sequence[CritiqueScore]]) -> list[dict[str, Any]]:
    """A row for each critic, the best mean F1 first: rank, items, items without a score, and mean P, R and F1.

    Equal means share the better rank; critics without any F1 come last, without a rank.
    """
    found = [(critic, list(own), means(own)) for critic, own in scores.items()]
    found.sort(key=lambda row: (row[2]["f1"] is None, -(row[2]["f1"] or 0.0), row[0]))
    f1s = [mean["f1"] for _, _, mean in found]
    return [
        {"rank": None if mean["f1"] is None else f1s.index(mean["f1"]) + 1, "critic": critic, "n": len(own),
         "undefined": sum(s.f1 is None for s in own), **mean}
        for critic, own, mean in found
    ]  # fmt: skip


def ranked_pairs(
    questions: Sequence[Any], judged: Sequence[float | None], human: Sequence[float | None]
) -> list[tuple[Any, float]]:
    """Pairs of critiques of one question that people score differently, with 1.0 where the judge orders them so too.

    A judge's tie counts one half; pairs with a critique that has no score are left out.
    """
    found = []
    for i, j in combinations(range(len(questions)), 2):
        a, b, gold_a, gold_b = judged[i], judged[j], human[i], human[j]
        if questions[i] != questions[j] or a is None or b is None or gold_a is None or gold_b is None:
            continue
        if gold_a != gold_b:
            found.append((questions[i], 0.5 if a == b else float((a > b) == (gold_a > gold_b))))
    return found


def agreement(verdicts: Verdicts, labels: Sequence[bool]) -> list[bool]:
    """Whether each readable verdict is the label; raises ValueError where there are more of one than of the other."""
    return [v == label for v, label in zip(verdicts, labels, strict=True) if v is not None]
