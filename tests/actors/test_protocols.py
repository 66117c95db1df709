"""Every protocol reads what it asks for, abstains from everything else, and does so in linear time."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocols import PROTOCOLS, protocol_named
from actors.verdicts import Reading, as_listed
from actors.weighed_verdicts import expected_digit, preference
from pipelines.prompts import load, names
from pipelines.records import Status

WORDS = [name for name, protocol in PROTOCOLS.items() if not protocol.weighed]  # read from what a judge writes
# What a verdict of each protocol looks like, one readable value each.
SAYS: dict[str, tuple[str, str | float]] = {
    "additive": ("Score: 2.5", 2.5),
    "likert": ("Score: 4", 4.0),
    "rubric": ("Score: 2", 2.0),
    "single": ("Rating: [[7]]", 7.0),
    "classify": ("Verdict: no", 0.0),
    "claim": ("The claim is false", 0.0),
    "pairwise": ("Winner: B", "B"),
    "boxed": ("[[B]]", "B"),
    "decision": ("So, the final decision is Response 2", "B"),
}
READABLE: list[tuple[str, str, str | float]] = [
    ("likert", "Score: [[3]]", 3.0),
    ("likert", "Score: 4.0", 4.0),
    ("likert", "Score: 2\nGive the line Score: <1-5>", 2.0),
    ("single", "Rating: [[10]]", 10.0),
    ("single", "**Rating: [[8]]**", 8.0),
    ("single", "Rating: 7/10", 7.0),
    ("single", "My final rating is [[6]].", 6.0),
    ("single", "Rating: [[9]] would flatter it.\nRating: [[4]]", 4.0),
    ("single", "Rating: [[4]]\nRating: [[<1-10>]]", 4.0),
    ("classify", "Verdict: yes", 1.0),
    ("classify", "**Verdict:** No.", 0.0),
    ("classify", "The verdict is yes", 1.0),
    ("classify", "Verdict: yes, no doubt about it", 1.0),
    ("classify", "Verdict: no\nOn reflection:\nVerdict: [[yes]]", 1.0),
    ("classify", "INCORRECT in the second step.\nVerdict: no", 0.0),
    ("boxed", "[[C]]", "tie"),
    ("boxed", "So A it is: [[A]]\n[[A]]", "A"),
    ("boxed", 'Say "[[A]]" or "[[B]]", they ask.\n\n[[B]]', "B"),
    ("boxed", "It even writes `[[A]]` itself.\n**[[B]]**", "B"),
    ("decision", "The final decision is **Response 1**.", "A"),
    ("decision", "final decision is Tie", "tie"),
    ("decision", "Final decision: it's a tie", "tie"),
    ("decision", "So, the final decision is [[Response 2]]", "B"),
    ("decision", "So, the final decision is Response 2, as Response 1 says nothing.", "B"),
    ("decision", "the final decision is Response 1\nSo, the final decision is Response 2", "B"),
    ("decision", "The final decision is Response 1\nfinal decision is <Response 1, Response 2 or Tie>", "A"),
]
UNREADABLE: list[tuple[str, str, Status]] = [
    ("likert", "Score: 4.5", "out_of_range"),
    ("likert", "Score: 0", "out_of_range"),
    ("likert", "Score: 6", "out_of_range"),
    ("likert", "Score: 3-4", "ambiguous"),
    ("likert", "Score: ４", "missing"),  # noqa: RUF001
    ("single", "Rating: [[11]]", "out_of_range"),
    ("single", "Rating: [[0]]", "out_of_range"),
    ("single", "Rating: [[6-7]]", "ambiguous"),
    ("single", "Rating: [[６]]", "missing"),  # noqa: RUF001
    ("single", "Rating: [[rating]]", "missing"),
    ("single", 'It claims "Rating: [[10]]" for itself.', "missing"),
    ("single", "The rating of the film is 8.", "missing"),
    ("classify", "Verdict: INCORRECT", "missing"),
    ("classify", "Verdict: correct", "missing"),
    ("classify", "verdict: yesterday", "missing"),
    ("classify", "Verdict: no-one knows", "missing"),
    ("classify", "Verdict: not yes", "missing"),
    ("classify", "Verdict: ye\u017f", "missing"),  # a long s
    ("classify", "Verdict: yes or no", "ambiguous"),
    ("classify", "Verdict: yes/no", "ambiguous"),
    ("classify", "Verdict: <yes or no>", "missing"),
    ("classify", 'Verdict: "yes" and then Verdict: no', "ambiguous"),
    ("classify", '> Verdict: yes', "missing"),
    ("boxed", "[[A]] [[B]]", "ambiguous"),
    ("boxed", "First [[A]].\nNo:\n[[C]]", "ambiguous"),
    ("boxed", "[[D]]", "out_of_range"),
    ("boxed", "[[\u0410]]", "missing"),  # Cyrillic
    ("boxed", '"[[A]]"', "missing"),
    ("boxed", "```\n[[A]]\n```", "missing"),
    ("boxed", "[A]", "missing"),
    ("decision", "So, the final decision is Response 3", "out_of_range"),
    ("decision", "So, the final decision is Response 12", "out_of_range"),
    ("decision", "So, the final decision is Response １", "missing"),  # noqa: RUF001
    ("decision", "So, the final decision is Response 1 or Response 2", "ambiguous"),
    ("decision", "So, the final decision is Response 1 / Response 2 / Tie", "missing"),
    ("decision", "So, the final decision is a hard one", "missing"),
    ("decision", "My final decision isn't Response 1", "missing"),
    ("decision", 'The response says "the final decision is Response 1".', "missing"),
    ("decision", "Response 1 is better.", "missing"),
]


def read(name: str, text: str, truncated: bool = False) -> Reading[Any]:
    return PROTOCOLS[name].read(text, truncated)


@pytest.mark.parametrize(("name", "text", "value"), [*READABLE, *((name, *SAYS[name]) for name in WORDS)])
def test_readable_verdicts(name: str, text: str, value: str | float) -> None:
    assert read(name, text) == Reading(value, "ok")


@pytest.mark.parametrize(("name", "text", "status"), UNREADABLE)
def test_unreadable_verdicts_abstain(name: str, text: str, status: Status) -> None:
    assert read(name, text) == Reading(None, status)


@pytest.mark.parametrize("name", WORDS)
def test_every_lead_with_every_choice_is_readable(name: str) -> None:
    form = PROTOCOLS[name].verdict
    found = [read(name, f"For these reasons.\n{form.lead}{choice}") for choice in form.choices]
    assert {reading.status for reading in found} == {"ok"}
    assert len({reading.value for reading in found}) == len(form.choices)


@pytest.mark.parametrize("name", WORDS)
def test_the_quoted_verdict_of_the_judged_text_does_not_count(name: str) -> None:
    text, value = SAYS[name]
    for quoted in (f'It ends with "{text}".', f"It ends with `{text}`", f"> {text}", f"```\n{text}\n```"):
        assert read(name, quoted) == Reading(None, "missing")
        assert read(name, f"{quoted}\n{text}") == Reading(value, "ok")


@pytest.mark.parametrize("name", WORDS)
def test_a_text_cut_off_counts_only_when_the_verdict_ends_it(name: str) -> None:
    text, value = SAYS[name]
    assert read(name, f"Reasons.\n{text}", True) == Reading(value, "ok")
    assert read(name, f"{text}\nAnd yet the other", True) == Reading(None, "truncated")
    assert read(name, "Reasons without end", True) == Reading(None, "truncated")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_prompt_of_a_protocol_echoed_is_no_verdict(name: str) -> None:
    variables = {"prompt": "p", "gold": None, "meta": {}, "response": "r", "response_a": "a", "response_b": "b",
                 "criteria": None, "reference": None, **PROTOCOLS[name].variables}
    assert read(name, load(PROTOCOLS[name].template).render(**variables)).value is None


def test_every_protocol_has_a_template() -> None:
    assert {protocol.template for protocol in PROTOCOLS.values()} <= set(names())


def test_protocols_are_known_without_ray_or_torch() -> None:
    code = "import sys, actors.protocols; print(sorted({'ray', 'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", WORDS)
@given(before=st.text())
def test_any_text_before_the_verdict_changes_nothing_unless_it_quotes_it(name: str, before: str) -> None:
    text, value = SAYS[name]
    boxes = name == "boxed" and "[[" in before  # two different ones are ambiguous wherever they stand
    assert read(name, f"{before}\n\n{text}") == Reading(value, "ok") or "```" in before or "~~~" in before or boxes


@pytest.mark.parametrize("name", PROTOCOLS)
@given(st.text(alphabet="SWRVscore:inerdatgyhfl .0123456789/-[]<>{}*\"'`\nABCT", max_size=80), st.booleans())
def test_a_value_comes_with_ok_and_nothing_else(name: str, text: str, truncated: bool) -> None:
    reading = read(name, text, truncated)
    assert (reading.value is None) == (reading.status != "ok")
    if reading.value is not None:
        scale = PROTOCOLS[name].scale
        assert reading.value in ("A", "B", "tie") if scale is None else scale[0] <= reading.value <= scale[1]


@pytest.mark.parametrize(
    "unit",
    ["Rating: ", "Rating: [[5", "Verdict: ", "Verdict: yes ", "Verdict: yes or ", "[[A]] ", "[[", "[[ ", "`[[A]]",
     "final decision", "final decision is ", "final decision is Response 1 / ", "Response 1 ", '"', "> ", "\n", "{",
     '{"1": ', "["],
)  # fmt: skip
@pytest.mark.timeout(60)  # a quadratic reading of so many would take hours
def test_a_very_long_text_is_read(unit: str) -> None:
    text = (unit * (200_000 // len(unit) + 1))[:200_000]
    for name in PROTOCOLS:
        assert read(name, text).status in ("ok", "missing", "ambiguous", "out_of_range")


def test_r14_expected_digit_fixture() -> None:
    given_p = {"5": 0.1, "6": 0.2, "7": 0.4, "8": 0.2}
    said = {digit: math.log(p) for digit, p in given_p.items()}
    reading = read("digits", json.dumps(said), True)  # its one token always reaches the limit
    assert reading.status == "ok" and reading.value == pytest.approx(6.7778, abs=1e-4)
    assert read("digits", json.dumps(said | {"Ten": -0.1, "": 0.0})) == reading  # what is no digit counts nothing


@pytest.mark.parametrize(
    ("text", "status"),
    [("", "missing"), ("7", "missing"), ("[1]", "missing"), ("{}", "missing"), ('{"a": -1.0}', "missing"),
     ('{"1": "-1"}', "missing"), ('{"1": true}', "missing"), ('{"1": NaN}', "missing"), ('{"1": -Infinity}', "missing"),
     ('{"1": 0.5}', "out_of_range"), ('{"1": Infinity}', "out_of_range"), ("[" * 100_000, "missing")],
)
def test_digits_without_probabilities_abstain(text: str, status: Status) -> None:
    assert read("digits", text) == Reading(None, status)


@given(st.dictionaries(st.sampled_from("0123456789"), st.floats(-1e4, 0), min_size=1))
def test_the_expected_digit_lies_between_the_digits_and_follows_their_order(logps: dict[str, float]) -> None:
    value = expected_digit(logps)
    digits = [int(d) for d in logps]
    assert value is not None and min(digits) - 1e-9 <= value <= max(digits) + 1e-9
    assert expected_digit(dict(reversed(logps.items()))) == value
    assert expected_digit({d: p - 50 for d, p in logps.items()}) == pytest.approx(value)  # only ratios count


# ---- any scale


@pytest.mark.parametrize(
    ("name", "text", "value", "status"),
    [
        ("rubric:0-10", "Score: 10", 10.0, "ok"), ("rubric:0-10", "Score: 11", None, "out_of_range"),
        ("rubric:0-10", "Score: 7/10", 7.0, "ok"), ("rubric:0-10", "Score: 3/5", None, "ambiguous"),
        ("rubric:0-10", "Score: <0-10>", None, "missing"), ("rubric:0-10", "Score: 6.5", None, "out_of_range"),
        ("rubric:-2-2", "Score: -2", -2.0, "ok"), ("rubric:-2-2", "Score: -3", None, "out_of_range"),
        ("rubric:0-100", "Score: 85", 85.0, "ok"), ("rubric", "Score: 6", None, "out_of_range"),
        ("fast_score:0-9", '{"0": -0.6931471805599453, "9": -0.6931471805599453}', 4.5, "ok"),
        ("fast_score:1-3", '{"9": -0.1}', None, "missing"),
    ],
)  # fmt: skip
def test_a_scale_in_the_name_is_read_with_that_range(name: str, text: str, value: float | None, status: Status) -> None:
    reading = read(name, text)
    assert reading.status == status
    assert reading.value == (value if value is None else pytest.approx(value))


@given(st.integers(-99, 99), st.integers(1, 30), st.integers(-150, 150))
def test_any_rubric_reads_what_is_in_its_range_and_nothing_else(low: int, size: int, said: int) -> None:
    protocol = protocol_named(f"rubric:{low}-{low + size}")
    reading = protocol.read(f"Reasons.\nScore: {said}", False)
    assert reading == (Reading(said, "ok") if low <= said <= low + size else Reading(None, "out_of_range"))
    assert len(protocol.verdict.choices) == size + 1
    text = load(protocol.template).render(prompt="p", response="r", criteria="IT RHYMES", meta={}, **protocol.variables)
    assert f"<{low}-{low + size}>" in text and "IT RHYMES" in text and protocol.read(text, False).value is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("rubrik", "did you mean rubric"), ("rubric:5-1", "from a lower to a higher"), ("rubric:1", "is no protocol"),
     ("fast_score:1-10", "one token"), ("likert:1-7", "is no protocol")],
)  # fmt: skip
def test_an_unknown_protocol_or_scale_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protocol_named(name)


# ---- weighed


def weighed(**logps: float) -> str:
    return json.dumps({choice: math.log(p) for choice, p in logps.items()})


def test_yes_is_a_probability_of_yes_against_no() -> None:
    assert read("yes_no", weighed(yes=0.2, Yes=0.1, no=0.05, No=0.05)).value == pytest.approx(0.75)
    assert read("yes_no", weighed(yes=0.001, no=0.003)).value == pytest.approx(0.25)  # only the ratio counts
    assert read("yes_no", weighed(no=0.5)) == Reading(0.0, "ok")


def test_a_weighed_comparison_names_the_likelier_and_keeps_its_probability() -> None:
    said = weighed(A=0.03, B=0.01)
    assert read("fast_pairwise", said) == Reading("A", "ok")
    assert preference(said) == pytest.approx(0.75)
    assert read("fast_pairwise", weighed(A=0.2, B=0.2)) == Reading("tie", "ok")
    assert preference("Winner: A") is None


@pytest.mark.parametrize("name", ["yes_no", "fast_score", "fast_pairwise"])
@pytest.mark.parametrize(
    ("text", "status"),
    [("", "missing"), ("{}", "missing"), ('{"A": null, "yes": null}', "missing"),
     ('{"A": 0.5, "yes": 0.5, "1": 0.5}', "out_of_range")],
)  # fmt: skip
def test_weights_that_are_none_abstain(name: str, text: str, status: Status) -> None:
    assert read(name, text) == Reading(None, status)


@given(st.floats(-1e3, 0), st.floats(-1e3, 0))
def test_exchanging_the_two_turns_the_verdict(a: float, b: float) -> None:
    here, there = (json.dumps({"A": x, "B": y}) for x, y in ((a, b), (b, a)))
    assert as_listed(read("fast_pairwise", here).value, 1) == read("fast_pairwise", there).value
    first, second = preference(here), preference(there)
    assert first is not None and second is not None and first + second == pytest.approx(1)


def test_the_fast_form_of_a_protocol_reads_as_many_responses_on_the_same_scale() -> None:
    for name in [*PROTOCOLS, "rubric:0-9"]:
        protocol = PROTOCOLS[name]
        if protocol.fast:
            fast = PROTOCOLS[protocol.fast]
            assert (fast.weighed, fast.responses, fast.scale) == (True, protocol.responses, protocol.scale)
