"""Votes become one verdict, and add up to rates."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.votes import Decision, Vote, best, decide, majority, mean_scores, preferred, rates, votes_of
from tests.pipelines.planted import judgement

VERDICTS = st.sampled_from(["A", "B", "tie", None])


def vote(order: int, verdict: str | None, probability: float | None = None) -> Vote:
    return Vote(order, "missing" if verdict is None else "ok", verdict, probability=probability)


def votes(first: str, second: str) -> list[Vote]:
    """One letter a vote: A, B, t(ie) or - for unreadable; the second word is the swapped order."""
    names = {"A": "A", "B": "B", "t": "tie", "-": None}
    return [vote(order, names[v]) for order, word in enumerate((first, second)) for v in word]


@pytest.mark.parametrize(
    ("first", "second", "tie", "abstain", "one"),
    [
        ("A", "A", "A", "A", "A"), ("A", "B", "tie", None, "A"), ("B", "A", "tie", None, "B"),
        ("A", "t", "tie", None, "A"), ("t", "t", "tie", "tie", "tie"), ("AAB", "ABA", "A", "A", "A"),
        ("AB", "AA", "tie", None, "tie"), ("--", "A", None, None, None), ("A", "-", None, None, None),
    ],
)  # fmt: skip
def test_orders_that_disagree_come_to_what_the_policy_says(
    first: str, second: str, tie: str | None, abstain: str | None, one: str | None
) -> None:
    found = votes(first, second)
    assert [decide(found, True, policy).winner for policy in ("tie", "abstain", "first")] == [tie, abstain, one]


def test_an_abstention_says_why() -> None:
    assert decide(votes("A", "B"), True, "abstain") == Decision(None, None, "the orders disagree")
    assert decide(votes("A", "-"), True) == Decision(None, None, "no readable vote in order 1")
    assert decide(votes("A", ""), False) == Decision("A", 1.0)


def test_probabilities_are_averaged_over_both_orders() -> None:
    found = [vote(0, "A", 0.9), vote(1, "B", 0.3)]
    decision = decide(found, True)
    assert (decision.winner, decision.confidence) == ("A", pytest.approx(0.6))
    assert decide(found, False) == Decision("A", 0.9)
    of_places = [vote(0, "A", 0.8), vote(1, "B", 0.2)]  # the first place with .8, whatever stands there
    assert decide(of_places, True) == Decision("tie", 0.5)


@given(st.lists(st.tuples(st.integers(0, 1), VERDICTS), max_size=12))
def test_exchanging_the_responses_exchanges_the_decision(said: list[tuple[int, str | None]]) -> None:
    turned = {"A": "B", "B": "A"}
    here = decide([vote(o, v) for o, v in said], True)
    there = decide([vote(1 - o, turned.get(v or "", v)) for o, v in said], True)
    assert there.winner == turned.get(here.winner or "", here.winner)
    assert there.confidence == here.confidence


@given(st.lists(st.tuples(st.integers(0, 1), VERDICTS), max_size=12), st.integers(0, 1))
def test_an_unreadable_vote_changes_nothing_where_there_are_others(said: list[Any], order: int) -> None:
    found = [vote(o, v) for o, v in said]
    assert decide([*found, vote(order, None)], True) == decide(found, True)


def test_scores_are_means_of_what_can_be_read() -> None:
    found = [Vote(0, "ok", score=4.0), Vote(0, "missing"), Vote(0, "ok", score=1.0, place=1),
             Vote(0, "ok", score=2.0, place=1)]  # fmt: skip
    assert mean_scores(found, 3) == [4.0, 1.5, None]
    assert [best(s) for s in ([4.0, 1.5], [1.0, 1.0], [1.0, None], [])] == [0, "tie", None, None]
    assert [preferred(*s) for s in ((5.0, 1.0), (1.0, 5.0), (3.0, 3.0), (None, 3.0))] == ["A", "B", "tie", None]
    assert [majority(v) for v in (["A", None, "A", "B"], ["A", "B"], [None], ["tie"])] == ["A", "tie", None, "tie"]


def compared(name: str, order: int, verdict: str | None, ids: tuple[str, str] = ("y", "z"), **other: Any) -> Any:
    status = "ok" if verdict else "missing"
    fields: dict[str, Any] = {"sample_ids": list(ids), "order": order, "verdict": verdict, "status": status}
    return judgement(name, ids[0], "", **{**fields, **other})


def test_rates_by_hand() -> None:
    found = rates([
        compared("1", 0, "A"), compared("2", 1, "B"),  # the first place in both orders: a flip
        compared("3", 0, "A", ("y", "x")), compared("4", 1, "A", ("y", "x")),
        compared("5", 0, "tie", ("w", "x")), compared("6", 1, None, ("w", "x"), status="truncated"),
        judgement("7", "y", "", status="ok", value=3.0), judgement("8", "y", "", status="ambiguous"),
    ])  # fmt: skip
    assert found["total"] == 8
    assert found["counts"] == {"ok": 6, "missing": 0, "ambiguous": 1, "out_of_range": 0, "truncated": 1}
    assert found["rates"]["ok"] == 0.75
    assert (found["ties"], found["tied"]) == (1, 0.2)
    assert found["first_position_rate"] == 0.75
    assert (found["flips"], found["flipped"]) == (1, 0.5)
    nothing = rates([])
    assert (nothing["flipped"], nothing["tied"], nothing["rates"]["ok"], nothing["flips"]) == (None, None, None, 0)


def test_records_that_list_the_two_the_other_way_round_count_as_the_swapped_order() -> None:
    ours = [compared("1", 0, "A"), compared("2", 1, "B")]
    theirs = [compared("1", 0, "A"), compared("2", 0, "A", ("z", "y"))]
    assert votes_of(ours, "pairwise", ["y", "z"]) == votes_of(theirs, "pairwise", ["y", "z"])
    assert rates(ours)["flips"] == rates(theirs)["flips"] == 1


def test_a_weighed_record_has_the_probability_of_the_first_listed() -> None:
    text = '{"A": -0.6931471805599453, "B": -1.3862943611198906}'  # 1/2 and 1/4: what was shown first has 2/3
    said = [compared("1", 0, "A"), compared("2", 1, "B")]
    found = votes_of([{**j, "text": text} for j in said], "fast_pairwise", ["y", "z"])
    assert [v.probability for v in found] == pytest.approx([2 / 3, 1 / 3])
    assert [v.verdict for v in found] == ["A", "B"]
