"""Criteria drafted from guidelines and feedback by them, with an oracle that sees the defects that it is told of."""

import json
from pathlib import Path

import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.services.criteria import Criteria, read_criteria, write_criteria
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.services.told import CUT, evaluate, judging, rows_file, tag

DEFECTS = {"Bare except": "except:", "No assert": "assert", "Mutable default": "=[]"}
CODE = {"Bare except": "try: f()\nexcept: pass", "No assert": "assert x > 0", "Mutable default": "def f(a=[]): pass"}
DEMONSTRATION = "1. **Mutable default**: violated. The list in g is shared"


@pytest.fixture
def criteria_file(tmp_path: Path) -> str:
    path = str(tmp_path / "criteria.yaml")
    aspects = [
        {"name": "Errors", "criteria": [
            {"id": "e1", "name": "Bare except", "description": "It catches everything.", "severity": "rule"},
            {"id": "e2", "name": "No assert", "description": "It asserts an argument."}]},
        {"name": "Defaults", "criteria": [{"id": "d1", "name": "Mutable default", "description": "A shared list."}],
         "demonstrations": [{"input": "def g(x=[]): ...", "feedback": DEMONSTRATION}]},
    ]  # fmt: skip
    write_criteria(path, Criteria.model_validate({"task": "Python code", "aspects": aspects}))
    return path


def items(folder: Path) -> Path:
    rows = [{"input": code, "violated": [name]} for name, code in CODE.items()]
    return rows_file(folder, [*rows, {"input": "return 1", "violated": []}])


def reviewer(text: str, index: int) -> str:
    """Marks the criteria that it is shown; without any it sees bare excepts alone; matches by name."""
    if "You read the review" in text:
        return f"Verdict: {'yes' if tag(text, 'criterion').split(':')[0] in tag(text, 'review') else 'no'}"
    code = tag(text, "text")
    if "Name its faults" in text:
        return "Bare except: name the class." if DEFECTS["Bare except"] in code else "No faults."
    shown = [name for name in DEFECTS if f"**{name}** (" in text]
    marks = ["violated. Correct it." if DEFECTS[name] in code else "satisfied." for name in shown]
    return "\n".join(f"{i}. **{name}**: {mark}" for i, (name, mark) in enumerate(zip(shown, marks, strict=True), 1))


def test_r7_planted_defects_are_found_with_criteria_and_not_without(criteria_file: str, tmp_path: Path) -> None:
    judge, engine = judging(reviewer)
    result = evaluate("llmcrit", items(tmp_path), judge, criteria=criteria_file)
    found = {name: estimate.value for name, estimate in result.estimates.items()}
    assert found == pytest.approx({
        "base recall": 1 / 3, "base false alarms": 0.0, "criteria recall": 1.0, "criteria false alarms": 0.0,
        "criteria recall - base recall": 2 / 3,
    })  # fmt: skip
    assert sum("Look at one aspect only" in text for text in engine.asked) == 4 * 2  # aspect by aspect
    rule = next(r for r in result.tables["severity"] if r["condition"] == "base" and r["severity"] == "rule")
    assert rule["planted"] == 1 and rule["recall"] == 1.0
    by_condition = {row["condition"]: row for row in result.tables["conditions"]}
    assert by_condition["criteria"]["assessed"] == 1.0 and by_condition["base"]["assessed"] == pytest.approx(1 / 12)


def test_a_criterion_that_is_not_mentioned_is_not_assessed(criteria_file: str, tmp_path: Path) -> None:
    def silent(text: str, index: int) -> str:
        return "\n".join(line for line in reviewer(text, index).split("\n") if "No assert" not in line)

    result = evaluate("llmcrit", items(tmp_path), judging(silent)[0], criteria=criteria_file, conditions=["criteria"])
    row = result.tables["conditions"][0]
    assert row["recall"] == pytest.approx(2 / 3) and row["recall of assessed"] == 1.0
    assert row["assessed"] == pytest.approx(8 / 12) and result.abstentions == {"criteria: missing": 4}


