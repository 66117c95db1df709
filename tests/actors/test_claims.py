"""Whether a claim is true, and which claims a critique makes, read from what a judge writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.claims import parse_claim, parse_units
from actors.verdicts import Reading
from pipelines.records import Status

SAID: dict[str, float] = {
    "The claim is true": 1.0,
    "claim is false": 0.0,
    "It holds, so the claim is **true**.": 1.0,
    "Claim is: false": 0.0,
    "The claim is “true”": 1.0,
    "The claim is true. However, seen again, the claim is false.": 0.0,
    "The claim is false at first sight.\nThe claim is true": 1.0,
    "I check whether the claim is true or false.\nThe claim is true": 1.0,
    "If the claim is true, then 2 + 2 = 5. The claim is false": 0.0,
    "The claim is not true.": 0.0,
    "The claim is therefore false": 0.0,
    "It is not mentioned, so the claim is false": 0.0,
    'The claim is true\nEnd with "The claim is false"': 1.0,
}
NOT_SAID: dict[str, Status] = {
    "": "missing",
    "True.": "missing",
    "The claim is unclear": "missing",
    "The claim is untrue": "missing",
    "The claim is true-ish": "missing",
    "whether the claim is true": "missing",
    'It says "the claim is true"': "missing",
    "> The claim is true": "missing",
    "The claim is <true or false>": "missing",
    "The proclaim is true": "missing",
    "claim is tru\u0435": "missing",  # a Cyrillic letter
    "The claim is true or false": "ambiguous",
    "claim is true / claim is false": "ambiguous",
    "The claim is true or the claim is false": "ambiguous",
    "The claim is partially true": "ambiguous",
    "The claim is mostly false": "ambiguous",
    "The claim is either true": "ambiguous",
    "The claim is not false": "ambiguous",
    "The claim is not entirely true": "ambiguous",
    "The claim is true only if x > 0": "ambiguous",
    "I do not think that the claim is true": "ambiguous",
    "The claim is true\nThe claim is partly false": "ambiguous",
}


@pytest.mark.parametrize("text", SAID)
def test_the_last_verdict_on_a_claim_counts(text: str) -> None:
    assert parse_claim(text) == Reading(SAID[text], "ok")


@pytest.mark.parametrize("text", NOT_SAID)
def test_what_decides_nothing_is_an_abstention(text: str) -> None:
    assert parse_claim(text) == Reading(None, NOT_SAID[text])


def test_a_verdict_in_a_text_that_was_cut_off_must_end_it() -> None:
    assert parse_claim("Reasons.\nThe claim is true", True) == Reading(1.0, "ok")
    assert parse_claim("The claim is true\nbut then ag", True) == Reading(None, "truncated")
    assert parse_claim("Reasons with", True) == Reading(None, "truncated")


@given(st.lists(st.sampled_from(["The claim is true", "the claim is false.", "or", "not", "\n", "whether ", '"', "x"])))
def test_a_verdict_has_a_value_if_and_only_if_it_is_ok(parts: list[str]) -> None:
    reading = parse_claim(" ".join(parts))
    assert (reading.value in (0.0, 1.0)) == (reading.status == "ok")


@pytest.mark.parametrize(
    "unit", ["claim is ", "the claim is true or ", "not think the ", "claim is not ", "1. ", "- ", "**"]
)
@pytest.mark.timeout(60)  # a quadratic reading would take hours
def test_very_long_texts_are_read(unit: str) -> None:
    text = (unit * (200_000 // len(unit) + 1))[:200_000]
    assert parse_claim(text).status in ("ok", "missing", "ambiguous")
    assert parse_units(text).status in ("ok", "missing")


UNITS: dict[str, list[str]] = {
    "The answer is wrong.\nIt names no source.": ["The answer is wrong.", "It names no source."],
    "1. One thing.\n2) Another.\n(3) A third.": ["One thing.", "Another.", "A third."],
    "- One.\n* Two.\n• Three.\n+ Four.": ["One.", "Two.", "Three.", "Four."],
    "Here are the claims:\n\n1. **Claim 1:** It is late.": ["It is late."],
    "**Claims:**\n- **It is late.**": ["It is late."],
    "AIU 1: It is late.\nAIU 2: It is long.": ["It is late.", "It is long."],
    "<claims>\n```\nIt is late.\n```\n</claims>": ["It is late."],
    '"It is late."': ["It is late."],
    'It says "late" and means "soon"': ['It says "late" and means "soon"'],
    "It is late.\n  it is  LATE.\nIt is long.": ["It is late.", "It is long."],
    "3.5 is right.\n5 apples are too many.": ["3.5 is right.", "5 apples are too many."],
    "It is late.\r\nIt is long.": ["It is late.", "It is long."],
    "None of the facts are right.": ["None of the facts are right."],
}


@pytest.mark.parametrize("text", UNITS)
def test_units_are_lines_without_their_numbers(text: str) -> None:
    assert parse_units(text) == Reading(UNITS[text], "ok")


@pytest.mark.parametrize("text", ["", "\n \n", "- \n1.\n", "Claims:", "None.", "No claims", "N/A", "```\n```", "***"])
def test_nothing_is_no_unit_and_never_an_empty_one(text: str) -> None:
    assert parse_units(text) == Reading(None, "missing")


def test_a_list_that_was_cut_off_is_not_complete() -> None:
    assert parse_units("It is late.\nIt is lo", True) == Reading(None, "truncated")
    assert parse_units("It is late.\nIt is lo", True, partly=True) == Reading(["It is late."], "ok")
    assert parse_units("It is lo", True, partly=True) == Reading(None, "truncated")


@given(st.text())
def test_no_unit_is_blank_or_repeated(text: str) -> None:
    units = parse_units(text).value or []
    assert all(any(c.isalnum() for c in unit) and unit == unit.strip() for unit in units)
    assert len({" ".join(unit.lower().split()) for unit in units}) == len(units)
