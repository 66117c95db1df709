"""The scenarios: their file is whole, rows find theirs, and a file that is not whole is refused."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipelines.prompts import load
from pipelines.prompts.scenarios import FILE, OTHER, read_scenarios, scenario, scenarios


def test_there_are_58_scenarios_with_criteria_of_their_own() -> None:
    known = scenarios()
    assert len(known) == 58
    for entry in known.values():
        assert 4 <= entry.own <= 8 and entry.own < len(entry.criteria)
        assert all(c.text.endswith(".") and c.name == c.name.strip() for c in entry.criteria)
    texts = [c.text for entry in known.values() for c in entry.criteria[: entry.own]]
    assert len(set(texts)) > 0.95 * len(texts)
    assert {entry.group for entry in known.values() if entry.answer_first} == {"exam_questions"}


def test_rows_find_their_scenario() -> None:
    assert scenario({"scenario": "writing_email"}).name == "writing_email"
    for meta in ({}, {"scenario": "unheard of"}, {"scenario": 3}, {"scenario": None}, {"scenario": ["planning"]}):
        assert scenario(meta).name == OTHER


def test_the_names_are_those_of_published_rows(shared_data: Path) -> None:
    with (shared_data / "autoj" / "scenario_criteria.jsonl").open() as lines:
        assert {json.loads(line)["scenario"] for line in lines} == set(scenarios())


def test_a_teacher_sees_the_criteria_and_a_student_does_not() -> None:
    variables = {"prompt": "p", "response_a": "a", "response_b": "b", "response": "r", "gold": None,
                 "meta": {"scenario": "writing_email"}}  # fmt: skip
    for criterion in scenarios()["writing_email"].criteria:
        for kind in ("decision", "single"):
            assert criterion.text in load(f"teacher_{kind}").render(**variables)
            assert criterion.text not in load(f"judge_{kind}").render(**variables)


def test_an_exam_question_is_answered_by_the_teacher_first() -> None:
    variables = {"prompt": "p", "response": "r"}
    asked = "answer the question yourself"
    assert asked in load("teacher_single").render(**variables, meta={"scenario": "math_reasoning"})
    assert asked not in load("teacher_single").render(**variables, meta={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["groups"]["code"].update(basic=["nonsense"]), "groups.code.basic: no set 'nonsense'"),
        (lambda s: s["groups"]["code"]["scenarios"].update(planning=s["groups"]["other"]["scenarios"]["others"]),
         "functional_writing.scenarios.planning: it, or one of its criteria, is there twice"),
        (lambda s: s["basic"]["code"].update(function="Again."), "code_generation: it, or one"),
        (lambda s: s["groups"].pop("other"), "no scenario 'others'"),
        (lambda s: s["groups"]["other"]["scenarios"]["others"]["criteria"].pop("wish"), "at least 4"),
        (lambda s: s["groups"]["other"]["scenarios"]["others"]["criteria"].update(wish=" "), "at least 1 character"),
        (lambda s: s["groups"]["other"]["scenarios"]["others"].update(weight=3), "Extra inputs"),
        (lambda s: s["groups"]["other"]["scenarios"]["others"].pop("task"), "Field required"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(change, message: str) -> None:
    sheet = yaml.safe_load(FILE.read_text())
    change(sheet)
    with pytest.raises((ValueError, ValidationError), match=message):
        read_scenarios(yaml.safe_dump(sheet))
