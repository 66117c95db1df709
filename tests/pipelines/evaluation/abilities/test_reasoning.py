import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.abilities.reasoning import Reasoning, Settings
from pipelines.evaluation.base import Result
from pipelines.evaluation.command import measure
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.abilities.speakers import judging

SUMS = [{"id": f"s{i}", "question": f"{i} + {i}?", "final_answer": str(2 * i)} for i in range(8)]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(rows: list[dict[str, Any]], name: str = "rows") -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def graded(data: str, *words: str) -> Result:
    return measure("reasoning", data, None, list(words), None)


def values(result: Result) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in result.estimates.items()}


async def test_a_model_is_asked_once_greedily_and_k_times_and_counted(write) -> None:
    def say(text: str, index: int) -> str | None:
        number = int(text.rsplit("Question: ", 1)[1].split(" +")[0])
        if number == 0:
            return None
        if number == 1:
            return "I do not know…"
        right = number < 6 or index == 3
        return f"So.\nFinal answer: {2 * number if right else index}"

    judge = judging(say)
    result = await Reasoning().run(write(SUMS), judge, Settings(k=4))
    assert (result.rows, result.abstentions) == (8, {"too_long": 1})
    assert (result.judge, result.weight_version, len(result.data_hash or "")) == ("scripted", "v3", 64)
    assert values(result) == {
        "accuracy": pytest.approx(4 / 7), "pass@1": pytest.approx(4.5 / 7), "pass@2": pytest.approx(5 / 7),
        "pass@4": pytest.approx(6 / 7), "maj@4": pytest.approx((4 + 2 / 4) / 7), "extraction": pytest.approx(6 / 7),
        "format": pytest.approx(6 / 7), "truncated": pytest.approx(1 / 7),
    }
    assert result.estimates["accuracy"].n == 7 and result.estimates["accuracy"].interval is not None
    speaker: Any = judge.speaker
    assert {(s.n, s.temperature, s.top_p, s.max_tokens) for _, s, *_ in speaker.asked} == \
        {(1, 0.0, 1.0, 512), (4, 0.7, 0.9, 512)}
    assert any("maj@4" in note for note in result.notes)


async def test_shots_come_from_another_file_and_go_before_the_question(write) -> None:
    pool = [{"question": f"{i} - 0?", "final_answer": str(i), "answer": f"It is {i}.\n#### {i}"} for i in range(9)]
    judge = judging(lambda text, i: "Final answer: 0")
    data, shots_from = write(SUMS), write(pool, "pool")
    await Reasoning().run(data, judge, Settings(shots=2, shots_from=shots_from, limit=3))
    speaker: Any = judge.speaker
    conversations = [asked[0] for asked in speaker.asked]
    assert [len(c) for c in conversations] == [5, 5, 5]
    assert conversations[0][:4] == conversations[2][:4]
    with pytest.raises(ConfigError, match="shots=2 needs shots_from"):
        await Reasoning().run(data, judge, Settings(shots=2))
    with pytest.raises(ConfigError, match="10 shots are asked for, and 9 rows"):
        await Reasoning().run(data, judge, Settings(shots=10, shots_from=shots_from))
    with pytest.raises(ConfigError, match="belongs to recorded responses"):
        await Reasoning().run(data, judge, Settings(problems=data))


def test_recorded_responses_are_graded_with_no_model(write) -> None:
    rows = [{**row, "response": f"#### {2 * i if i % 2 else 'none'}"} for i, row in enumerate(SUMS)]
    result = graded(write(rows))
    assert values(result) == {"accuracy": 0.5, "extraction": 0.5}
    assert result.judge is None and "recorded responses" in result.notes[-1]
    assert result.tables == {"first responses": [
        {"row": 1, "response ends": "#### none"}, {"row": 2, "response ends": "#### 2"},
        {"row": 3, "response ends": "#### none"},
    ]}
    assert graded(write(rows), "limit=2").rows == 2


def test_recorded_lists_give_majorities_and_passes(write) -> None:
    texts = [["Answer: 0", "Answer: 0", "Answer: 1"], ["Answer: 3", "Answer: 2.0", "Answer: 2"], [], ["a", "b", "c"]]
    rows = [{**row, "responses": said} for row, said in zip(SUMS, texts, strict=False)]
    result = graded(write(rows))
    assert values(result) == {"pass@1": pytest.approx(4 / 9), "pass@2": pytest.approx(2 / 3),
                              "pass@3": pytest.approx(2 / 3), "maj@3": pytest.approx(2 / 3),
                              "extraction": pytest.approx(2 / 3)}
    assert result.abstentions == {"no_response": 1}
    assert values(graded(write(rows), "k=1"))["maj@1"] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="k=4: a row has 3 responses"):
        graded(write(rows), "k=4")


