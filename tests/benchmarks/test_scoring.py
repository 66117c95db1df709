"""How the learning bench counts."""

import pytest

from actors.votes import preferred
from benchmarks.scoring import gain_interval, judge_numbers, majority, strict_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8 + 4 = 12.\nAnswer: 12", 12),
        ("Answer: -3\n\n", -3),
        ("Answer: 12.", None),
        ("Answer: 12 apples", None),
        ("answer: 12", None),
        ("Answer:12", None),
        ("The Answer: 12", None),
        ("Answer: 12\nThat is all.", None),
        ("Answer: ٣", None),
        ("Answer: ", None),
        ("12", None),
        ("", None),
    ],
)
def test_only_a_last_line_of_the_form_asked_for_counts(text: str, number: int | None) -> None:
    assert strict_number(text, "Answer: ") == number


def test_the_lead_is_that_of_the_prompt() -> None:
    assert strict_number("Final answer: 7", "Final answer: ") == 7
    assert strict_number("Answer: 7", "Final answer: ") is None


def test_majority_takes_the_first_of_equals_and_ignores_what_is_unreadable() -> None:
    assert majority([None, 3, 4, 4, None, None]) == 4
    assert majority([5, 6, 6, 5]) == 5
    assert majority([None, None]) is None


def test_a_constant_place_is_right_half_of_the_time_and_never_in_both_orders() -> None:
    always_first = judge_numbers([("A", "B")] * 4, ["A", "B", "A", "B"], [5, -3, 2, 7])
    assert always_first["accuracy"] == 0.5
    assert always_first["right_in_both_orders"] == always_first["same_in_both_orders"] == 0.0
    assert always_first["first_place"] == 1.0


def test_numbers_of_a_judge_by_hand() -> None:
    verdicts = [("A", "A"), ("B", "tie"), (None, "B"), ("tie", "tie")]
    found = judge_numbers(verdicts, ["A", "A", "B", "tie"], [10, 10, -10, 0])
    assert found["points"] == [1.0, 0.0, 0.5, 1.0]
    assert found["accuracy"] == 0.625
    assert found["right_in_both_orders"] == 0.5
    assert found["same_in_both_orders"] == 0.5
    assert found["ties"] == 0.375
    assert found["readable"] == 0.875
    assert judge_numbers(verdicts, ["A", "A", "B", "tie"], [10, 10, -10, 0], tie=0.5)["accuracy"] == 0.6875


def test_a_judge_of_length_is_seen() -> None:
    found = judge_numbers([("A", "A"), ("B", "B"), ("A", "A")], ["B", "A", "B"], [40, -40, 40])
    assert found["length_correlation"] == pytest.approx(1.0)
    assert judge_numbers([("tie", "tie")], ["A"], [3])["length_correlation"] is None
    assert judge_numbers([(None, None)], ["A"], [3])["length_correlation"] is None


def test_scores_as_a_verdict() -> None:
    assert [preferred(*s) for s in ((5.0, 1.0), (1.0, 5.0), (3.0, 3.0), (None, 3.0))] == ["A", "B", "tie", None]


def test_the_interval_of_a_gain() -> None:
    before, after = [0.0] * 60 + [1.0] * 40, [1.0] * 90 + [0.0] * 10
    low, high = gain_interval(before, after)
    assert low < 0.5 < high
    assert (low, high) == gain_interval(before, after)
    # Gains of 60 x 1, 30 x 0, 10 x -1: a standard error of sqrt(0.45 / 100).
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.067, 0.5 + 1.96 * 0.067), abs=0.02)
    assert gain_interval(after, after) == (0.0, 0.0)
    with pytest.raises(ValueError, match="same problems"):
        gain_interval(before, after[1:])
