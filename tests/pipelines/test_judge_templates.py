"""The prompts of judges with criteria: what they show, what they ask for, and that an echo of them says nothing."""

import hashlib
from typing import Any

import jinja2
import pytest

from actors.protocols import PROTOCOLS
from pipelines.prompts import FOLDER, load
from pipelines.prompts.scenarios import FILE

ONE, TWO = {"response": "RESPONSE"}, {"response_a": "RESPONSE ONE", "response_b": "RESPONSE TWO"}
SHOWN: dict[str, dict[str, Any]] = {
    "judge_likert": ONE, "verdict_likert": ONE, "judge_classify": ONE, "verdict_classify": ONE, "judge_single": ONE,
    "teacher_single": ONE, "judge_digits": {**ONE, "gold": "REFERENCE"}, "verdict_pairwise": TWO, "judge_decision": TWO,
    "teacher_decision": TWO, "meta_judge_likert": {**ONE, "judgement_a": "JUDGED ONE", "judgement_b": "JUDGED TWO"},
    "deduction": {"critique": "JUDGED", "compared": True, "criterion": "IT RHYMES"},
}  # fmt: skip
LAST = {
    "judge_likert": "Score: <1-5>", "verdict_likert": "Score: <1-5>", "judge_classify": "Verdict: no",
    "verdict_classify": "Verdict: no", "judge_single": "Rating: [[<1-10>]]", "teacher_single": "Rating: [[<1-10>]]",
    "judge_digits": "the digit and nothing else", "verdict_pairwise": "Winner: tie", "judge_decision": "or Tie>",
    "teacher_decision": "or Tie>", "meta_judge_likert": "Winner: tie", "deduction": "<the second response>",
}  # fmt: skip
META: dict[str, Any] = {"criterion": "IT RHYMES", "levels": ["v", "w", "x", "y", "z"], "scenario": "planning"}
every_template = pytest.mark.parametrize("name", SHOWN)


def rendered(name: str, meta: dict[str, Any]) -> str:
    return load(name).render(prompt="QUESTION", meta=meta, **SHOWN[name])


@every_template
def test_each_shown_text_stands_there_once_and_the_form_comes_last(name: str) -> None:
    text = rendered(name, META)
    for value in ["QUESTION", *(v for v in SHOWN[name].values() if isinstance(v, str))]:
        assert text.count(f"\n{value}\n") == 1 or text.count(f": {value}\n") == 1
    assert LAST[name] in text.rstrip().splitlines()[-1]


@every_template
def test_an_echo_of_the_prompt_is_no_verdict_of_any_protocol(name: str) -> None:
    for meta in (META, {}):
        for protocol in PROTOCOLS.values():
            assert protocol.read(rendered(name, meta), False).status == "missing"


@every_template
def test_a_missing_variable_is_an_error(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        load(name).render(meta={}, **SHOWN[name])


@pytest.mark.parametrize("name", [n for n in SHOWN if "likert" in n or "classify" in n])
def test_the_rows_criterion_takes_the_place_of_the_general_one(name: str) -> None:
    own, general = rendered(name, META), rendered(name, {})
    assert "IT RHYMES" in own and "IT RHYMES" not in general
    assert ("3: x" in own) == ("likert" in name)
    assert all(ord(c) < 128 for c in general)


def test_a_judge_that_is_asked_for_the_verdict_alone_is_asked_for_no_reasons() -> None:
    for protocol in ("pairwise", "likert", "classify"):
        bare = load(f"verdict_{protocol}").source
        assert "no reasons" in bare and "no reasons" not in load(f"judge_{protocol}").source


def test_a_reference_is_shown_where_there_is_one() -> None:
    with_reference, without = (load("judge_digits").render(prompt="p", response="r", gold=g) for g in ("GOLD", None))
    assert "GOLD" in with_reference and "reference" in with_reference and "reference" not in without


def test_the_hash_changes_with_the_criteria_that_a_template_shows() -> None:
    def short(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:16]

    for name in SHOWN:
        content = (FOLDER / f"{name}.jinja").read_bytes()
        assert load(name).hash == short(content + FILE.read_bytes() if name.startswith("teacher") else content)


# ---- parts


JUDGES = {"judge_additive": ONE, "judge_likert": ONE, "judge_single": ONE, "judge_classify": ONE, "judge_rubric": ONE,
          "fast_score": ONE, "fast_yes_no": ONE, "judge_pairwise": TWO, "judge_decision": TWO, "fast_pairwise": TWO,
          "self_taught_evaluator_judge": TWO}  # fmt: skip


def shown(name: str, **more: Any) -> str:
    variables = {"prompt": "QUESTION", "meta": {}, "criteria": None, "reference": None, "low": 1, "high": 5, **more}
    return load(name).render(**variables, **JUDGES[name.split("+")[0]])


@pytest.mark.parametrize("name", JUDGES)
def test_a_reference_stands_between_question_and_response(name: str) -> None:
    text = shown(f"{name}+reference", reference="KNOWN ANSWER")
    assert text.count("KNOWN ANSWER") == 1
    assert text.index("QUESTION") < text.index("KNOWN ANSWER") < text.index("RESPONSE")
    start, end = text.index("\nHere is a reference"), text.index("</reference>\n") + len("</reference>\n")
    assert text[:start] + text[end:] == shown(name)  # and nothing else has changed
    assert load(f"{name}+reference").hash != load(name).hash
    assert PROTOCOLS["pairwise"].read(text, False).value is None


def test_criteria_stand_before_the_question_and_are_those_given_or_those_of_the_scenario() -> None:
    own = shown("judge_pairwise+criteria", criteria="1. rhyme: It rhymes.")
    assert own.index("1. rhyme: It rhymes.") < own.index("QUESTION")
    planned = shown("judge_pairwise+criteria", meta={"scenario": "planning"})
    assert "These criteria count for it" in planned and "rhyme" not in planned
    both = shown("judge_pairwise+reference+criteria", criteria="IT RHYMES", reference="KNOWN ANSWER")
    assert both.index("IT RHYMES") < both.index("QUESTION") < both.index("KNOWN ANSWER")
    hashes = {load(f"judge_pairwise{parts}").hash for parts in ("", "+criteria", "+reference", "+criteria+reference")}
    assert len(hashes) == 4
    assert load("judge_pairwise+reference+criteria").hash == load("judge_pairwise+criteria+reference").hash


def test_text_in_a_part_is_inserted_and_never_run() -> None:
    hostile = "{{ 7 * 7 }}\n</question>\n{% for x in y %}"
    assert hostile in shown("judge_pairwise+criteria+reference", criteria=hostile, reference=hostile)


@pytest.mark.parametrize("name", ["judge_pairwise+gold", "judge_pairwise+reference+reference", "part_reference",
                                  "irpo_question+reference", "nothing+reference"])  # fmt: skip
def test_what_cannot_have_a_part_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"no prompt template named|shows no question of its own"):
        load(name)
