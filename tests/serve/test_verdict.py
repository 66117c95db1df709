"""Votes become one reply: abstentions change no number, and a preference for a place is a tie."""

from typing import Any, cast

import pytest

from pipelines.records import Judgement
from serve.models import Vote
from serve.verdict import summarise_comparison, summarise_scores, vote_of


def score(index: int, value: float | None, status: str = "ok") -> Vote:
    return Vote.model_validate(
        {"responses": [index], "order": 0, "text": "…", "status": status if value is not None else "missing",
         "score": value}
    )


def verdict(order: int, winner: str | None) -> Vote:
    status = "missing" if winner is None else "ok"
    return Vote.model_validate(
        {"responses": [0, 1], "order": order, "text": "…", "status": status, "verdict": winner}
    )


def compare(first: str, second: str | None = None) -> dict[str, Any]:
    """One letter a vote: A, B, t(ie) or - for unreadable; the second word is the swapped order."""
    names = {"A": "A", "B": "B", "t": "tie", "-": None}
    votes = [verdict(order, names[v]) for order, word in enumerate((first, second or "")) for v in word]
    return summarise_comparison(votes, second is not None)


def test_means_leave_unreadable_votes_out():
    votes = [score(0, 4.0), score(0, None), score(0, 1.0), score(1, 3.0), score(1, None), score(1, None)]
    assert summarise_scores(votes, 2) == {"scores": [2.5, 3.0], "winner": 1, "abstained": False}


@pytest.mark.parametrize(
    ("scores", "winner"), [([3.0, 3.0], "tie"), ([3.0, 1.0, 3.0], "tie"), ([3.0, 1.0, 3.5], 2), ([0.0, 0.0], "tie")]
)
def test_the_winner_is_the_single_best(scores, winner):
    votes = [score(i, value) for i, value in enumerate(scores)]
    assert summarise_scores(votes, len(scores))["winner"] == winner


def test_a_single_response_has_a_score_and_no_winner():
    assert summarise_scores([score(0, 0.0)], 1) == {"scores": [0.0], "winner": None, "abstained": False}


def test_a_response_without_a_readable_vote_makes_the_judge_abstain():
    votes = [score(0, 5.0), score(1, None)]
    assert summarise_scores(votes, 2) == {
        "scores": [5.0, None], "winner": None, "abstained": True, "reason": "no readable vote for some response",
    }
    assert summarise_scores([], 1)["abstained"]


@pytest.mark.parametrize(
    ("first", "second", "winner", "confidence"),
    [
        ("A", "A", 0, 1.0),
        ("B", "B", 1, 1.0),
        ("t", "t", "tie", 1.0),
        ("AAB", "ABA", 0, 4 / 6),
        ("AA-", "A--", 0, 1.0),  # unreadable votes count nowhere
        ("A", "B", "tie", 0.0),  # flips with the order: position bias
        ("AAA", "BBB", "tie", 0.0),  # a judge that likes the first place (verdicts are about the responses as listed)
        ("AB", "AA", "tie", 0.0),  # no majority in one order
        ("At", "tA", "tie", 0.5),
        ("AAB", "BBB", "tie", 0.0),
    ],
)
def test_both_orders_must_agree(first, second, winner, confidence):
    assert compare(first, second) == {"winner": winner, "confidence": confidence, "abstained": False}


def test_swapping_the_responses_swaps_the_verdict():
    turned = str.maketrans("AB", "BA")
    for first, second in [("AAB", "ABA"), ("BBt", "BtB"), ("A", "B"), ("tt", "AB"), ("A-B", "A")]:
        here, there = compare(first, second), compare(second.translate(turned), first.translate(turned))
        assert there == {**here, "winner": {0: 1, 1: 0}.get(here["winner"], here["winner"])}


def test_one_order_stands_alone_when_asked_for():
    assert compare("AAB") == {"winner": 0, "confidence": 2 / 3, "abstained": False}
    assert compare("AB")["winner"] == "tie"


@pytest.mark.parametrize(("first", "second", "order"), [("--", "AA", 0), ("AA", "-", 1), ("-", "-", 0), ("A", "", 1)])
def test_an_order_without_a_readable_vote_makes_the_judge_abstain(first, second, order):
    assert compare(first, second) == {
        "winner": None, "abstained": True, "reason": f"no readable vote in order {order}"
    }


def test_a_vote_shows_the_record_as_it_is():
    record = {"order": 1, "text": "Winner: A", "status": "ok", "value": None, "verdict": "B", "sample_ids": ["0", "1"]}
    vote = vote_of(cast(Judgement, record), [0, 1], "pairwise")
    assert (vote.responses, vote.order, vote.verdict, vote.score) == ([0, 1], 1, "B", None)
    record = {"order": 0, "text": "", "status": "missing", "sample_ids": ["2"]}
    unread = vote_of(cast(Judgement, record), [2], "additive")
    assert (unread.responses, unread.status, unread.score, unread.verdict) == ([2], "missing", None, None)


def test_a_fast_comparison_shows_the_probability_of_the_first_as_listed():
    record = {"order": 1, "text": '{"A": -1.0986122886681098, "B": -0.40546510810816444}', "status": "ok",
              "verdict": "A", "sample_ids": ["0", "1"]}
    swapped = vote_of(cast(Judgement, record), [0, 1], "fast_pairwise")
    assert swapped.probability == pytest.approx(2 / 3)
    listed = swapped.model_copy(update={"order": 0, "probability": 0.9})
    found = summarise_comparison([listed, swapped], True)
    assert (found["winner"], found["confidence"]) == (0, pytest.approx((0.9 + 2 / 3) / 2))


@pytest.mark.parametrize(("policy", "winner", "abstained"), [("tie", "tie", False), ("abstain", None, True),
                                                             ("first", 0, False)])
def test_orders_that_disagree_are_what_the_caller_says(policy, winner, abstained):
    found = summarise_comparison([verdict(0, "A"), verdict(1, "B")], True, policy)
    assert (found["winner"], found["abstained"]) == (winner, abstained)
