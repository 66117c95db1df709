"""A user's own criteria by scenario."""

from pathlib import Path

import pytest

from pipelines.prompts.criteria import criteria_text, read_criteria
from pipelines.prompts.scenarios import scenarios
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.judges.judges import write_rows

ROW = {"scenario": "poem", "criterion": "rhyme", "content": "It rhymes.", "weight": 2}


def test_criteria_stand_by_weight_under_their_scenario(tmp_path: Path) -> None:
    metre = {"criterion": "metre", "content": "It scans.", "weight": 5, "scenario_description": "Write verse."}
    rows = [ROW, {**ROW, **metre}, {"scenario": "letter", "criterion": "tone", "content": "It is polite."}]
    found = read_criteria(write_rows(tmp_path / "criteria.jsonl", rows))
    assert list(found) == ["letter", "poem"]
    assert [c.name for c in found["poem"].criteria] == ["metre", "rhyme"]
    assert criteria_text(found["poem"]) == (
        "The question asks for this kind of work: Write verse.\n1. metre: It scans.\n2. rhyme: It rhymes."
    )
    assert criteria_text(found["letter"]) == "1. tone: It is polite."


@pytest.mark.parametrize(
    ("row", "message"),
    [({**ROW, "content": ""}, "content: is empty"), ({**ROW, "weight": "2"}, "weight: is '2'"),
     ({"scenario": "poem"}, "criterion: is missing")],
)  # fmt: skip
def test_a_row_of_no_use_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_criteria(write_rows(tmp_path / "criteria.jsonl", [row]))


def test_the_file_of_auto_j_is_read(shared_data: Path) -> None:
    found = read_criteria(str(shared_data / "autoj/scenario_criteria.jsonl"))
    assert sum(len(scenario.criteria) for scenario in found.values()) == 705
    assert len(found) >= 58
    assert all(criteria_text(scenario) for scenario in [*found.values(), *scenarios().values()])
