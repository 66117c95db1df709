"""`ppi` and `ppi-plan` on files: both kinds of rows, abstentions, what the notes say, and real preferences."""

import asyncio
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.command import measure
from pipelines.evaluation.estimates.ppi import EVALUATION, Settings, read_items
from pipelines.evaluation.estimates.ppi_estimators import saving
from pipelines.steps.rows import InputError


@pytest.fixture
def write(tmp_path) -> Any:
    """`write(rows)` gives the path of a JSONL file."""

    def to(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return to


def judged(n: int, labelled: int, score: float, tpr: float, tnr: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a judge with the rates given; the first `labelled` have gold."""
    rng = np.random.default_rng(seed)
    gold = rng.random(n) < score
    said = rng.random(n) < np.where(gold, tpr, 1 - tnr)
    return [
        {"score": int(s), "gold": bool(g) if i < labelled else None}
        for i, (s, g) in enumerate(zip(said, gold, strict=True))
    ]


def run(name: str, data: str, *words: str) -> Any:
    return measure(name, data, None, list(words), None)


def test_a_biased_judge_is_corrected_and_its_worth_is_told(write):
    result = run("ppi", write(judged(2000, 200, 0.8, 0.75, 1.0, seed=2)))
    found = result.estimates
    low, high = found["ppi_tuned"].interval
    assert low < 0.8 < high and found["judge_only"].interval[1] < 0.7
    assert high - low < found["gold_only"].interval[1] - found["gold_only"].interval[0]
    assert found["tau"].value == pytest.approx(saving(found["rho"].value, 200, 1800))
    assert found["effective_labels"].value == pytest.approx(200 * found["tau"].value)
    assert (found["gold_only"].n, found["ppi_tuned"].n, result.rows) == (200, 2000, 2000)
    assert 0.5 < found["balanced_agreement"].value < 1 and result.data_hash
    assert found["rho"].value ** 2 <= 2 * found["balanced_agreement"].value - 1


def test_a_judge_no_better_than_the_judged_is_said_to_save_less_than_half(write):
    weak = run("ppi", write(judged(1000, 300, 0.9, 0.8, 0.6)))
    assert any("cannot save more than half" in note and "tau <= 2p" in note for note in weak.notes)
    assert any("below 1.2" in note for note in weak.notes)
    strong = run("ppi", write(judged(1000, 300, 0.6, 0.95, 0.95)))
    assert not any("half" in note or "below" in note for note in strong.notes)


def test_verdicts_win_ties_and_lose(write):
    words = [("A", 1), ("tie", 0.5), ("B", 0), ("A", True), (" b ", "B")]
    items = read_items(write([{"verdict": v, "gold": g} for v, g in words] + [{"verdict": "tie"}] * 2))
    assert items.judged.tolist() == [1, 0.5, 0, 1, 0] == items.gold.tolist()
    assert items.rest.tolist() == [0.5, 0.5] and items.scale == (0, 1) and not items.paired


def test_labels_are_shares_only_where_that_is_clear(write):
    ones = [{"score": 1 + i % 5, "gold": 1} for i in range(5)] + [{"score": 3}] * 3
    assert read_items(write(ones)).scale is None  # the lowest of 1 to 5, as it seems
    assert any("say nothing" in note for note in run("ppi", write(ones)).notes)
    assert read_items(write([{**row, "score": row["score"] / 5} for row in ones])).scale == (0, 1)
    assert read_items(write([*ones, {"score": 2, "gold": 0}])).scale == (0, 1)


def test_an_unreadable_score_leaves_the_question_as_it_is(write):
    rows = judged(400, 100, 0.7, 0.9, 0.8)
    full = read_items(write(rows))
    for i in range(0, 400, 10):
        rows[i]["score"] = None
    result, items = run("ppi", write(rows)), read_items(write(rows))
    assert result.abstentions == {"missing": 40} and result.estimates["ppi_tuned"].n == 400
    known = [row["score"] for row in rows if row["score"] is not None]
    assert np.concatenate([items.judged, items.rest]).mean() == pytest.approx(np.mean(known))
    assert items.gold.tolist() == full.gold.tolist()


def test_two_models_on_the_same_items(write):
    rng = np.random.default_rng(3)
    quality = rng.random(600)
    rows = []
    for i, q in enumerate(quality):
        a, b = rng.random() < min(1, q + 0.15), rng.random() < q
        row: dict[str, Any] = {"score_a": float(a) * 0.8, "score_b": float(b) * 0.8}
        rows.append(row | ({"gold_a": bool(a), "gold_b": bool(b)} if i % 5 == 0 else {}))
    result = run("ppi", write(rows))
    items = read_items(write(rows))
    assert items.paired and items.scale == (-1, 1) and len(items.gold) == 120
    low, high = result.estimates["ppi_tuned"].interval
    assert low < 0.14 < high < 1 and any("a minus b" in note for note in result.notes)
    assert any("weight of least variance" in note for note in result.notes)  # 0.8 of the difference: a weight above 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"score": 1, "gold": 1}] * 2 + [{"score": 1}] * 5, "at least 3 and 2"),
        ([{"score": 1, "gold": 1}] * 5, "5 rows have gold and 0 have none"),
        ([{"gold": 1}] * 3 + [{"id": 4}] * 3, "no row has a score"),
        ([{"score": "good", "gold": 1}], "rows.jsonl:1: score: is text"),
        ([{"score_a": 1, "score_b": 0, "gold_a": 1}], "gold_b: is missing; label both"),
        ([{"score": 1, "gold": 1}, {"score_a": 1, "score_b": 1}], "give one kind"),
        ([{"score": 1, "verdict": "A", "gold": 1}], "verdict: stands beside score"),
    ],
)
def test_rows_that_cannot_be_used_are_named(write, rows, said):
    with pytest.raises(InputError, match=said):
        run("ppi", write(rows))


def test_labels_that_are_no_random_subset_are_noticed(write):
    rows = sorted(judged(1000, 0, 0.6, 0.9, 0.9), key=lambda row: row["score"])
    rows = [{**row, "gold": i % 2} if i < 200 else row for i, row in enumerate(rows)]
    assert any("no random subset" in note for note in run("ppi", write(rows)).notes)
    drawn = run("ppi", write(judged(1000, 200, 0.6, 0.9, 0.9)))
    assert not any("no random subset" in note for note in drawn.notes)


def test_a_plan_from_a_pilot(write):
    pilot = write(judged(1100, 100, 0.6, 0.95, 0.9))
    result = run("ppi-plan", pilot, "half_width=0.04")
    found = {name: estimate.value for name, estimate in result.estimates.items()}
    z = 1.959964
    assert found["labels_without_judge"] == math.ceil((z * found["label_sd"] / 0.04) ** 2)
    reached = z * found["label_sd"] * math.sqrt(1 / found["tau"] / found["labels"])
    assert reached == pytest.approx(0.04, rel=0.01)
    assert found["labels_saved"] == found["labels_without_judge"] - found["labels"] > 100
    assert result.notes[0].startswith("use the judge")
    labels = [row["labels"] for row in result.tables["plan"]]
    assert labels == sorted(labels, reverse=True) and result.tables["plan"][-1]["judged"] == "no limit"
    low, high = result.estimates["labels"].interval
    assert low < found["labels"] < high


def test_a_plan_from_assumed_correlations(write):
    cases = write([{"rho": math.sqrt(0.5), "judged": 1000, "n": 100}, {"rho": 0.3, "judged": 1000, "sd": 0.4}])
    result = run("ppi-plan", cases)
    first, second = result.tables["plan"]
    assert (first["tau_at_n"], first["worth"]) == pytest.approx((1.8333, 183.33), abs=0.01)
    assert first["alone"] == 385 and second["alone"] == 246
    assert "use the judge" in result.notes[0] and "skip the judge" in result.notes[1]
    with pytest.raises(InputError, match=r"rho: is 2; use -1 to 1"):
        run("ppi-plan", write([{"rho": 2, "judged": 5}]))


def test_length_as_a_judge_of_real_answers_saves_little(shared_data, tmp_path):
    """The longer answer wins: what such a judge is worth beside GPT-4's preference as gold, over 805 prompts."""
    table = pd.read_parquet(shared_data / "alpaca_eval" / "annotations_ae2.parquet")
    model = table[table["model"] == sorted(table["model"].unique())[0]].reset_index()
    wins = (model["len_model"] > model["len_baseline"]).astype(int)
    gold = (model["preference"] > 1.5).astype(float)
    labelled = np.random.default_rng(0).permutation(len(model)) < 200
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"score": wins, "gold": gold.where(labelled)}).to_parquet(path)
    result = run("ppi", str(path))
    low, high = result.estimates["ppi_tuned"].interval
    assert low < gold.mean() < high
    assert result.estimates["tau"].value < 1.2 and any("below 1.2" in note for note in result.notes)


def test_evaluations_are_library_calls_too(write):
    data = write(judged(100, 30, 0.7, 0.9, 0.8))
    result = asyncio.run(EVALUATION().run(data, None, Settings()))
    assert result == run("ppi", data)


def test_an_abstention_leaves_the_agreement_of_the_others(write):
    rows = [{"score": i % 2, "gold": i % 2} for i in range(20)] + [{"score": i % 2} for i in range(40)]
    silent = [{"score": None, "gold": 1}, {"score": None}]
    found = run("ppi", write([*rows, *silent]))
    assert (found.estimates["agreement"].value, found.estimates["agreement"].n) == (1.0, 20)
    assert any("balanced agreement" in note for note in found.notes)
