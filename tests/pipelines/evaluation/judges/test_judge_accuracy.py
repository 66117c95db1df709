"""judge-accuracy on oracles whose numbers can be worked out, on recorded verdicts, and on real labelled files."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from actors.votes import votes_of
from pipelines.config import ConfigError
from pipelines.evaluation.base import Result, read_settings
from pipelines.evaluation.judges.comparisons import Comparison, read_comparisons
from pipelines.evaluation.judges.judge_accuracy import JudgeAccuracy
from pipelines.evaluation.judges.judged import as_group, recorded
from pipelines.evaluation.judges.verdict_numbers import Outcome, section_estimates
from pipelines.steps.agreement import BothOrders
from tests.oracles import Opinion, confused, length, mute, place, rule
from tests.pipelines.evaluation.judges.judges import labelled_rows, oracle, write_rows


def run(data: str, opinion: Opinion | None, *words: str, **cast: Any) -> Result:
    settings = read_settings(JudgeAccuracy, list(words))
    judging = None if opinion is None else oracle(data, opinion, settings, **cast)
    return asyncio.run(JudgeAccuracy().run(data, judging, settings))


def values(result: Result) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in result.estimates.items()}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_rows(tmp_path / "pairs.jsonl", labelled_rows(40))


PROTOCOLS = ["pairwise", "boxed", "decision", "fast_pairwise"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_judge_who_knows_is_right_in_both_orders(data: str, protocol: str) -> None:
    result = run(data, rule(), f"protocol={protocol}")
    found = values(result)
    assert found["accuracy"] == found["right_in_both_orders"] == found["readable"] == found["decision_accuracy"] == 1.0
    assert (found["flip_rate"], found["first_position_rate"], found["ties"]) == (0.0, 0.5, 0.0)
    assert (result.rows, result.judge, result.weight_version, result.abstentions) == (40, "oracle", "v0", {})
    assert [row["subset"] for row in result.tables["by subset"]] == ["one", "two"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_judge_of_places_scores_exactly_half(data: str, protocol: str) -> None:
    found = values(run(data, place, f"protocol={protocol}"))
    assert found["accuracy"] == 0.5
    assert (found["right_in_both_orders"], found["flip_rate"], found["first_position_rate"]) == (0.0, 1.0, 1.0)
    assert found["decision_accuracy"] == 0.0  # all ties


@pytest.mark.parametrize(("policy", "decided", "n"), [("tie", 0.0, 40), ("abstain", None, 0), ("first", 0.5, 40)])
def test_orders_that_disagree_come_to_what_the_setting_says(tmp_path: Path, policy: str, decided: Any, n: int) -> None:
    rows = [{**row, "label": "AB"[i % 2]} for i, row in enumerate(labelled_rows(40))]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    result = run(data, place, f"disagreement={policy}")
    assert (result.estimates["decision_accuracy"].value, result.estimates["decision_accuracy"].n) == (decided, n)
    assert result.estimates["accuracy"].value == 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mute_judge_only_abstains(data: str, protocol: str) -> None:
    result = run(data, mute(1.0, rule()), f"protocol={protocol}")
    found = values(result)
    assert (found["accuracy"], found["readable"], found["accuracy_abstentions_half"]) == (None, 0.0, 0.5)
    assert result.abstentions == {"missing": 80}
    assert result.estimates["accuracy"].why == "no readable verdict"


def test_a_judge_that_is_mute_at_times_is_as_right_as_before(data: str) -> None:
    result = run(data, mute(0.5, rule()), "votes=1")
    found = values(result)
    assert found["accuracy"] == 1.0 and found["accuracy_abstentions_half"] < 1.0  # ty: ignore[unsupported-operator]
    assert 0 < result.abstentions["missing"] < 80


def test_a_confused_judge_is_measured(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled_rows(400, seed=1))
    result = run(data, confused(0.9, 0.6))
    assert result.estimates["accuracy"].value == pytest.approx(0.75, abs=0.04)
    low, high = result.estimates["accuracy"].interval or (0, 0)
    assert low < 0.75 < high
    assert result.estimates["right_in_both_orders"].value == pytest.approx(0.54, abs=0.06)


def test_a_judge_of_length_correlates_with_it(data: str) -> None:
    found = values(run(data, length))
    assert (found["length_correlation"] or 0) > 0.7
    assert abs(values(run(data, rule()))["length_correlation"] or 0) < 0.5


SCORING = ["additive", "likert", "single", "classify", "digits", "rubric:0-10", "fast_score"]


@pytest.mark.parametrize("protocol", SCORING)
def test_scores_are_compared_and_have_no_order(data: str, protocol: str) -> None:
    result = run(data, rule(), f"protocol={protocol}")
    found = values(result)
    assert found["accuracy"] == 1.0 and found["flip_rate"] is None and found["first_position_rate"] is None
    assert any("scored by itself" in note for note in result.notes)
    same = values(run(data, lambda shown, chance: [2.0 for _ in shown], f"protocol={protocol}"))
    assert (same["accuracy"], same["accuracy_ties_half"], same["ties"]) == (0.0, 0.5, 1.0)


def test_votes_are_counted_by_majority_and_kept_apart_from_each_other(data: str) -> None:
    one = values(run(data, confused(0.7, 0.7), "votes=1", "temperature=0.7"))["accuracy"] or 0
    nine = values(run(data, confused(0.7, 0.7), "votes=9", "temperature=0.7"))["accuracy"] or 0
    assert nine > one


def test_fast_asks_for_probabilities_and_writes_nothing(data: str) -> None:
    result = run(data, rule(), "fast=true")
    assert any("fast_pairwise" in note for note in result.notes)
    assert values(result)["accuracy"] == 1.0


def test_prompts_without_room_are_abstentions_of_that_reason(tmp_path: Path) -> None:
    rows = labelled_rows(4)
    rows[0]["prompt"] = "Question 0?" + "x" * 5000
    result = run(write_rows(tmp_path / "pairs.jsonl", rows), rule(), room=4000)
    assert result.abstentions == {"prompt_too_long": 1}
    assert (result.estimates["accuracy"].n, result.estimates["readable"].value) == (3, 0.75)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["protocol=pairwis"], "did you mean pairwise"), (["votes=3"], "set temperature"),
     (["fast=true", "votes=3"], "leave votes at 1"), (["fast=true", "protocol=single"], "no fast form"),
     (["vote=3"], "vote"), (["protocol=rubric:9-1"], "from a lower")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(data: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data, rule(), *words)


def test_a_file_without_verdicts_needs_a_judge(data: str) -> None:
    with pytest.raises(ConfigError, match="give --judge"):
        run(data, None)


# ---- what is shown


def test_reference_and_criteria_of_a_row_are_shown_and_a_plain_row_is_asked_as_ever() -> None:
    plain = Comparison(0, "p", "a", "b", "A")
    assert as_group(plain, "judge_pairwise", 0)[1] == "judge_pairwise"
    both = Comparison(0, "p", "a", "b", "A", meta={"reference": "R", "criteria": "C"})
    assert as_group(both, "judge_pairwise", 0)[1] == "judge_pairwise+criteria+reference"
    assert as_group(both, "judge_rubric", 0)[1] == "judge_rubric+reference"
    group, template = as_group(both, "judge_digits", 0)
    assert (group["gold"], template) == ("R", "judge_digits+criteria")


@pytest.mark.parametrize(
    ("words", "shown"),
    [([], ["MY CRITERION", "MY REFERENCE"]), (["criteria=IT RHYMES"], ["IT RHYMES"]),
     (["scenarios=builtin"], ["post from a forum"])],
)  # fmt: skip
def test_criteria_come_from_the_row_its_scenario_or_the_settings(
    tmp_path: Path, words: list[str], shown: list[str]
) -> None:
    rows = labelled_rows(3, subset="post_summarization")
    if not words:
        rows = [{**row, "criteria": "MY CRITERION", "reference": "MY REFERENCE"} for row in rows]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    settings = read_settings(JudgeAccuracy, words)
    judging = oracle(data, rule(), settings)
    result = asyncio.run(JudgeAccuracy().run(data, judging, settings))
    assert values(result)["accuracy"] == 1.0
    truth = judging.speaker.client.engine.truth  # ty: ignore[missing-attribute]
    asked = "".join(chr(i) for i in truth.asked[0][1].prompt_ids)
    assert all(text in asked for text in shown)


# ---- recorded verdicts


def test_recorded_verdicts_need_no_judge(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response_a": "a", "response_b": "b", "label": label, "verdicts": verdicts}
        for label, verdicts in [("A", ["A", "A"]), ("A", ["A", "B"]), ("A", ["B", "B"]), ("tie", ["tie", "tie"]),
                                ("B", ["B", None]), ("B", [None, None])]
    ]  # fmt: skip
    result = run(write_rows(tmp_path / "r.jsonl", rows), None)
    found = values(result)
    assert found["accuracy"] == (1 + 0.5 + 0 + 1 + 1) / 5
    assert (found["right_in_both_orders"], found["consistency"]) == (2 / 4, 3 / 4)
    assert result.abstentions == {"missing": 3}
    assert (result.judge, result.weight_version) == (None, None)
    shown = [{**row, "verdicts": [row["verdicts"][0], {"A": "B", "B": "A"}.get(row["verdicts"][1], row["verdicts"][1])]}
             for row in rows]  # fmt: skip
    assert values(run(write_rows(tmp_path / "s.jsonl", shown), None, "recorded_as=shown")) == found


def test_one_recorded_verdict_a_row_has_no_flips(tmp_path: Path) -> None:
    said = ["A", "B", "A", None, "tie"]
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad", "verdict": v} for i, v in enumerate(said)]
    result = run(write_rows(tmp_path / "r.jsonl", rows), None)
    found = values(result)
    assert (found["accuracy"], found["accuracy_ties_half"], found["flip_rate"]) == (0.5, 0.625, None)
    assert result.estimates["accuracy"].interval == pytest.approx((0.15, 0.85), abs=0.01)  # Wilson, 2 of 4
    assert result.abstentions == {"missing": 1}


def test_recorded_scores_are_compared(tmp_path: Path) -> None:
    pair = {"prompt": "p", "response_a": "a", "response_b": "b", "label": "A"}
    rows = [{**pair, "score_a": a, "score_b": b} for a, b in [(4, 2), (2, 4), (3, 3), (5, None)]]
    result = run(write_rows(tmp_path / "r.jsonl", rows), None)
    assert (values(result)["accuracy"], result.estimates["accuracy"].n) == (1 / 3, 3)
    assert result.abstentions == {"missing": 1}


def test_a_constant_recorded_judge_on_real_data_is_worth_the_label_share(shared_data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "llmbar/llmbar.jsonl").read_text("utf-8").splitlines()]
    always_first = [{**row, "verdicts": ["A", "B"]} for row in rows]
    found = values(run(write_rows(tmp_path / "first.jsonl", always_first), None))
    assert (found["accuracy"], found["first_position_rate"], found["flip_rate"]) == (0.5, 1.0, 1.0)
    longer = ["A" if len(row["response_a"]) > len(row["response_b"]) else "B" for row in rows]
    by_length = [{**row, "verdict": v} for row, v in zip(rows, longer, strict=True)]
    result = run(write_rows(tmp_path / "length.jsonl", by_length), None)
    assert values(result)["accuracy"] == pytest.approx(85 / 300)  # the longer one is seldom the right one in LLMBar
    worst = {row["subset"]: row["accuracy"] for row in result.tables["by subset"]}
    assert worst["natural"] > 0.5 > worst["adver-GPTOut"]


def test_sections_of_rewardbench(shared_data: Path) -> None:
    data = str(shared_data / "rewardbench/pairs.parquet")
    made = read_comparisons(data, shuffle=False)
    shorter = [Outcome(c.row, c.label, ("A" if c.longer < 0 else "B",), c.longer, c.subset, c.section) for c in made]
    found = {name: e.value for name, e in section_estimates(shorter).items()}
    assert found == {
        "section Chat": pytest.approx(32 / 163), "section Chat Hard": pytest.approx(156 / 228),
        "section Safety": pytest.approx(210 / 354), "section Reasoning": pytest.approx(320 / 677),
        "section Reasoning, math-prm as all code": pytest.approx(0.591885, abs=1e-6),
        "overall": pytest.approx(0.486606, abs=1e-6),
        "overall, math-prm as all code": pytest.approx(
            (32 / 163 + 156 / 228 + 210 / 354 + 0.591885) / 4, abs=1e-6),
    }


def test_recorded_both_orders_are_those_of_auto_j() -> None:
    rows = [BothOrders("A", "B", "A"), BothOrders("A", "A", "A")]
    made = [Comparison(i, "p", "a", "b", r.gold, verdicts=(r.normal, {"A": "B", "B": "A"}[r.swapped or ""]))
            for i, r in enumerate(rows)]  # fmt: skip
    assert [judged.verdicts for judged in recorded(made)] == [("A", "A"), ("A", "B")]
    assert votes_of([], "pairwise", ["a", "b"]) == []


def test_rows_of_one_prompt_are_drawn_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i // 10}", "response_a": f"a{i}", "response_b": f"b{i}", "label": "A",
             "verdict": "A" if i // 10 % 2 else "B"} for i in range(60)]
    alone = [{**row, "prompt": f"p{i}"} for i, row in enumerate(rows)]
    together, apart = (run(write_rows(tmp_path / f"{len(str(some))}.jsonl", some), None) for some in (rows, alone))
    wide, narrow = (result.estimates["accuracy"].interval or (0.0, 0.0) for result in (together, apart))
    assert together.rows == apart.rows == 60
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
