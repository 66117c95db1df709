"""The evaluation of critiques, with oracle judges, recorded verdicts and people's labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.services.metacritique import EVALUATION, read_critiques
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.services.told import CUT, evaluate, judging, rows_file, tag

ROW: dict[str, Any] = {
    "question": "What is a whale?", "response": "A fish.", "critique": "Wrong. A whale is a mammal. It is blue.",
    "reference_answer": "A mammal.", "reference_critique": "It is wrong. A whale is a mammal.",
}  # fmt: skip
TRUE = ("wrong", "mammal")  # claims with one of these words are right


def sentences(text: str) -> str:
    return "\n".join(part.strip() + "." for part in text.split(".") if part.strip())


def oracle(text: str, index: int) -> str:
    """Splits critiques into sentences, knows which claims are right, and compares by words."""
    if "Split a critique" in text:
        return sentences(tag(text, "critique"))
    claim, critique = tag(text, "claim").lower(), tag(text, "critique").lower()
    if "You compare a claim with a critique" in text:
        word = next((w for w in (*TRUE, "blue", "late") if w in claim), claim)
        return f"I compare.\nThe claim is {'true' if word in critique else 'false'}"
    return f"I check.\nThe claim is {'true' if any(word in claim for word in TRUE) else 'false'}"


def test_units_and_verdicts_of_a_model(tmp_path: Path) -> None:
    judge, engine = judging(oracle)
    out = tmp_path / "units.jsonl"
    result = evaluate("metacritique", rows_file(tmp_path, [ROW]), judge, units_out=str(out))
    assert {name: result.estimates[name].value for name in ("precision", "recall", "f1")} == pytest.approx(
        {"precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    )
    assert len(engine.asked) == 2 + 3 + 2  # both critiques are split; a verdict for each unit
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["side"], line["unit"], line["verdict"]) for line in lines] == [
        ("precision", "Wrong.", True), ("precision", "A whale is a mammal.", True), ("precision", "It is blue.", False),
        ("recall", "It is wrong.", True), ("recall", "A whale is a mammal.", True)]  # fmt: skip
    assert lines[0]["rationale"] == "I check.\nThe claim is true" and lines[0]["status"] == "ok"
    assert result.judge == "oracle" and result.weight_version == "v0" and result.data_hash


def test_what_the_rows_lack_is_asked_for_once_a_question(tmp_path: Path) -> None:
    def reply(text: str, index: int) -> str:
        if text.startswith("user:\nAnswer the question"):
            return "A mammal."
        return "It is wrong." if "You review answers" in text else oracle(text, index)

    judge, engine = judging(reply)
    row = {key: ROW[key] for key in ("question", "response")}
    data = rows_file(tmp_path, [{**row, "critique": "Wrong."}, {**row, "critique": "Late."}])
    result = evaluate("metacritique", data, judge)
    assert result.estimates["recall"].value == 0.5
    assert sum("Answer the question" in text for text in engine.asked) == 1
    assert sum("You review answers" in text and "A mammal." in text for text in engine.asked) == 1


def test_given_units_are_kept_and_only_their_verdicts_asked_for(tmp_path: Path) -> None:
    row = {**ROW, "aius": ["It is wrong."], "reference_aius": ["It is wrong.", "It is late."]}
    judge, engine = judging(oracle)
    result = evaluate("metacritique", rows_file(tmp_path, [row]), judge)
    assert (result.estimates["precision"].value, result.estimates["recall"].value) == (1.0, 0.5)
    assert len(engine.asked) == 3
    judge, engine = judging(oracle)
    assert evaluate("metacritique", rows_file(tmp_path, [row]), judge, units="model").estimates["recall"].value == 1.0
    assert sum("Split a critique" in text for text in engine.asked) == 2


def test_a_reference_against_itself_has_recall_1(tmp_path: Path) -> None:
    judge, _ = judging(oracle)
    rows = [{**ROW, "critique": ROW["reference_critique"]}]
    assert evaluate("metacritique", rows_file(tmp_path, rows), judge).estimates["recall"].value == 1.0


def test_an_empty_critique_is_an_abstention_and_asks_nobody(tmp_path: Path) -> None:
    judge, engine = judging(oracle)
    row = {**ROW, "critique": "  ", "reference_aius": ["It is wrong."]}
    result = evaluate("metacritique", rows_file(tmp_path, [row, {**ROW, "critic": "x"}]), judge)
    assert result.abstentions == {"no units: missing": 1}
    assert (result.estimates["precision"].n, result.estimates["recall"].n, result.estimates["f1"].n) == (1, 2, 1)
    alone = evaluate("metacritique", rows_file(tmp_path, [row]), judging(oracle)[0])
    assert alone.estimates["precision"].value is None and alone.estimates["recall"].value == 0.0
    assert not any("<claim>\n\n" in text for text in engine.asked)


def test_verdicts_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path) -> None:
    def reply(text: str, index: int) -> str:
        claim = tag(text, "claim")
        if "Split a critique" in text:
            return oracle(text, index)
        return "Hm." if claim == "Wrong." else f"It goes on{CUT}" if claim == "It is blue." else oracle(text, index)

    result = evaluate("metacritique", rows_file(tmp_path, [ROW]), judging(reply)[0])
    assert result.abstentions == {"precision verdict missing": 1, "precision verdict truncated": 1}
    assert result.estimates["precision"].value == 1.0


def test_a_prompt_that_is_too_long_is_an_abstention(tmp_path: Path) -> None:
    row = {**ROW, "aius": ["It is wrong."], "reference_aius": ["It is wrong."]}
    result = evaluate("metacritique", rows_file(tmp_path, [row]), judging(oracle, room=100)[0])
    assert result.abstentions == {"precision verdict prompt_too_long": 1, "recall verdict prompt_too_long": 1}
    assert result.estimates["f1"].value is None and result.estimates["f1"].why


def labelled(critic: str, human: list[bool], judged: list[bool | None]) -> dict[str, Any]:
    return {"index": 1, "critic": critic, "precision_labels": human, "recall_labels": human,
            "precision_verdicts": judged, "recall_verdicts": judged}  # fmt: skip


def test_recorded_verdicts_are_held_against_peoples_labels(tmp_path: Path) -> None:
    rows = [labelled("a", [True, True], [True, True]), labelled("b", [True, False], [True, None]),
            labelled("c", [False, False], [False, True])]  # fmt: skip
    found = evaluate("metacritique", rows_file(tmp_path, rows)).estimates
    assert found["precision_verdict_accuracy"].value == pytest.approx(4 / 5)
    assert found["ranking_accuracy"].value == pytest.approx((0.5 + 1 + 1) / 3)  # a and b tie in the judge's eyes
    assert found["f1_spearman"].n == 3 and found["f1_pearson"].value == pytest.approx(0.866, abs=1e-3)


def test_a_perfect_judge_of_the_public_data(shared_data: Path, tmp_path: Path) -> None:
    """An oracle that knows people's labels gets accuracy 1, correlation 1 and every order right."""
    rows = read_critiques(str(shared_data / "metacritique/critiques.jsonl"),
                          str(shared_data / "metacritique/questions.jsonl"), asking=True, limit=12)  # fmt: skip
    truth = {("recall", r["critique"], u): label for r in rows
             for u, label in zip(r["reference_aius"], r["recall_labels"], strict=True)}  # fmt: skip
    truth |= {("precision", r["response"], u): label for r in rows
              for u, label in zip(r["aius"], r["precision_labels"], strict=True)}  # fmt: skip

    def reply(text: str, index: int) -> str:
        side, about = ("recall", "critique") if "You compare a claim" in text else ("precision", "answer")
        said = truth[side, tag(text, about), tag(text, "claim")]
        return f"The claim is {str(said).lower()}"

    result = evaluate("metacritique", rows_file(tmp_path, rows), judging(reply)[0])
    for name in ("precision_verdict_accuracy", "recall_verdict_accuracy", "f1_pearson", "ranking_accuracy"):
        assert result.estimates[name].value == pytest.approx(1.0)
    assert not result.abstentions