def test_responses_in_a_file_of_their_own_and_labels(write) -> None:
    said = [{"id": f"s{i % 2}", "model": "ab"[i // 2], "text": f"A: {i}", "is_correct": i in (0, 1)} for i in range(4)]
    data, problems = write(said, "said"), write(SUMS)
    result = graded(data, f"problems={problems}", "response=text")
    assert values(result) == {"accuracy": 0.25, "extraction": 1.0, "agreement": 0.75}
    assert result.tables["by model"] == [
        {"model": "a", "accuracy": 0.5, "extraction": 1.0, "n": 2},
        {"model": "b", "accuracy": 0.0, "extraction": 1.0, "n": 2},
    ]
    assert result.tables["disagreements"] == [
        {"id": "s1", "recorded": True, "graded": False, "answer": "1", "gold": "2", "response ends": "A: 1"}
    ]
    with pytest.raises(InputError, match=r"1 rows answer nothing in .*, the first has id 'x'"):
        graded(write([{"id": "x", "text": ""}], "lost"), f"problems={problems}", "response=text")
    with pytest.raises(InputError, match="two rows have id 's0'"):
        graded(data, f"problems={write([SUMS[0], SUMS[0]], 'twice')}", "response=text")


def test_rows_of_no_use_are_named(write) -> None:
    with pytest.raises(InputError, match=r"no row has a column 'response' or 'responses'.*--judge"):
        graded(write(SUMS))
    with pytest.raises(InputError, match=r"of no task \(prompt\); tasks have gsm8k: question, final_answer"):
        graded(write([{"prompt": "?"}]))
    with pytest.raises(InputError, match="final_answer: is a number; use text"):
        graded(write([{"question": "?", "final_answer": 3, "response": ""}]))
    with pytest.raises(InputError, match="question: is missing"):
        graded(write([{"problem": "?", "answer": "1", "response": ""}]), "task=gsm8k")
    with pytest.raises(ConfigError, match="shots_from"):
        graded(write(SUMS), "shots_form=x")


def test_subsets_of_mathematics_and_grids(write) -> None:
    maths = [{"problem": "?", "answer": "1", "subject": s, "level": n, "response": f"\\boxed{{{n}}}"}
             for s, n in (("Algebra", 1), ("Algebra", 2), ("Geometry", 1))]
    result = graded(write(maths))
    assert [(row["subject"], row["accuracy"], row["n"]) for row in result.tables["by subject"]] == \
        [("Algebra", 0.5, 2), ("Geometry", 1.0, 1)]
    assert [(row["level"], row["accuracy"]) for row in result.tables["by level"]] == [("1", 1.0), ("2", 0.0)]

    def grid(houses: int, right: int) -> dict[str, Any]:
        names = [f"n{i}" for i in range(houses)]
        said = {f"House {i + 1}": {"Name": name if i < right else "?"} for i, name in enumerate(names)}
        return {"puzzle": "?", "solution_header": ["House", "Name"], "size": f"{houses}*1",
                "solution_rows": [[str(i + 1), name] for i, name in enumerate(names)],
                "response": json.dumps({"solution": said}) if right else "I cannot."}

    result = graded(write([grid(2, 2), grid(3, 1), grid(5, 0)]))
    found = values(result)
    assert (found["accuracy"], found["cell_accuracy"], found["extraction"]) == pytest.approx((1 / 3, 3 / 10, 2 / 3))
    interval = result.estimates["cell_accuracy"].interval
    assert interval is not None and 0 <= interval[0] <= 0.3 <= interval[1] <= 1
    assert [row["size"] for row in result.tables["by size"]] == ["2*1", "3*1", "5*1"]


# Real data. The solutions end in "A: 26", two were cut off; the labels are of exact comparison with the gold number.
def test_gsm8k_solutions_are_graded_as_they_are_labelled(shared_data) -> None:
    folder = shared_data / "gsm8k"
    result = graded(str(folder / "model_solutions.parquet"), f"problems={folder / 'test.jsonl'}", "response=solution")
    assert result.rows == 1600
    assert result.estimates["agreement"].value == 1.0
    assert "disagreements" not in result.tables
    assert [(row["model"], round(row["accuracy"] * 400)) for row in result.tables["by model"]] == \
        [("175b_finetuning", 145), ("175b_verification", 220), ("6b_finetuning", 92), ("6b_verification", 155)]
    assert result.estimates["extraction"].value == 1598 / 1600


def test_human_solutions_of_gsm8k_are_right(shared_data) -> None:
    result = graded(str(shared_data / "gsm8k/test.jsonl"), "response=answer")
    assert values(result) == {"accuracy": 1.0, "extraction": 1.0}


def test_human_solutions_of_math_are_right(shared_data) -> None:
    assert values(graded(str(shared_data / "math500/test.jsonl"), "response=solution")) == \
        {"accuracy": 1.0, "extraction": 1.0}


@pytest.mark.parametrize(
    ("file", "task"), [("arc_challenge/dev.jsonl", "arc"), ("zebralogic/grid.parquet", "zebralogic")]
)
async def test_gold_answers_in_the_form_asked_for_are_right(shared_data, file: str, task: str) -> None:
    from pipelines.evaluation.abilities.tasks import TASKS, ask
    from pipelines.evaluation.data import read_columns

    chosen = TASKS[task]
    rows = read_columns(str(shared_data / file), chosen.columns, chosen.optional)
    worked = {ask(chosen, row)[0]["content"]: chosen.worked(row) for row in rows}
    result = await Reasoning().run(str(shared_data / file), judging(lambda text, i: worked[text]), Settings())
    assert set(values(result).values()) == {0.0, 1.0}  # 0 is what was truncated
    assert result.estimates["accuracy"].value == result.estimates["format"].value == 1.0


