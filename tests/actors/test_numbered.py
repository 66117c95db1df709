"""Numbered lists as models write them: criteria, marks and affinities by number and name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.numbered import Drafted, items_of, numbered_items, parse_affinities, parse_criteria, parse_marks
from actors.verdicts import Reading

NAMES = ["Short names", "Docstrings", "No assert", "Types"]


def marks(text: str, truncated: bool = False) -> list[str]:
    """The mark of each criterion, or else the status."""
    return [reading.value or reading.status for reading in parse_marks(text, NAMES, truncated)]


def test_r7_a_feedback_with_items_1_2_and_4_leaves_3_missing() -> None:
    text = (
        "1. **Short names**: violated. `x` says nothing.\n   - Fix: call it `width`.\n"
        "2. **Docstrings**: satisfied.\n4. **Types**: not applicable"
    )
    assert marks(text) == ["violated", "satisfied", "missing", "not applicable"]
    assert items_of(text, NAMES)[0].text.endswith("call it `width`.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. violated: too short\n2. **satisfied**", ["violated", "satisfied", "missing", "missing"]),
        ("1. satisfied, and so: fine\n2. **Docstrings**: violated names",
         ["satisfied", "violated", "missing", "missing"]),
        ("1) **Docstrings:** violated", ["missing", "violated", "missing", "missing"]),  # its name, not its number
        ("**3. No assert**: violated", ["missing", "missing", "violated", "missing"]),
        ("1. **Short names**: Not violated.\n2. **Docstrings**: not satisfied",
         ["satisfied", "violated", "missing", "missing"]),
        ("1. **Short names**: it is fine.\n   Verdict: violated", ["violated", "missing", "missing", "missing"]),
        ("1. **Short names**: violated or satisfied", ["ambiguous", "missing", "missing", "missing"]),
        ("1. **Short names**: <violated or satisfied>", ["missing"] * 4),
        ("1. **Short names**: it could be violated", ["missing"] * 4),
        ("1. **Short names**: violated\n1. **Short names**: satisfied", ["satisfied", "missing", "missing", "missing"]),
        ("> 1. **Short names**: violated", ["missing"] * 4),
        ("```\n1. **Short names**: violated\n```", ["missing"] * 4),
        ("9. **Other**: violated", ["missing"] * 4),
        ("", ["missing"] * 4),
    ],
)  # fmt: skip
def test_marks(text: str, found: list[str]) -> None:
    assert marks(text) == found


def test_of_a_list_that_was_cut_off_the_last_item_and_all_after_it_are_truncated() -> None:
    text = "1. **Short names**: violated.\n2. **Docstrings**: viol"
    assert marks(text, True) == ["violated", "truncated", "truncated", "truncated"]
    assert marks("1. **Short names**: sat", True)[0] == "truncated" and marks("", True) == ["truncated"] * 4


def test_criteria_have_names_severities_and_the_bullets_below_them() -> None:
    text = """Here they are:
1. **Clear title** (rule): The title names the topic.
   - It has a verb.
2. **Calm tone** (preference): No exclamation marks.
3. Short: at most 100 words
4. nothing with a name
5. **Clear  Title**: again
6. **<name>**: a placeholder"""
    assert parse_criteria(text).value == [
        Drafted("Clear title", "The title names the topic. It has a verb.", "rule"),
        Drafted("Calm tone", "No exclamation marks.", "preference"),
        Drafted("Short", "at most 100 words", "preference"),
    ]
    assert parse_criteria("no list").status == "missing"
    assert [c.name for c in parse_criteria("1. **A**: one\n2. **B**: tw", True).value or []] == ["A"]
    assert parse_criteria("1. **A**: on", True).status == parse_criteria("No", True).status == "truncated"


def test_numbers_below_an_item_are_not_items_of_their_own() -> None:
    found = numbered_items("1. **A**: one\n   1. deeper\n2. **B**: two")
    assert [(item.number, item.name) for item in found] == [(1, "A"), (2, "B")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. It adds. Score: 5\n2. No shapes. Score: 1", [5.0, 1.0]),
        ("2. **Geometry**: none. Score: 1\n1. Score: [[4]]", [4.0, 1.0]),
        ("1. Score: 7\n2. Score: 2.5", ["out_of_range", "out_of_range"]),
        ("1. Score: 3-4\n3. Score: 2", ["ambiguous", "missing"]),
        ("1. five", ["missing", "missing"]),
    ],
)
def test_affinities_by_number(text: str, found: list[float | str]) -> None:
    assert [reading.value or reading.status for reading in parse_affinities(text, 2)] == found


def test_affinities_that_were_cut_off() -> None:
    assert parse_affinities("1. Score: 5\n2. It goes on", 3, True) == [
        Reading(5.0, "ok"), Reading(None, "truncated"), Reading(None, "truncated")]  # fmt: skip


@given(st.text(alphabet="12. )*#>`ABab:\nviolatedsf", max_size=120), st.booleans())
def test_a_reading_has_a_value_if_and_only_if_it_is_ok(text: str, truncated: bool) -> None:
    for reading in [*parse_marks(text, NAMES, truncated), *parse_affinities(text, 3, truncated)]:
        assert (reading.value is None) == (reading.status != "ok")


@given(st.permutations(range(4)), st.lists(st.sampled_from(["violated", "satisfied"]), min_size=4, max_size=4))
def test_the_order_of_the_items_says_nothing(order: list[int], said: list[str]) -> None:
    text = "\n".join(f"{i + 1}. **{NAMES[i]}**: {said[i]}. Because." for i in order)
    assert marks(text) == said


@pytest.mark.parametrize("unit", ["1. ", "1. **a", "**", "1. violated or ", "Verdict: ", "\n1. a: "])
@pytest.mark.timeout(60)  # a quadratic reading would take hours
def test_very_long_lists_are_read(unit: str) -> None:
    text = (unit * (100_000 // len(unit) + 1))[:100_000]
    assert len(parse_marks(text, NAMES)) == 4 and len(parse_affinities(text, 2)) == 2
    assert parse_criteria(text).status in ("ok", "missing")


def test_a_criterion_whose_name_sounds_like_a_verdict_is_not_marked_by_it() -> None:
    assert parse_marks("1. **Violated constraints**: none of them", ["Violated constraints"])[0].status == "missing"
