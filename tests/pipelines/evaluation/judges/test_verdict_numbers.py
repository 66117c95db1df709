"""Numbers of a judge by hand, and what must hold of any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.verdicts import as_listed
from pipelines.evaluation.judges.verdict_numbers import (
    Outcome,
    accuracy,
    judge_estimates,
    points,
    section_estimates,
    subset_rows,
)
from pipelines.steps.agreement import BothOrders, agreement, consistency

LABELS, VERDICTS = st.sampled_from(["A", "B", "tie"]), st.sampled_from(["A", "B", "tie", None])
OUTCOMES = st.lists(
    st.builds(lambda label, verdicts, longer: (label, verdicts, longer), LABELS, st.tuples(VERDICTS, VERDICTS),
              st.integers(-50, 50)), min_size=1, max_size=15,
).map(lambda found: [Outcome(i, *made, decided=made[1][0]) for i, made in enumerate(found)])  # fmt: skip
BY_HAND = [
    Outcome(0, "A", ("A", "A"), 10, decided="A"), Outcome(1, "A", ("B", "tie"), 10, decided="tie"),
    Outcome(2, "B", (None, "B"), -10), Outcome(3, "tie", ("tie", "tie"), 0, decided="tie"),
]  # fmt: skip


def test_by_hand() -> None:
    found = {name: (e.value, e.n) for name, e in judge_estimates(BY_HAND).items()}
    assert [points(o) for o in BY_HAND] == [1.0, 0.0, 1.0, 1.0]
    assert found["accuracy"] == (0.75, 4)
    assert found["accuracy_ties_half"] == (0.8125, 4)
    assert found["accuracy_abstentions_half"] == ((1 + 0 + 0.75 + 1) / 4, 4)
    assert found["right_in_both_orders"] == (2 / 3, 3)
    assert (found["consistency"], found["flip_rate"]) == ((2 / 3, 3), (pytest.approx(1 / 3), 3))
    assert found["decision_accuracy"] == (2 / 3, 3)
    assert (found["ties"], found["readable"]) == ((3 / 7, 7), (7 / 8, 8))
    assert found["first_position_rate"] == (0.5, 4)  # of A-B, A; B-A, A; A-B, B; B-A, B the first and the last


def test_the_fixture_of_auto_j() -> None:
    shown = [("A", "B", "A"), ("A", "A", "A"), ("B", "A", "A"), ("tie", "tie", "tie")]  # R10, section 7
    outcomes = [Outcome(i, gold, (n, as_listed(s, 1))) for i, (n, s, gold) in enumerate(shown)]
    found = judge_estimates(outcomes)
    assert (found["right_in_both_orders"].value, found["consistency"].value) == (0.5, 0.75)


@settings(max_examples=15, deadline=None)  # each makes two dozen intervals
@given(OUTCOMES)
def test_with_every_verdict_readable_both_orders_are_those_of_auto_j(outcomes: list[Outcome]) -> None:
    read = [o for o in outcomes if None not in o.verdicts]
    rows = [BothOrders(o.verdicts[0], as_listed(o.verdicts[1], 1), o.label) for o in read]
    found = judge_estimates(read) if read else None
    if found:
        assert found["right_in_both_orders"].value == pytest.approx(agreement(rows))
        assert found["consistency"].value == pytest.approx(consistency(rows))


@settings(max_examples=15, deadline=None)  # each makes two dozen intervals
@given(OUTCOMES)
def test_exchanging_what_is_listed_changes_no_number(outcomes: list[Outcome]) -> None:
    turned = [
        o._replace(label=as_listed(o.label, 1) or "", verdicts=tuple(as_listed(v, 1) for v in o.verdicts[::-1]),
                   longer=-o.longer, decided=as_listed(o.decided, 1))
        for o in outcomes
    ]  # fmt: skip
    here, there = judge_estimates(outcomes), judge_estimates(turned)
    for name, estimate in here.items():
        assert there[name].value == (None if estimate.value is None else pytest.approx(estimate.value)), name


@settings(max_examples=15, deadline=None)  # each makes two dozen intervals
@given(OUTCOMES)
def test_a_judge_of_places_is_right_half_of_the_time(outcomes: list[Outcome]) -> None:
    decided = [o._replace(verdicts=("A", "B")) for o in outcomes if o.label != "tie"]
    if decided:
        found = judge_estimates(decided)
        assert found["accuracy"].value == 0.5
        assert (found["right_in_both_orders"].value, found["flip_rate"].value) == (0.0, 1.0)
        assert found["first_position_rate"].value == 1.0


def test_a_mute_judge_has_abstained_and_made_no_error() -> None:
    found = judge_estimates([Outcome(i, "A", (None, None)) for i in range(4)])
    assert (found["accuracy"].value, found["accuracy"].n, found["readable"].value) == (None, 0, 0.0)
    assert found["accuracy_abstentions_half"].value == 0.5


def test_what_never_happens_has_an_interval_of_its_rows_all_the_same() -> None:
    found = judge_estimates([Outcome(i, "A", ("A", "A")) for i in range(50)])
    assert found["ties"].interval == pytest.approx((0.0, 0.0713), abs=1e-3)  # Wilson, 0 of 50 rows
    assert found["readable"].interval == pytest.approx((0.9287, 1.0), abs=1e-3)


def test_comparisons_of_one_row_are_one_cluster() -> None:
    alone = [Outcome(i, "A", ("A" if i % 2 else "B",)) for i in range(40)]
    together = [Outcome(i, "A", ("A" if i % 2 else "B",)) for i in range(40) for _ in range(9)]
    one, nine = accuracy(alone), accuracy(together)
    assert one.interval and nine.interval and one.value == nine.value == 0.5
    assert nine.n == 360
    assert nine.interval[1] - nine.interval[0] == pytest.approx(one.interval[1] - one.interval[0], abs=0.05)


def of(section: str, subset: str, right: int, wrong: int, start: int) -> list[Outcome]:
    return [
        Outcome(start + i, "A", ("A" if i < right else "B",), 0, subset, section) for i in range(right + wrong)
    ]


def test_sections_are_weighted_by_comparisons_and_the_overall_score_by_sections() -> None:
    outcomes = [
        *of("Chat", "easy", 9, 1, 0), *of("Chat", "hard", 1, 1, 100),
        *of("Reasoning", "math-prm", 2, 2, 200), *of("Reasoning", "hep-cpp", 6, 0, 300),
        *of("Reasoning", "hep-js", 5, 1, 400),
    ]  # fmt: skip
    found = {name: estimate.value for name, estimate in section_estimates(outcomes).items()}
    assert found["section Chat"] == pytest.approx(10 / 12)
    assert found["section Reasoning"] == pytest.approx(13 / 16)
    assert found["section Reasoning, math-prm as all code"] == pytest.approx((12 * 0.5 + 6 + 5) / 24)
    assert found["overall"] == pytest.approx((10 / 12 + 13 / 16) / 2)
    assert found["overall, math-prm as all code"] == pytest.approx((10 / 12 + 17 / 24) / 2)
    assert all(e.interval for e in section_estimates(outcomes).values())
    assert section_estimates([o._replace(section="") for o in outcomes]) == {}


def test_a_subset_has_its_abstentions_in_a_column_of_their_own() -> None:
    outcomes = [Outcome(0, "A", ("A", None), subset="x"), Outcome(1, "A", ("B", "B"), subset="y")]
    rows = subset_rows(outcomes, lambda o: o.subset, "subset")
    assert [(r["subset"], r["accuracy"], r["unread half"], r["unread"]) for r in rows] == [
        ("x", 1.0, 0.75, 1), ("y", 0.0, 0.0, 0)
    ]


def test_a_judge_of_length_is_seen() -> None:
    outcomes = [Outcome(i, "A", ("A" if gap > 0 else "B",) * 2, gap) for i, gap in enumerate([40, -40, 40])]
    assert judge_estimates(outcomes)["length_correlation"].value == pytest.approx(1.0)
    assert np.isclose(judge_estimates(outcomes)["first_position_rate"].value or 0, 0.5)
