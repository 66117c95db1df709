import json
from typing import Any

import pytest

from pipelines.evaluation.abilities.tasks import TASKS, ask, draw_shots, recognise
from pipelines.prompts import load
from pipelines.steps.answers import read_choice

NUMBER = {"question": "3 + 4?", "final_answer": "7", "answer": "It is 3 + 4 = <<3+4=7>>7.\n#### 7"}
EXPRESSION = {"problem": "Half of $x$?", "answer": "\\frac{x}{2}", "solution": "It is $\\boxed{\\frac{x}{2}}$.",
              "subject": "Algebra", "level": 2}
CHOICE = {"question": "Which is a fruit?", "choice_labels": ["A", "B", "C"],
          "choice_texts": ["Iron", "An apple", "A car"], "answer_key": "B"}
GRID = {"puzzle": "Two houses.", "solution_header": ["House", "Name", "Pet"],
        "solution_rows": [["1", "Eric", "cat"], ["2", "Alice", "dog"]], "size": "2*2"}
ROWS: dict[str, dict[str, Any]] = {"gsm8k": NUMBER, "math": EXPRESSION, "arc": CHOICE, "zebralogic": GRID}


@pytest.mark.parametrize("name", TASKS)
def test_a_row_is_recognised_by_its_columns(name: str) -> None:
    assert recognise(ROWS[name]) == name
    assert recognise([*ROWS[name], "id", "response"]) == name
    assert recognise(list(TASKS[name].columns)[1:]) is None


@pytest.mark.parametrize("name", TASKS)
def test_the_worked_solution_of_a_row_is_right_and_in_the_form_that_is_asked_for(name: str) -> None:
    task, row = TASKS[name], ROWS[name]
    worked = task.worked(row)
    answer = task.read(worked, row)
    assert answer is not None
    assert task.right(answer, row) and task.share(answer, row) == 1.0
    assert task.in_form(worked)
    assert not task.in_form("I do not know.")
    assert task.share(None, row) == 0.0


@pytest.mark.parametrize("name", TASKS)
def test_the_question_is_shown_and_the_answer_is_not(name: str) -> None:
    task, row = TASKS[name], ROWS[name]
    (message,) = ask(task, row)
    assert message["role"] == "user"
    assert str(task.show(row)["question"]) in message["content"]
    assert "<<" not in message["content"] and "Alice" not in message["content"]
    asked_for = json.dumps("solution") if name == "zebralogic" else "Final answer: <"
    assert asked_for in message["content"]


def test_prompts_as_they_are() -> None:
    (choice,) = ask(TASKS["arc"], CHOICE)
    assert choice["content"].endswith("Question: Which is a fruit?\nA) Iron\nB) An apple\nC) A car\n")
    (grid,) = ask(TASKS["zebralogic"], GRID)
    form = grid["content"].rstrip().rsplit("\n", 1)[1]
    assert json.loads(form) == {"reasoning": "...", "solution": {
        "House 1": {"Name": "...", "Pet": "..."}, "House 2": {"Name": "...", "Pet": "..."}
    }}
    assert load("length_instructed").render(prompt="Write.", limit=9) == \
        "Answer the following instruction using 9 words or less.\n\nWrite."


def test_worked_solutions_of_gsm8k_lose_calculator_marks_and_hashes() -> None:
    assert TASKS["gsm8k"].worked(NUMBER) == "It is 3 + 4 = 7.\nFinal answer: 7"
    assert TASKS["gsm8k"].worked({"question": "?", "final_answer": "7"}) == "Final answer: 7"


def test_shots_are_turns_before_the_question() -> None:
    other = {"question": "1 + 1?", "final_answer": "2", "answer": "Two.\n#### 2"}
    shot, reply, asked = ask(TASKS["gsm8k"], NUMBER, [other])
    assert (shot["role"], reply["role"], asked["role"]) == ("user", "assistant", "user")
    assert "1 + 1?" in shot["content"] and reply["content"] == "Two.\nFinal answer: 2"
    assert "3 + 4?" in asked["content"] and "1 + 1?" not in asked["content"]


