"""Comparisons of two samples: who won, and what that makes of every sample. Pure and independent of arrival."""

from collections.abc import Iterable

from pipelines.records import Group, Judgement
from pipelines.steps.aggregate import Battle, battle_matrix, elo
from pipelines.steps.judgements import distinct_samples


def sample_battles(group: Group) -> list[Battle]:
    """The readable comparisons of two samples, as first shown against second shown; ties have result 0."""
    return battles_of(group["judgements"])


def battles_of(judgements: Iterable[Judgement]) -> list[Battle]:
    """The readable ones that compare two samples, as first shown against second shown; ties have result 0."""
    found = []
    for judgement in judgements:
        if len(judgement["sample_ids"]) == 2 and judgement["status"] == "ok":
            a, b = judgement["sample_ids"]
            result = {"A": 1, "B": -1}.get(judgement.get("verdict") or "tie", 0)
            found.append(Battle(b, a, -result) if judgement["order"] else Battle(a, b, result))
    return found


def sample_elo(group: Group, kind: str = "sample") -> dict[str, float]:
    """Elo of every distinct sample of `kind` that a readable comparison with another one is about, by sample id.

    Both orders count the same, so that a judge of positions makes all equal (R2, 2410.10630 section 2). A sample that
    was only ever compared unreadably is absent: it has no score.
    """
    distinct = {s["sample_id"] for s in distinct_samples(group, (kind,))}
    fought = [b for b in sample_battles(group) if {b.first, b.second} <= distinct and b.first != b.second]
    items = sorted({str(item) for battle in fought for item in (battle.first, battle.second)})
    return dict(zip(items, elo(battle_matrix(items, fought)), strict=True))