def test_peoples_labels_of_the_public_data(shared_data: Path) -> None:
    folder = shared_data / "metacritique"
    result = evaluate("metacritique", folder / "critiques.jsonl", questions=str(folder / "questions.jsonl"))
    assert result.rows == 210 and result.judge is None and not result.abstentions
    values = [result.estimates[name].value for name in ("precision", "recall", "f1")]
    assert values == pytest.approx([0.7522, 0.5104, 0.5633], abs=5e-5)
    assert result.tables["pairs within a question"] == [{"decided": 202, "tie": 8, "undefined": 0}]


@pytest.mark.parametrize(
    ("rows", "asking", "message"),
    [
        ([{"critique": "x"}], False, r"rows.jsonl:1: precision_labels: is missing"),
        ([{"critique": "x"}], True, "critique 1 has no question"),
        ([{**ROW, "aius": ["a"], "precision_labels": []}], True, "has 1 aius and 0 precision_labels"),
        ([{**ROW, "aius": ["a", 1]}], True, "aius: is a list; use a list of texts"),
        ([{"question": "q", "response": "r"}], True, "critique: is missing"),
    ],
)
def test_rows_of_no_use_are_named(rows: list[dict], asking: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_critiques(str(rows_file(tmp_path, rows)), None, asking)


def test_a_critique_of_no_question_is_named(tmp_path: Path) -> None:
    questions = rows_file(tmp_path, [{"index": 1, "question": "q", "response": "r"}], "questions.jsonl")
    with pytest.raises(InputError, match="no row with index 2"):
        read_critiques(str(rows_file(tmp_path, [{"index": 2, "critique": "c"}])), str(questions), True)


def test_it_can_be_asked_with_and_without_a_judge() -> None:
    assert EVALUATION.judge == "optional"


def test_a_side_without_a_judges_verdicts_is_no_agreement_with_people(tmp_path: Path) -> None:
    row = {"aius": ["a", "b"], "reference_aius": ["c", "d"], "precision_labels": [True, False],
           "recall_labels": [True, True], "precision_verdicts": [True, True]}
    found = evaluate("metacritique", rows_file(tmp_path, [row, row])).estimates
    assert (found["precision_verdict_accuracy"].value, found["recall_verdict_accuracy"].n) == (0.5, 0)
    assert (found["recall_pearson"].value, found["recall_pearson"].n) == (None, 0)
