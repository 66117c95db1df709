"""A rubric calibrated end to end, with an oracle that drafts rubrics and judges by the rule that a rubric names."""

import re
from pathlib import Path

import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.base import read_settings
from pipelines.evaluation.services.autocalibrate import start_rubric
from pipelines.prompts import load
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.services.told import evaluate, judging, rows_file, tag

PLAN = {"sizes": [4], "draws": 2, "samples": 2, "keep": 1, "rounds": 1}


def oracle(text: str, index: int) -> str:
    """Drafts "length" and, as its second sample, "facts"; edits to the same; judges by what the criterion names."""
    if "You find out what experts look at" in text:
        return "Count the facts." if index else "Look at the length."
    if "Make one change" in text:
        return "  "
    words = tag(text, "response").split()
    criterion = text.split("Criterion: ")[1].split("\n")[0]
    if "mute" in criterion:
        return "Hm."
    value = words.count("fact") if "facts" in criterion else len(words) % 5 if "length" in criterion else 0
    return f"Score: {min(5, 1 + value)}"


def labelled(folder: Path, count: int = 24) -> Path:
    rows = [{"response": "fact " * (i % 5) + "word " * (i * 7 % 11), "score": i % 5} for i in range(count)]
    return rows_file(folder, rows)


def test_the_rule_behind_the_scores_is_found(tmp_path: Path) -> None:
    out = tmp_path / "rubric.txt"
    judge, engine = judging(oracle)
    result = evaluate("autocalibrate", labelled(tmp_path), judge, aspect="truth", rubric_out=str(out),
                      **{f"plan.{k}": v for k, v in PLAN.items()})  # fmt: skip
    assert out.read_text(encoding="utf-8") == "Count the facts.\n"
    found = {name: estimate.value for name, estimate in result.estimates.items()}
    assert found["calibrated, held-out spearman"] == pytest.approx(1.0)
    assert result.estimates["held-out difference"].n == 12
    assert sum("You find out what experts" in text for text in engine.asked) == 2
    chosen = [row for row in result.tables["rubrics"] if row["chosen"]]
    assert [(row["origin"], row["rubric"]) for row in chosen] == [("draft from 4", "Count the facts.")]
    assert result.abstentions["edit missing"] == 4


def test_it_says_plainly_when_nothing_is_better(tmp_path: Path) -> None:
    start = tmp_path / "start.txt"
    start.write_text("Count the facts, please.", encoding="utf-8")
    out = tmp_path / "rubric.txt"
    result = evaluate("autocalibrate", labelled(tmp_path), judging(oracle)[0], aspect="a", rubric_out=str(out),
                      rubric=str(start), **{f"plan.{k}": v for k, v in PLAN.items()})  # fmt: skip
    assert "not better" in result.notes[0] and out.read_text(encoding="utf-8") == "Count the facts, please.\n"


def test_a_start_rubric_that_leaves_the_judge_mute_is_disqualified(tmp_path: Path) -> None:
    start = tmp_path / "start.txt"
    start.write_text("Be mute.", encoding="utf-8")
    out = tmp_path / "rubric.txt"
    result = evaluate("autocalibrate", labelled(tmp_path), judging(oracle)[0], aspect="a", rubric_out=str(out),
                      rubric=str(start), **{f"plan.{k}": v for k, v in PLAN.items()})  # fmt: skip
    assert out.read_text(encoding="utf-8") == "Count the facts.\n"
    row = next(row for row in result.tables["rubrics"] if row["origin"] == "start")
    assert row["disqualified"] == "yes" and row["unreadable"] == 1.0
    assert result.abstentions["judgement missing"] == 24


def test_the_rubric_is_the_criterion_of_a_likert_judge() -> None:
    for template in ("judge_likert", "verdict_likert"):
        text = load(template).render(prompt="p", response="r", meta={"criterion": "Count the facts."})
        assert re.search(r"Criterion: Count the facts\.", text)


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    rows = [{"summary": "fact " * (i % 3) + "w " * i, "coherence": i % 3, "article": "a"} for i in range(8)]
    judge, engine = judging(oracle)
    evaluate("autocalibrate", rows_file(tmp_path, rows), judge, aspect="coherence", text_column="summary",
             score_column="coherence", prompt_column="article", rubric_out=str(tmp_path / "r.txt"),
             **{f"plan.{k}": v for k, v in PLAN.items()})  # fmt: skip
    assert all("\na\n" in text for text in engine.asked if "<question>" in text)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"response": "x", "score": i} for i in range(7)], "7 items; give 8 or more"),
        ([{"response": str(i), "score": 1} for i in range(9)], "the same everywhere"),
        ([{"response": "x"}], "score: is missing"),
    ],
)
def test_items_of_no_use(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate("autocalibrate", rows_file(tmp_path, rows), judging(oracle)[0], aspect="a", rubric_out="unused")


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    from pipelines.evaluation.services.autocalibrate import EVALUATION

    with pytest.raises(ConfigError, match="aspect"):
        read_settings(EVALUATION, ["rubric_out=r.txt"])
    with pytest.raises(ConfigError, match=r"plan\.sizes"):
        read_settings(EVALUATION, ["aspect=a", "rubric_out=r.txt", "plan.size=[3]"])
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    settings = read_settings(EVALUATION, ["aspect=a", "rubric_out=r.txt", f"rubric={empty}"])
    with pytest.raises(InputError, match="is empty"):
        start_rubric(settings)
