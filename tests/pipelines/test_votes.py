import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import Sample
from pipelines.steps.votes import answer_classes, count_votes, most_and_least
from tests.pipelines.planted import sample

ANSWERS = ["12", "12", "12", "15", "12", "7", "15", "12"]

some_answers = st.lists(st.none() | st.integers(1, 4).map(str), max_size=12)


def voters(answers: Sequence[str | None], kind: str = "sample", first: int = 0) -> list[Sample]:
    return [sample(f"{kind}{i}", f"text {i}", i, kind=kind, answer=a) for i, a in enumerate(answers, first)]


def test_scpo_votes_fixture() -> None:
    votes = count_votes(voters(ANSWERS))
    assert [votes[f"sample{i}"] for i in range(8)] == [5, 5, 5, 2, 5, 1, 2, 5]
    ids = list(votes)
    for seed in range(20):
        chosen, rejected = most_and_least(votes, ids, ids, seed) or ("", "")
        assert (votes[chosen], rejected) == (5, "sample5")


def test_answers_that_say_the_same_vote_together() -> None:
    said = ["18", "18.0", "$18", "18 dollars", "\\frac{36}{2}", "(c)", "C", "c) all of them", "Paris", "paris.", "19"]
    classes = answer_classes(said)
    assert sorted(Counter(classes.values()).values()) == [1, 2, 3, 5]
    assert len({classes[a] for a in said[:5]}) == len({classes[a] for a in said[5:8]}) == 1


def test_two_answers_that_equal_a_third_are_one() -> None:
    assert len(set(answer_classes(["18 dollars", "18 cents"]).values())) == 2
    assert len(set(answer_classes(["18 dollars", "18 cents", "18"]).values())) == 1


@given(st.lists(st.sampled_from(["1", "1.0", "2", "2/1", "x", "X.", "(a)", "a", "5 km"]), max_size=8), st.randoms())
def test_classes_ignore_arrival_and_repeats(answers: list[str], shuffler: random.Random) -> None:
    mixed = answers * 2
    shuffler.shuffle(mixed)
    classes = answer_classes(answers)
    assert answer_classes(mixed) == classes
    assert all(classes[name] == name for name in classes.values())


@given(some_answers, some_answers, st.randoms())
def test_votes_are_those_of_the_regular_samples(
    answers: list[str | None], hot: list[str | None], shuffler: random.Random
) -> None:
    samples = voters(answers) + voters(hot, "hot", len(answers))
    votes = count_votes(samples)
    for s in samples:
        answer = s.get("answer")
        assert votes[s["sample_id"]] == (0 if answer is None else answers.count(answer))
    shuffler.shuffle(samples)
    assert count_votes(samples) == votes


@given(some_answers, some_answers, st.integers(0, 5), st.randoms())
def test_the_most_voted_meets_the_least_voted(
    answers: list[str | None], hot: list[str | None], seed: int, shuffler: random.Random
) -> None:
    samples = voters(answers) + voters(hot, "hot", len(answers))
    votes, regular = count_votes(samples), [s["sample_id"] for s in samples if s["kind"] == "sample"]
    every = list(votes)
    pair = most_and_least(votes, regular, every, seed)
    best, worst = max((votes[i] for i in regular), default=0), min(votes.values(), default=0)
    assert (pair is None) == (best <= worst)
    if pair:
        assert (votes[pair[0]], votes[pair[1]], pair[0] in regular) == (best, worst, True)
    shuffler.shuffle(regular)
    shuffler.shuffle(every)
    assert most_and_least(votes, regular, every, seed) == pair


def test_the_draw_from_a_cluster_goes_by_seed() -> None:
    votes = {"a": 2, "b": 2, "c": 1, "d": 1}
    drawn = {most_and_least(votes, votes, votes, seed) for seed in range(60)}
    assert drawn == {(c, r) for c in "ab" for r in "cd"}


@pytest.mark.parametrize("votes", [{}, {"a": 3}, {"a": 2, "b": 2}, {"a": 0, "b": 0}])
def test_equal_votes_prefer_nothing(votes: dict[str, int]) -> None:
    assert most_and_least(votes, votes, votes) is None