def test_feedback_that_is_cut_off_is_left_out(criteria_file: str, tmp_path: Path) -> None:
    result = evaluate("llmcrit", items(tmp_path), judging(lambda t, i: reviewer(t, i) + CUT)[0],
                      criteria=criteria_file, conditions=["base", "criteria"])  # fmt: skip
    assert result.estimates["base recall"].n == 0 and result.estimates["criteria recall"].n == 1
    assert result.abstentions == {"base: truncated": 12, "criteria: truncated": 8}


def test_layers_and_copies_of_demonstrations(criteria_file: str, tmp_path: Path) -> None:
    def reply(text: str, index: int) -> str:
        if "single question" in text:
            return f"Verdict: {'no' if 'how to correct' in text.split('Question:')[1][:70] else 'yes'}"
        return reviewer(text, index).replace("Correct it", "The list in g is shared")

    out = tmp_path / "feedback.jsonl"
    result = evaluate("llmcrit", items(tmp_path), judging(reply)[0], criteria=criteria_file, conditions=["both"],
                      layers=True, feedback_out=str(out))  # fmt: skip
    row = result.tables["criticisms"][0]
    assert row["criticisms"] == 3 and (row["valid"], row["contextualised"], row["constructive"]) == (1.0, 1.0, 0.0)
    assert row["copied from demonstrations"] == pytest.approx(1.0)  # only one aspect has demonstrations
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["criterion"], line["severity"], line["layer"]) for line in lines] == [
        ("e1", "rule", 2), ("e2", "preference", 2), ("d1", "preference", 2)]  # fmt: skip


def drafter(text: str, index: int) -> str:
    if "into criteria that a reviewer" not in text:
        return "1. **Tidy**: violated" if "Naming" in text else "nothing"
    if "Errors" in text:
        return "1. **Tidy** (rule): again\n2. **No assert** (rule): it asserts\n3. **Calm**: it shouts"
    return "1. **Tidy** (preference): a mess" if "Naming" in text else "I cannot."


def test_guidelines_become_a_criteria_file(tmp_path: Path) -> None:
    guide, out = tmp_path / "guide.md", tmp_path / "criteria.yaml"
    guide.write_text("# Naming\nTidy.\n# Errors\nNo assert.\n# Other\n?", encoding="utf-8")
    examples = rows_file(tmp_path, [{"input": f"x = {i}"} for i in range(5)])
    result = evaluate("llmcrit", guide, judging(drafter)[0], criteria=str(out), task="Python code",
                      examples=str(examples), demonstrations=2)  # fmt: skip
    assert (result.estimates["aspects"].value, result.estimates["criteria"].value) == (2, 3)
    assert result.abstentions == {"missing": 1}
    made = read_criteria(str(out))
    assert [(c.id, c.name, c.severity) for c in made.all()] == [
        ("1-naming-1", "Tidy", "preference"), ("2-errors-1", "No assert", "rule"),
        ("2-errors-2", "Calm", "preference")]  # fmt: skip
    assert [len(aspect.demonstrations) for aspect in made.aspects] == [2, 0]
    with pytest.raises(ConfigError, match="may have been edited"):
        evaluate("llmcrit", guide, judging(drafter)[0], criteria=str(out))


def test_what_cannot_be_used_is_named(criteria_file: str, tmp_path: Path) -> None:
    judge = judging(reviewer)[0]
    data = rows_file(tmp_path, [{"input": "x", "violated": ["Bare exept"]}])
    with pytest.raises(InputError, match=r"item 1: violated: 'Bare exept' is no criterion, did you mean 'Bare except'"):
        evaluate("llmcrit", data, judge, criteria=criteria_file)
    with pytest.raises(ConfigError, match="criteria"):
        evaluate("llmcrit", data, judge)
    (tmp_path / "empty.md").write_text("# A\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no text"):
        evaluate("llmcrit", tmp_path / "empty.md", judge, criteria=str(tmp_path / "new.yaml"))
