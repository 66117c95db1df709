"""`uncertainty-boundary` on files: gains where there are any, and none where uncertainty is noise."""

import json
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.command import measure
from pipelines.evaluation.estimates.uncertainty_boundary import recall_gain
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.estimates.test_boundary import drawn


def run(tmp_path, columns: dict[str, Any], *words: str) -> Any:
    path = tmp_path / "rows.jsonl"
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return measure("uncertainty-boundary", str(path), None, list(words), None)


def test_a_score_that_is_worth_less_when_unsure(tmp_path):
    scores, uncertainties, correct = drawn(5, 4000, depends=True)
    result = run(tmp_path, {"score": scores, "uncertainty": uncertainties, "correct": correct}, "precision=0.85")
    found = result.estimates
    for rule in ("cuts", "isotonic"):
        low, high = found[f"{rule}: recall gain at equal precision"].interval
        assert 0.03 < low < found[f"{rule}: recall gain at equal precision"].value < high
        assert found[f"{rule}: recall"].value > found["single: recall"].value
        assert found[f"{rule}: precision"].value == pytest.approx(0.85, abs=0.03)
    assert not any("no gain" in note for note in result.notes)
    assert len(result.tables["thresholds"]) == 11 and result.rows == 4000


def test_uncertainty_that_says_nothing_gains_nothing(tmp_path):
    scores, uncertainties, correct = drawn(6, 4000, depends=False)
    result = run(tmp_path, {"score": scores, "uncertainty": uncertainties, "correct": correct}, "precision=0.85")
    assert [note.split(":")[0] for note in result.notes if "no gain" in note] == ["cuts", "isotonic"]


def test_the_gain_is_over_the_best_threshold_of_the_same_precision():
    scores, correct = [0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1]
    assert recall_gain(scores, correct, [1, 0, 1, 1]) == pytest.approx(2 / 3)  # precision 1: a threshold takes one of 3
    assert recall_gain(scores, correct, [1, 1, 1, 0]) == pytest.approx(-1 / 3)  # at 2/3 all four may be taken
    assert recall_gain([0.5] * 4, correct, [1, 0, 1, 0]) == pytest.approx(2 / 3)  # equal scores are taken together
    assert np.isnan(recall_gain(scores, correct, [0] * 4))
    both = recall_gain(np.array([scores] * 2), np.array([correct] * 2), np.array([[1, 0, 1, 1], [1, 1, 1, 0]]), axis=-1)
    assert both == pytest.approx([2 / 3, -1 / 3])


def test_the_variance_of_few_judgements_gives_fewer_levels(tmp_path):
    rng = np.random.default_rng(0)
    uncertainties = rng.choice([0.0, 0.25], 200)
    result = run(tmp_path, {"score": rng.random(200), "uncertainty": uncertainties, "correct": rng.random(200) < 0.9})
    assert [row["rule"] for row in result.tables["thresholds"]] == ["single", "cuts", "cuts", "isotonic", "isotonic"]


def test_an_item_without_score_is_an_abstention(tmp_path):
    path = tmp_path / "rows.jsonl"
    rng = np.random.default_rng(0)
    rows = [{"score": s, "uncertainty": 0.1, "correct": bool(s > 0.3)} for s in rng.random(60)]
    rows += [{"score": None, "uncertainty": 0.1, "correct": True}] * 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = measure("uncertainty-boundary", str(path), None, [], None)
    assert result.abstentions == {"missing": 3} and result.rows == 63


def test_what_cannot_be_halved_is_refused(tmp_path):
    with pytest.raises(InputError, match="two halves need more"):
        run(tmp_path, {"score": [1], "uncertainty": [1], "correct": [1]})
    with pytest.raises(InputError, match="recall is of nothing"):
        run(tmp_path, {"score": [1] * 9, "uncertainty": [1] * 9, "correct": [0] * 9})
