"""The meta-judge's part of a group (Meta-Rewarding, 2407.19594): which judgements meet, and who won.

The streaming stage asks for exactly the pairs that selection later reads; both come from here.
"""

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, MetaJudgement
from pipelines.steps.aggregate import Battle, battle_matrix, elo
from pipelines.steps.judgements import scored_judgements, values
from pipelines.steps.select import max_variance


def meta_judged_sample(group: Group, context: Context, among: set[str] | None = None) -> str | None:
    """The response whose judgements the meta-judge compares: the largest variance of scores, ties by seeded hash.

    Only responses with two or more readable judgements qualify, and only those in `among` where it is given
    (R4, 2407.19594 section 2, judge data).
    """
    judged = {i: values(js) for i, js in scored_judgements(group).items() if among is None or i in among}
    return max_variance({i: v for i, v in judged.items() if len(v) > 1}, context.run_seed)


def meta_judge_pairs(group: Group, context: Context) -> list[tuple[Judgement, Judgement]]:
    """Every unordered pair of readable judgements of the selected response, each to be shown in both orders.

    N(N-1)/2 pairs for N readable judgements; empty when no response has two. The group's judgements carry `status` and
    `value`, as a stage or `read_judgement` fills them.
    """
    selected = meta_judged_sample(group, context)
    judged = scored_judgements(group).get(selected, []) if selected else []
    return [(a, b) for i, a in enumerate(judged) for b in judged[i + 1:]]


def battles(group: Group) -> list[Battle]:
    """The readable comparisons of two readable judgements of one response, as first shown against second shown."""
    found = []
    for _, meta in _compared(group):
        if meta["status"] != "ok":
            continue
        a, b = meta["judgement_a"], meta["judgement_b"]
        result = {"A": 1, "B": -1}.get(meta.get("winner") or "tie", 0)
        found.append(Battle(b, a, -result) if meta["order"] else Battle(a, b, result))
    return found


def judgement_elo(group: Group, weights: tuple[float, float], context: Context) -> dict[str, float]:
    """Elo of every readable judgement of the selected response, by judgement id; empty without any battle of it.

    Recorded comparisons decide which responses qualify, so that records made elsewhere, with other ties, can be read.
    Unreadable ones count here too: what the meta-judge failed to say must not move the choice to another response.
    """
    selected = meta_judged_sample(group, context, {sample_id for sample_id, _ in _compared(group)})
    if selected is None:
        return {}
    items = sorted(j["judgement_id"] for j in scored_judgements(group)[selected])
    fought = [battle for battle in battles(group) if battle.first in items]
    return dict(zip(items, elo(battle_matrix(items, fought, weights)), strict=True)) if fought else {}


def _compared(group: Group) -> list[tuple[str, MetaJudgement]]:
    """The recorded comparisons, readable or not, of two readable judgements of one response, with the response's id."""
    judged = {j["judgement_id"]: i for i, judged in scored_judgements(group).items() for j in judged}
    found = []
    for meta in group["meta_judgements"]:
        a, b = meta["judgement_a"], meta["judgement_b"]
        if a != b and a in judged and judged[a] == judged.get(b):
            found.append((judged[a], meta))
    return found
