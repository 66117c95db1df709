"""Agreement and consistency of judges that are asked in both orders."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.agreement import BothOrders, agreement, agrees, consistency, is_consistent, selective_accuracy

verdicts = st.sampled_from(["A", "B", "tie", None])
rows = st.lists(st.builds(BothOrders, verdicts, verdicts, st.sampled_from(["A", "B", "tie"])))


def test_r10_agreement_and_consistency_fixture() -> None:
    judged = [
        BothOrders("A", "B", "A"),  # right in both
        BothOrders("A", "A", "A"),  # always the first
        BothOrders("B", "A", "A"),  # wrong in both, and consistent
        BothOrders("tie", "tie", "tie"),
    ]
    assert [agrees(row) for row in judged] == [True, False, False, True]
    assert [is_consistent(row) for row in judged] == [True, False, True, True]
    assert (agreement(judged), consistency(judged)) == (2 / 4, 3 / 4)
    assert (agreement([]), consistency([])) == (None, None)


@given(rows)
def test_who_agrees_is_consistent(judged: list[BothOrders]) -> None:
    assert all(is_consistent(row) for row in judged if agrees(row))


@given(st.lists(st.builds(BothOrders, st.just("A"), st.just("A"), st.sampled_from(["A", "B", "tie"])), min_size=1))
def test_a_judge_of_positions_agrees_with_nobody(judged: list[BothOrders]) -> None:
    assert (agreement(judged), consistency(judged)) == (0, 0)


@given(verdicts, st.sampled_from(["A", "B", "tie"]))
def test_an_unreadable_verdict_is_no_tie(other: str | None, gold: str) -> None:
    for row in (BothOrders(None, other, gold), BothOrders(other, None, gold)):
        assert not agrees(row) and not is_consistent(row)


def test_self_j_selective_curve_fixture() -> None:
    """R14.7: a perfect score gives the better half's accuracy at half coverage, a random one a flat curve."""
    right = [True, False] * 6 + [True] * 4  # ten of sixteen
    perfect = [float(was_right) for was_right in right]
    assert [selective_accuracy(perfect, right, c) for c in (0.5, 0.625, 1.0)] == [1.0, 1.0, 0.625]
    assert selective_accuracy([-score for score in perfect], right, 0.5) == 2 / 8
    assert [selective_accuracy([0.0] * 16, right, c) for c in (0.1, 0.5, 1.0)] == pytest.approx([0.625] * 3)
    chance = random.Random(0)
    found = [selective_accuracy([chance.random() for _ in right], right, 0.5) for _ in range(2000)]
    assert sum(found) / len(found) == pytest.approx(0.625, abs=0.02)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1), st.floats(0.01, 1), st.randoms())
def test_a_curve_does_not_depend_on_the_order_of_answers(answers, coverage: float, shuffler: random.Random) -> None:
    mixed = answers.copy()
    shuffler.shuffle(mixed)
    one, other = (selective_accuracy([s for s, _ in a], [r for _, r in a], coverage) for a in (answers, mixed))
    assert one == pytest.approx(other)
    assert 0 <= one <= 1 + 1e-9
    assert selective_accuracy(*zip(*answers, strict=True), 1.0) == pytest.approx(
        sum(r for _, r in answers) / len(answers)
    )


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.5])
def test_no_answers_have_no_accuracy(coverage: float) -> None:
    with pytest.raises(ValueError, match="is none"):
        selective_accuracy([1.0], [True], coverage)
    with pytest.raises(ValueError, match="is none"):
        selective_accuracy([], [], 0.5)
