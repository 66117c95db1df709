"""Tasks whose answers can be checked: what a row is, how it is asked, and how an answer is read and compared. Pure.

    gsm8k        question, final_answer                                        a number
    math         problem, answer                                               an expression (math-verify)
    arc          question, choice_labels, choice_texts, answer_key             the label of an option
    zebralogic   puzzle, solution_header, solution_rows                        a JSON table
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from pipelines.prompts import load
from pipelines.records import Message, digest
from pipelines.steps.answers import bare_choice, extract_answer, read_choice, same_answer
from pipelines.steps.tables import cells_right, gold_table, read_table, table_text, whole_json
from pipelines.steps.votes import answer_classes

Row = dict[str, Any]
LEAD = "Final answer:"
# The puzzles that ZeroEval counts as easy, houses*features; all larger ones are hard.
EASY_SIZES = ("2*2", "2*3", "2*4", "2*5", "2*6", "3*2", "3*3")
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's marks of what was computed
_HASHED_LINE = re.compile(r"\n?^####.*", re.M | re.S)


class Task:
    """One shape of rows. Answers are texts; equal ones vote together."""

    template: ClassVar[str]
    columns: ClassVar[dict[str, str]]  # as read_columns takes them
    optional: ClassVar[dict[str, str]] = {}

    def show(self, row: Row) -> dict[str, Any]:
        """What the template reads."""
        raise NotImplementedError

    def gold(self, row: Row) -> str:
        """The right answer, as text."""
        raise NotImplementedError

    def worked(self, row: Row) -> str:
        """The row's solution in the form that is asked for: what a shot replies."""
        return f"{LEAD} {self.gold(row)}"

    def read(self, text: str, row: Row) -> str | None:
        """The answer of a response; None where it has none."""
        return extract_answer(text)

    def right(self, answer: str, row: Row) -> bool:
        """Whether an answer is right."""
        return same_answer(answer, self.gold(row))

    def share(self, answer: str | None, row: Row) -> float:
        """How much of an answer is right, between 0 and 1."""
        return float(answer is not None and self.right(answer, row))

    def in_form(self, text: str) -> bool:
        """Whether a response ends as it was asked to."""
        last = text.rstrip().rsplit("\n", 1)[-1]
        return last.startswith(LEAD) and extract_answer(last) is not None

    def votes(self, answers: Sequence[str | None]) -> list[str | None]:
        """The name of what each answer says: answers that say the same have one name."""
        classes = answer_classes(answer for answer in answers if answer is not None)
        return [None if answer is None else classes[answer] for answer in answers]

    def subsets(self, row: Row) -> dict[str, str]:
        """The subsets that a row belongs to, by what divides them."""
        return {}


class Numbers(Task):
    """GSM8K (2110.14168) and its like."""

    template = "reason_number"
    columns: ClassVar[dict[str, str]] = {"question": "text", "final_answer": "text"}
    optional: ClassVar[dict[str, str]] = {"answer": "text"}

    def show(self, row: Row) -> dict[str, Any]:
        return {"question": row["question"]}

    def gold(self, row: Row) -> str:
        return row["final_answer"]

    def worked(self, row: Row) -> str:
        chain = _HASHED_LINE.sub("", _CALCULATOR.sub("", row.get("answer", ""))).strip()
        return f"{chain}\n{super().worked(row)}".lstrip()


class Expressions(Task):
    """MATH-500 (2103.03874, 2305.20050) and its like."""

    template = "reason_math"
    columns: ClassVar[dict[str, str]] = {"problem": "text", "answer": "text"}
    optional: ClassVar[dict[str, str]] = {"solution": "text", "subject": "label", "level": "label"}

    def show(self, row: Row) -> dict[str, Any]:
        return {"question": row["problem"]}

    def gold(self, row: Row) -> str:
        return row["answer"]

    def worked(self, row: Row) -> str:
        return f"{row.get('solution', '').strip()}\n{LEAD} ${self.gold(row)}$".lstrip()

    def subsets(self, row: Row) -> dict[str, str]:
        return {name: str(row[name]) for name in ("subject", "level") if name in row}


