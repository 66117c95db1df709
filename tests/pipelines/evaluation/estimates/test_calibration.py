"""`calibration` on files: scales, abstentions, and what the gate does with every item."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.command import measure
from pipelines.steps.rows import InputError


@pytest.fixture
def run(tmp_path) -> Any:
    """`run(scores, correct, *words)`; a score of None is an abstention."""

    def call(scores: Any, correct: Any, *words: str) -> Any:
        path = tmp_path / "rows.jsonl"
        rows = [
            {"score": None if s is None else float(s), "correct": bool(c)} for s, c in zip(scores, correct, strict=True)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return measure("calibration", str(path), None, list(words), None)

    return call


def test_calibrated_scores_and_the_same_ones_pushed_up(run):
    rng = np.random.default_rng(0)
    scores = rng.random(1000)
    correct = rng.random(1000) < scores
    good, bad = run(scores, correct).estimates, run(scores**0.3, correct).estimates
    assert good["ece"].value < 2 * good["ece_if_calibrated"].value < 0.08 < bad["ece"].value
    assert good["brier"].value < bad["brier"].value
    for area in ("calibration_auc", "selective_auc", "aurc"):
        assert good[area].value == pytest.approx(bad[area].value)  # the order is the same
        assert good[area].interval[0] < good[area].value < good[area].interval[1]
    assert good["calibration_auc"].value == pytest.approx(5 / 6, abs=0.03)  # closed form for uniform calibrated scores


def test_digits_of_self_j_on_their_scale(run):
    rng = np.random.default_rng(1)
    digits = rng.integers(0, 10, 1500)
    correct = rng.random(1500) < digits / 9
    result = run(digits, correct, "high=9", "precision=0.8", "label_share=0.1")
    assert result.estimates["ece"].value < 0.06
    fates = {row["fate"]: row for row in result.tables["gate"]}
    assert fates["keep"]["right"] >= 0.8 and sum(row["items"] for row in fates.values()) == 1500
    assert 0 < fates["label"]["share"] <= 0.25 and fates["abstain"]["right"] < fates["label"]["right"]
    assert any(note.startswith("keep scores from") for note in result.notes)
    with pytest.raises(InputError, match=r"scores are outside 0\.\.1, as \d; set low and high"):
        run(digits, correct)


def test_abstentions_enter_no_area_and_are_never_accepted(run):
    rng = np.random.default_rng(2)
    scores = list(rng.random(300))
    correct = [True] * 300
    known = run(scores, correct)
    more = run([*scores, None, None], [*correct, False, False], "label_share=0.01")
    assert more.estimates == known.estimates and more.abstentions == {"missing": 2}
    fates = {row["fate"]: row["items"] for row in more.tables["gate"]}
    assert fates["label"] >= 2 and fates["keep"] <= 300
    assert known.estimates["calibration_auc"].value is None and known.estimates["calibration_auc"].why


def test_too_few_items_promise_nothing(run):
    result = run([0.9] * 20, [True] * 20)
    assert result.tables["gate"][0]["items"] == 0
    assert any("no threshold can promise 90%" in note and "29 items" in note for note in result.notes)


def test_a_scale_without_width_is_refused(run):
    with pytest.raises(ConfigError, match="high: 1 is not above low=2"):
        run([1], [True], "low=2")
    with pytest.raises(InputError, match="no row has a score"):
        run([None], [True])


def test_self_consistency_on_real_solutions(shared_data, run):
    """The share of three other models with the same answer, as a score of 1,600 GSM8K solutions."""
    table = pd.read_parquet(shared_data / "gsm8k" / "model_solutions.parquet")
    answers = table["solution"].str.rpartition("A: ")[2].str.strip()
    same = answers.groupby([table["id"], answers]).transform("size")
    result = run((same - 1) / 3, table["is_correct"], "bins=4")
    assert result.estimates["accuracy"].value == 0.3825
    assert result.estimates["calibration_auc"].value == pytest.approx(0.8762, abs=1e-4)
    assert [row["n"] for row in result.tables["reliability"]] == [895, 292, 201, 212]
    assert result.tables["gate"][0]["items"] == 212 and "keep scores from 1:" in result.notes[-1]