def test_shots_are_drawn_by_seed_and_never_what_is_asked() -> None:
    pool = [{"question": f"{i}?", "final_answer": str(i)} for i in range(20)]
    task = TASKS["gsm8k"]
    drawn = draw_shots(task, pool, pool[:10], 4, 0)
    assert len({row["question"] for row in drawn}) == 4
    assert all(int(row["final_answer"]) >= 10 for row in drawn)
    assert draw_shots(task, pool[::-1], pool[:10], 4, 0) == drawn
    assert draw_shots(task, pool, pool[:10], 4, 1) != drawn
    with pytest.raises(ValueError, match="11 shots are asked for, and 10 rows"):
        draw_shots(task, pool, pool[:10], 11, 0)


@pytest.mark.parametrize(("answer", "label"), [
    ("B", "B"), ("b", "B"), ("(B)", "B"), ("B) An apple", "B"), ("B. An apple", "B"), ("option B", "B"),
    ("Option (b)", "B"), ("an apple", "B"), ("**B**", "B"), ("D", None), ("Bananas", None), ("A or B", None),
    ("", None), ("apple", None), ("choice C", "C"), ("C:", "C"),
])  # fmt: skip
def test_choices_are_read(answer: str, label: str | None) -> None:
    assert read_choice(answer, CHOICE["choice_labels"], CHOICE["choice_texts"]) == label


@pytest.mark.parametrize(("text", "label"), [
    ("B) An apple", "B"), ("It grows on trees.\n\nB) An apple.", "B"), ("B", "B"), ("(B)", "B"), ("An apple", "B"),
    ("B. an apple", "B"), ("B) is wrong", None), ("B) Iron", None), ("C) A car is no fruit", None), ("It is B", None),
    ("", None), ("B) An apple\nA) Iron\nbecause", None), ("A", "A"), ("Final answer: C\nB) An apple", "C"),
    ("Final answer: none\nB) An apple", None),
])  # fmt: skip
def test_a_last_line_that_is_an_option_is_read_where_no_answer_is_named(text: str, label: str | None) -> None:
    assert TASKS["arc"].read(text, CHOICE) == label
    assert not TASKS["arc"].in_form(text)


def test_choices_by_number_and_equal_texts() -> None:
    assert read_choice("2", ["1", "2"], ["x", "y"]) == "2"
    assert read_choice("2) y", ["1", "2"], ["x", "y"]) == "2"
    assert read_choice("2.5", ["1", "2"], ["2.5", "y"]) == "1"
    assert read_choice("x", ["1", "2"], ["x", "x"]) is None


def test_answers_that_say_the_same_vote_together() -> None:
    votes = TASKS["math"].votes(["1/2", None, "0.5", "\\frac{1}{2}", "2"])
    assert votes[1] is None and votes[0] == votes[2] == votes[3] != votes[4]
    assert TASKS["arc"].votes(["A", None, "A"]) == ["A", None, "A"]


def test_grids_share_cells_and_subsets() -> None:
    task = TASKS["zebralogic"]
    half = task.read(json.dumps({"solution": {"House 1": {"Name": "Eric", "Pet": "cat"}}}), GRID)
    assert half is not None
    assert task.share(half, GRID) == 0.5 and not task.right(half, GRID)
    more = {"House 1": {"Name": "Eric", "Pet": "cat"}, "House 2": {"Name": "Alice", "Pet": "dog"},
            "House 3": {"Pet": "x"}}
    assert task.right(task.read(json.dumps(more), GRID) or "", GRID)
    assert task.subsets(GRID) == {"difficulty": "easy", "size": "2*2"}
    hard = {**GRID, "size": "3*4"}
    assert task.subsets(hard)["difficulty"] == "hard"
    assert TASKS["math"].subsets(EXPRESSION) == {"subject": "Algebra", "level": "2"}
    assert TASKS["gsm8k"].subsets(NUMBER) == {}
