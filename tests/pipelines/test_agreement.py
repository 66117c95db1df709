"""Agreement and consistency of judges that are asked in both orders."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.agreement import BothOrders, agreement, agrees, consistency, is_consistent

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
