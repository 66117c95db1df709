"""Many responses ranked by a judge that compares two at a time: a schedule, its verdicts in both orders, Elo scores.

The fit is that of actors' battles everywhere (pipelines.steps.aggregate.elo): both orders count the same, so a judge of
places ranks nobody, and an unreadable verdict is no battle.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from actors.judge import Judge
from pipelines.recipes.base import Context, JudgeStep
from pipelines.records import Group, Judgement, Sample, digest
from pipelines.steps.aggregate import battle_matrix, elo
from pipelines.steps.comparisons import battles_of


@dataclass(frozen=True)
class Standing:
    """One item of a ranking. `elo` is None where no readable comparison is about it."""

    item: str
    elo: float | None
    wins: int
    losses: int
    ties: int
    abstentions: int


@dataclass(frozen=True)
class Ranking:
    """Items from best to worst, those without a score last; and how often each beat each, {(winner, loser): n}."""

    standings: tuple[Standing, ...]
    beat: dict[tuple[str, str], int]


def schedule(count: int, budget: int | None = None, seed: int = 0) -> list[tuple[int, int]]:
    """Which of `count` items to compare, as pairs of places: all, or `budget` of them.

    A budget connects all items first and then goes to those compared least; the seed breaks ties. Raises ValueError for
    a budget that cannot connect them.
    """
    pairs = list(combinations(range(count), 2))
    if budget is None or budget >= len(pairs):
        return pairs
    if budget < count - 1:
        raise ValueError(f"{budget} comparisons do not connect {count} items; give at least {count - 1}")
    chance = {pair: digest(seed, *pair) for pair in pairs}
    part, met, chosen = list(range(count)), Counter[int](), []
    for _ in range(budget):
        pair = min(
            (p for p in pairs if p not in chosen),
            key=lambda p: (part[p[0]] == part[p[1]], met[p[0]] + met[p[1]], chance[p]),
        )
        old, new = part[pair[1]], part[pair[0]]
        part = [new if own == old else own for own in part]
        met.update(pair)
        chosen.append(pair)
    return sorted(chosen)


def ranking(items: Sequence[str], judgements: Sequence[Judgement]) -> Ranking:
    """The items by Bradley-Terry scores of the judgements that compare two of them; equal ones in the given order."""
    about = [j for j in judgements if len(j["sample_ids"]) == 2 and set(j["sample_ids"]) <= set(items)]
    battles = battles_of(about)
    fought = [item for item in items if any(item in (b.first, b.second) for b in battles)]
    scores = dict(zip(fought, elo(battle_matrix(fought, battles)), strict=True))
    beat = Counter((str(b.first), str(b.second)) if b.result > 0 else (str(b.second), str(b.first))
                   for b in battles if b.result)
    ties = Counter(str(item) for b in battles if not b.result for item in (b.first, b.second))
    unread = Counter(i for j in about if j["status"] != "ok" for i in j["sample_ids"])
    found = [
        Standing(item, scores.get(item), sum(n for (w, _), n in beat.items() if w == item),
                 sum(n for (_, loser), n in beat.items() if loser == item), ties[item], unread[item])
        for item in items
    ]
    return Ranking(tuple(sorted(found, key=lambda s: (s.elo is None, -(s.elo or 0.0)))), dict(sorted(beat.items())))


async def rank(
    judge: Judge, group: Group, samples: Sequence[Sample], step: JudgeStep, context: Context, version: str,
    budget: int | None = None,
) -> Ranking:
    """Ask for every scheduled comparison in both orders, all at once; raises what the judge raises."""
    calls = [
        judge.judge(group, [samples[a], samples[b]], step, context, version, order)
        for a, b in schedule(len(samples), budget, context.run_seed)
        for order in (0, 1)
    ]
    made = await asyncio.gather(*calls)
    return ranking([s["sample_id"] for s in samples], [j for several in made for j in several])
