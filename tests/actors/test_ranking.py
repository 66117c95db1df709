"""Many responses ranked by comparisons of two: the schedule, the fit, and oracles that judge."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.judge import Judge
from actors.ranking import rank, ranking, schedule
from actors.speaker import Speaker
from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep
from pipelines.records import new_group
from pipelines.steps.make_prompts import given_sample
from tests.oracles import CHAT, VERSION, Cast, Opinion, Truth, mute, place, rule
from tests.pipelines.planted import judgement
from tests.playing import ROOM, Direct, engine_of

TEXTS = {"bad": 0.5, "fair": 2.0, "good": 3.5, "best": 4.8}


@given(st.integers(2, 12), st.integers(0, 70), st.integers(0, 5))
def test_a_schedule_connects_all_and_spreads_evenly(count: int, budget: int, seed: int) -> None:
    pairs = count * (count - 1) // 2
    if budget < count - 1:
        if budget < pairs:
            with pytest.raises(ValueError, match="do not connect"):
                schedule(count, budget, seed)
        return
    found = schedule(count, budget, seed)
    assert len(found) == len(set(found)) == min(budget, pairs)
    met = {0}
    for _ in range(count):
        met |= {place for pair in found if met & set(pair) for place in pair}
    assert met == set(range(count))
    times = [sum(i in pair for pair in found) for i in range(count)]
    assert budget < 2 * count or max(times) - min(times) <= 2
    assert schedule(count, budget, seed) == found


def test_everything_is_compared_without_a_budget() -> None:
    assert schedule(3) == [(0, 1), (0, 2), (1, 2)]


def test_a_ranking_by_hand() -> None:
    said = [("y", "z", 0, "A"), ("y", "z", 1, "A"), ("y", "x", 0, "B"), ("y", "x", 1, "tie"), ("z", "x", 0, None)]
    records = [
        judgement(str(i), a, "", sample_ids=[a, b], order=order, verdict=v, status="ok" if v else "missing")
        for i, (a, b, order, v) in enumerate(said)
    ]
    found = ranking(["x", "y", "z", "w"], records)
    assert [s.item for s in found.standings] == ["x", "y", "z", "w"]
    assert found.beat == {("x", "y"): 1, ("y", "z"): 2}
    by_item = {s.item: (s.wins, s.losses, s.ties, s.abstentions) for s in found.standings}
    assert by_item == {"x": (1, 0, 1, 1), "y": (2, 1, 1, 0), "z": (0, 2, 0, 1), "w": (0, 0, 0, 0)}
    assert found.standings[-1].elo is None


async def ranked(opinion: Opinion, protocol: str = "pairwise", budget: int | None = None) -> Any:
    group = new_group([{"role": "user", "content": "Which is best?"}])
    truth = Truth([group])
    samples = [given_sample(group["prompt_id"], i, "given", f"This is {name}.") for i, name in enumerate(TEXTS)]
    for sample, quality in zip(samples, TEXTS.values(), strict=True):
        truth.note(truth.answers, group, sample["text"], quality)
    step = JudgeStep(protocol, Sampling(n=1), "fast_pairwise" if protocol == "fast_pairwise" else "judge_pairwise")
    client: Any = Direct(engine_of(step, truth, Cast(judge=opinion)))
    judge = Judge(Speaker(client, CHAT, ROOM))
    found = await rank(judge, group, samples, step, Context(0, "test", 0), VERSION, budget)
    names = {sample["sample_id"]: name for sample, name in zip(samples, TEXTS, strict=True)}
    return [(names[s.item], s) for s in found.standings], found.beat


@pytest.mark.parametrize("protocol", ["pairwise", "fast_pairwise"])
@pytest.mark.parametrize("budget", [None, 3])
async def test_a_judge_who_knows_ranks_by_quality(protocol: str, budget: int | None) -> None:
    standings, beat = await ranked(rule(), protocol, budget)
    if budget is None:
        assert [name for name, _ in standings] == ["best", "good", "fair", "bad"]
        assert len(beat) == 6 and set(beat.values()) == {2}
    assert sum(beat.values()) == 2 * (budget or 6)


async def test_a_judge_of_places_ranks_nobody_and_a_mute_one_abstains() -> None:
    standings, beat = await ranked(place)
    assert {s.elo for _, s in standings} == {0.0}
    assert set(beat.values()) == {1} and len(beat) == 12
    standings, beat = await ranked(mute(1.0, rule()))
    assert {(s.elo, s.abstentions) for _, s in standings} == {(None, 6)}
    assert beat == {}
