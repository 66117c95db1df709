"""Criteria from guidelines: the file, the aspects of a document, layers of feedback, and counts of planted defects."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.numbered import Drafted
from pipelines.evaluation.services.criteria import (
    Criteria,
    Marked,
    copied_share,
    drafted_aspects,
    feedback_layer,
    marked,
    rates,
    read_criteria,
    split_guidelines,
    write_criteria,
)
from pipelines.steps.rows import InputError

GUIDE = """# Reviewing

Read twice.

## Naming
Names say what a value is.

### Constants
In upper case.

```python
# no heading
```

## Errors ##
No bare except.

## Empty
"""


def test_the_headings_of_a_document_make_its_aspects() -> None:
    found = split_guidelines(GUIDE)
    assert [name for name, _ in found] == ["Guidelines", "Naming", "Errors"]
    text = dict(found)
    assert text["Guidelines"] == "Read twice." and text["Errors"] == "No bare except."
    assert "### Constants" in text["Naming"] and "# no heading" in text["Naming"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Just text.", ["Guidelines"]),
        ("# Title\ntext", ["Guidelines"]),
        ("One\n===\na\n\nTwo\n===\nb", ["One", "Two"]),
        ("# A\na\n# B\nb", ["A", "B"]),
        ("# A\n# B\n", []),
        ("", []),
    ],
)
def test_documents_of_other_shapes(text: str, names: list[str]) -> None:
    found = split_guidelines(text)
    assert [name for name, _ in found] == names and all("===" not in body for _, body in found)


def drafted() -> Criteria:
    aspects = drafted_aspects([
        ("Naming", [Drafted("Short names", "too short", "rule"), Drafted("Case", "upper case", "preference")]),
        ("Errors", [Drafted("short  NAMES", "again", "rule"), Drafted("Bare except", "catches all", "rule")]),
        ("Nothing", []),
    ])  # fmt: skip
    return Criteria(task="code", aspects=aspects)


def test_drafts_get_ids_and_keep_their_severity() -> None:
    found = drafted().all()
    assert [(c.id, c.severity) for c in found] == [
        ("1-naming-1", "rule"), ("1-naming-2", "preference"), ("2-errors-1", "rule")]  # fmt: skip
    assert [a.name for a in drafted().aspects] == ["Naming", "Errors"]


@pytest.mark.parametrize("name", ["criteria.yaml", "criteria.json"])
def test_a_criteria_file_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    write_criteria(path, drafted())
    assert read_criteria(path) == drafted()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: x\naspects: []", "aspects"),
        ("task: x\naspects: [{name: a, criteria: [{id: '1', name: N, description: d, severity: hard}]}]", "severity"),
        ("task: x\naspects: [{name: a, criteria: [{id: '1', name: N, description: d}, "
         "{id: '1', name: M, description: d}]}]", "two criteria have the id '1'"),
        ("{", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_criteria_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "criteria.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_criteria(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_criteria(str(tmp_path / "none.yaml"))


def test_a_criterion_is_found_by_name_or_id_and_the_nearest_is_named() -> None:
    assert drafted().named("bare EXCEPT").id == drafted().named("2-errors-1").id == "2-errors-1"
    with pytest.raises(ValueError, match="did you mean 'Bare except'"):
        drafted().named("Bare excepts!")


def test_feedback_that_fails_a_layer_is_not_scored_above_it() -> None:
    assert feedback_layer([True, False, True, True]).value == 1
    assert feedback_layer([False]).value == 0 and feedback_layer([True] * 4).value == 4
    assert feedback_layer([True, None, True, True]) == (None, "missing") == feedback_layer([True])
    assert feedback_layer([False, None]).value == 0


@given(st.lists(st.sampled_from([True, False, None]), max_size=4))
def test_a_layer_is_the_number_of_layers_passed_in_order(answers: list[bool | None]) -> None:
    reading = feedback_layer(answers)
    if reading.value is not None:
        assert all(answers[: reading.value]) and (reading.value == 4 or answers[reading.value] is False)


def test_words_in_a_row_from_a_demonstration_are_copied() -> None:
    demo = "The name of the file utils.py says nothing at all"
    assert copied_share("the name of the file says nothing", [demo], 5) == pytest.approx(1 / 3)
    assert copied_share("The name of the FILE utils.py", [demo], 5) == 1.0
    assert copied_share("too short", [demo], 5) is None and copied_share("one two three four five", [], 5) == 0.0


def test_planted_defects_count_what_complete_feedback_marks() -> None:
    found = marked(0, {"a", "b"}, {"a": ("violated", "ok"), "b": (None, "missing"), "c": ("satisfied", "ok"),
                                   "d": ("violated", "ok"), "e": (None, "truncated")})  # fmt: skip
    assert [m.criterion for m in found] == ["a", "b", "c", "d"]  # what could not be read is left out
    assert found[1] == Marked(0, "b", True, False, False)
    assert rates(found) == {"planted": 2, "recall": 0.5, "recall of assessed": 1.0, "others": 2, "false alarms": 0.5,
                            "false alarms of assessed": 0.5, "assessed": 0.75}  # fmt: skip
    assert rates([])["recall"] is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["violated", "satisfied", None]))))
def test_silence_marks_nothing(said: list[tuple[bool, str | None]]) -> None:
    marks = {str(i): (mark, "ok" if mark else "missing") for i, (_, mark) in enumerate(said)}
    found = marked(0, {str(i) for i, (planted, _) in enumerate(said) if planted}, marks)
    assert sum(m.marked for m in found) == sum(mark == "violated" for _, mark in said)
    assert not any(m.marked and not m.assessed for m in found)