class Choices(Task):
    """ARC (1803.05457) and its like."""

    template = "reason_choice"
    columns: ClassVar[dict[str, str]] = {
        "question": "text", "choice_labels": "texts", "choice_texts": "texts", "answer_key": "text"
    }

    def show(self, row: Row) -> dict[str, Any]:
        options = list(zip(row["choice_labels"], row["choice_texts"], strict=True))
        return {"question": row["question"], "options": options}

    def gold(self, row: Row) -> str:
        return row["answer_key"]

    def read(self, text: str, row: Row) -> str | None:
        labels, texts = row["choice_labels"], row["choice_texts"]
        answer = extract_answer(text)
        return bare_choice(text, labels, texts) if answer is None else read_choice(answer, labels, texts)

    def right(self, answer: str, row: Row) -> bool:
        return answer == self.gold(row)

    def votes(self, answers: Sequence[str | None]) -> list[str | None]:
        return list(answers)


class Grids(Task):
    """ZebraLogic (2502.01100): an answer is right when every cell is, and `share` is the part of right cells."""

    template = "reason_grid"
    columns: ClassVar[dict[str, str]] = {"puzzle": "text", "solution_header": "texts", "solution_rows": "table"}
    optional: ClassVar[dict[str, str]] = {"size": "text"}

    def show(self, row: Row) -> dict[str, Any]:
        houses = [cells[0] for cells in row["solution_rows"]]
        return {"question": row["puzzle"], "houses": houses, "features": row["solution_header"][1:]}

    def gold(self, row: Row) -> str:
        return table_text(gold_table(row["solution_header"], row["solution_rows"]))

    def worked(self, row: Row) -> str:
        features = row["solution_header"][1:]
        houses = {f"House {cells[0]}": dict(zip(features, cells[1:], strict=True)) for cells in row["solution_rows"]}
        return json.dumps({"reasoning": "Only this satisfies all clues.", "solution": houses}, ensure_ascii=False)

    def read(self, text: str, row: Row) -> str | None:
        table = read_table(text, row["solution_header"])
        return None if table is None else table_text(table)

    def right(self, answer: str, row: Row) -> bool:
        return self.share(answer, row) == 1.0

    def cells(self, row: Row) -> int:
        """How many cells a puzzle asks for."""
        return len(row["solution_rows"]) * (len(row["solution_header"]) - 1)

    def share(self, answer: str | None, row: Row) -> float:
        gold = gold_table(row["solution_header"], row["solution_rows"])
        found = {(house, feature): value for house, feature, value in json.loads(answer)} if answer else None
        return cells_right(found, gold) / len(gold)

    def in_form(self, text: str) -> bool:
        return whole_json(text)

    def votes(self, answers: Sequence[str | None]) -> list[str | None]:
        return list(answers)

    def subsets(self, row: Row) -> dict[str, str]:
        size = row.get("size", f"{len(row['solution_rows'])}*{len(row['solution_header']) - 1}")
        return {"difficulty": "easy" if size in EASY_SIZES else "hard", "size": size}


TASKS: dict[str, Task] = {
    "gsm8k": Numbers(), "math": Expressions(), "arc": Choices(), "zebralogic": Grids(),
}


def recognise(columns: Collection[str]) -> str | None:
    """The task whose columns a row has; None where it has those of none."""
    return next((name for name, task in TASKS.items() if set(task.columns) <= set(columns)), None)


def ask(task: Task, row: Row, shots: Sequence[Row] = ()) -> list[Message]:
    """The conversation that puts a row to a model: every shot a turn of question and worked answer, then the row."""
    messages: list[Message] = []
    for shot in shots:
        messages.append(Message(role="user", content=load(task.template).render(**task.show(shot))))
        messages.append(Message(role="assistant", content=task.worked(shot)))
    return [*messages, Message(role="user", content=load(task.template).render(**task.show(row)))]


def draw_shots(task: Task, pool: Sequence[Row], asked: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows of `pool`, the same for all that are asked, by seeded hash; none that is asked itself.

    Raises ValueError where the pool has too few.
    """
    known = {digest(task.show(row)) for row in asked}
    fresh = {digest("shot", seed, task.show(row)): row for row in pool if digest(task.show(row)) not in known}
    if len(fresh) < count:
        raise ValueError(f"{count} shots are asked for, and {len(fresh)} rows are not among those evaluated")
    return [fresh[key] for key in sorted(fresh)[:count]]
