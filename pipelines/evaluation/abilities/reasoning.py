"""How many problems with a known answer a model solves: at once, in several tries, and by majority.

Greedy accuracy, majority of k and the metrics' meaning are those of IRPO (2404.19733) and ScPO (2411.04109); pass@k is
that of 2107.03374. A response without a readable answer is a wrong one, and its share is told beside the accuracy.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt

from pipelines.config import ConfigError, Sampling
from pipelines.evaluation.abilities.repeated import majority_right, pass_at_k
from pipelines.evaluation.abilities.responses import (
    Answering,
    Answers,
    Reply,
    answered_notes,
    answered_result,
    asked_answers,
    first_responses,
    read_answered,
    recorded_answers,
)
from pipelines.evaluation.abilities.tasks import TASKS, Grids, Row, Task, ask, draw_shots, recognise
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import read_columns
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.rates import rate
from pipelines.steps.rows import InputError, read_rows

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

SHOWN = 20  # disagreements with recorded labels that are listed
TAIL = 80  # characters of a response shown there


class Settings(Answering):
    """`key=value` of `appellate eval reasoning`."""

    task: Literal["gsm8k", "math", "arc", "zebralogic"] | None = Field(
        None, description="how rows are asked and answers compared; recognised by the columns when empty"
    )
    k: NonNegativeInt = Field(0, description="sampled answers a problem, for maj@k and pass@k; 0 for greedy alone")
    temperature: float = Field(0.7, gt=0, description="of the k samples; [2411.04109] 0.7")
    top_p: float = Field(0.9, gt=0, le=1, description="of the k samples; [2411.04109] 0.9")
    shots: NonNegativeInt = Field(0, description="solved problems shown before each")
    shots_from: str | None = Field(None, description="file that the shots are drawn from, of the same task")


class Graded(NamedTuple):
    """A response against the known answer; `share` is how much of it is right, `in_form` whether it ends as asked."""

    answer: str | None
    right: bool
    share: float
    in_form: bool
    truncated: bool | None


class Solved(NamedTuple):
    """A row with its responses graded: the greedy or only one, and the sampled ones with what `repeated` says."""

    row: Row
    one: Graded | None
    several: list[Graded]
    tries: dict[str, float]


def grade(task: Task, row: Row, reply: Reply) -> Graded:
    """What one response is worth."""
    answer = task.read(reply.text, row)
    share = task.share(answer, row)
    return Graded(answer, share == 1.0, share, task.in_form(reply.text), reply.truncated)


def repeated(task: Task, graded: Sequence[Graded], k: int) -> dict[str, float]:
    """pass@1, pass@2, pass@4 ... pass@k and maj@k of one problem's `graded` samples, k of them or more.

    maj@k is of the first k.
    """
    n, right = len(graded), sum(g.right for g in graded)
    sizes = sorted({k} | {2**i for i in range(k.bit_length())})
    votes = task.votes([g.answer for g in graded[:k]])
    majority = majority_right(votes, [g.right for g in graded[:k]])
    return {**{f"pass@{size}": pass_at_k(n, right, size) for size in sizes}, f"maj@{k}": majority}


class Reasoning(Evaluation):
    """Accuracy on problems with a known answer."""

    about = "a model's accuracy, maj@k and pass@k on GSM8K, MATH, ARC and ZebraLogic"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        task = TASKS[settings.task or recognised(settings.problems or data)]
        recorded = {"is_correct": "flag", "model": "text"}
        rows = read_answered(data, task.columns, task.optional, settings, recorded)
        if judge is None:
            answers = recorded_answers(data, rows, settings)
        else:
            shots = read_shots(task, rows, settings)
            asked = [ask(task, row, shots) for row in rows]
            answers = await asked_answers(judge, asked, settings, samples_of(settings))
        estimates, tables = measure(task, rows, answers, settings)
        return Result(
            **answered_result("reasoning", data, len(rows), judge, answers, settings), notes=notes(settings, judge),
            estimates=estimates, tables=tables | first_responses(rows, answers),
        )


def recognised(source: str) -> str:
    """The task of a file by the columns of its first row; raises InputError where it is none."""
    first = read_rows(source, lambda row, where: row, 1)[0][0]
    found = recognise(first)
    if found is None:
        shapes = "; ".join(f"{name}: {', '.join(task.columns)}" for name, task in TASKS.items())
        raise InputError(f"{source}: the columns are of no task ({', '.join(first)}); tasks have {shapes}")
    return found


def read_shots(task: Task, rows: Sequence[Row], settings: Settings) -> list[Row]:
    """The solved problems shown before each; raises ConfigError where there are not as many."""
    if not settings.shots:
        return []
    if settings.shots_from is None:
        raise ConfigError(f"shots={settings.shots} needs shots_from=FILE: solved problems that are not evaluated")
    pool = read_columns(settings.shots_from, task.columns, task.optional)
    try:
        return draw_shots(task, pool, rows, settings.shots, settings.seed)
    except ValueError as error:
        raise ConfigError(f"shots_from={settings.shots_from}: {error}") from None


def samples_of(settings: Settings) -> Sampling | None:
    """How the k samples are drawn; None where there are none."""
    if not settings.k:
        return None
    return Sampling(n=settings.k, temperature=settings.temperature, top_p=settings.top_p,
                    max_tokens=settings.max_tokens)


def measure(
    task: Task, rows: Sequence[Row], answers: Sequence[Answers], settings: Settings
) -> tuple[dict[str, Estimate], dict[str, list[dict[str, Any]]]]:
    """`estimates` and `tables` of a Result. Pure but for math-verify's helper process. Raises InputError."""
    counts = [len(given.several) for given in answers if given.several]
    k = settings.k or min(counts, default=0)
    if counts and min(counts) < k:
        raise InputError(f"k={k}: a row has {min(counts)} responses; lower k or leave the row out")
    solved = []
    for row, given in zip(rows, answers, strict=True):
        if given.reason is None:
            several = [grade(task, row, reply) for reply in given.several]
            tries = repeated(task, several, k) if several else {}
            solved.append(Solved(row, given.one and grade(task, row, given.one), several, tries))
    estimates = numbers(task, solved, settings)
    tables: dict[str, list[dict[str, Any]]] = {}
    for divided, members in divide(task, solved).items():
        tables[f"by {divided}"] = [
            {divided: name, **{key: e.value for key, e in numbers(task, some, settings).items()}, "n": len(some)}
            for name, some in sorted(members.items())
        ]
    labelled = [s for s in solved if "is_correct" in s.row and s.one is not None]
    if labelled:
        same = [float(s.one is not None and s.one.right == bool(s.row["is_correct"])) for s in labelled]
        estimates["agreement"] = rate(same, problems(labelled, settings))
        tables["disagreements"] = disagreements(task, labelled, settings)
    return estimates, {name: table for name, table in tables.items() if table}


def numbers(task: Task, solved: Sequence[Solved], settings: Settings) -> dict[str, Estimate]:
    """The estimates of some rows."""
    one = [s for s in solved if s.one is not None]
    several = [s for s in solved if s.several]
    found = {}
    if one or not several:
        found["accuracy"] = rate([float(s.one is not None and s.one.right) for s in one], problems(one, settings))
    for name in several[0].tries if several else ():
        found[name] = rate([s.tries[name] for s in several], problems(several, settings))
    if isinstance(task, Grids):
        found["cell_accuracy"] = cell_accuracy(task, solved, problems(solved, settings))
    first = [[s.one] if s.one else s.several for s in solved]
    means: dict[str, Callable[[Graded], float]] = {"extraction": lambda g: g.answer is not None}
    if first and first[0][0].truncated is not None:  # a model was asked, by these prompts
        means |= {"format": lambda g: g.in_form, "truncated": lambda g: bool(g.truncated)}
    for name, of in means.items():
        found[name] = rate([_part(graded, of) for graded in first], problems(solved, settings))
    return found


def cell_accuracy(task: Grids, solved: Sequence[Solved], puzzles: Sequence[str]) -> Estimate:
    """Right cells of all cells of all puzzles, bootstrapped over `puzzles`; without a readable table all are wrong."""
    if not solved:
        return rate([])
    cells = np.array([task.cells(s.row) for s in solved], dtype=float)
    right = np.array([_part([s.one] if s.one else s.several, lambda g: g.share) for s in solved]) * cells

    def share(right: np.ndarray, cells: np.ndarray, axis: int = -1) -> np.ndarray:
        return right.sum(axis) / cells.sum(axis)

    interval = bootstrap_interval(share, right, cells, clusters=puzzles)
    return Estimate(value=float(share(right, cells)), interval=interval, n=len(solved))


def divide(task: Task, solved: Sequence[Solved]) -> dict[str, dict[str, list[Solved]]]:
    """The rows by subset, of everything that divides them into two or more: the task's own subsets, and the model."""
    divided: dict[str, dict[str, list[Solved]]] = {}
    for s in solved:
        names = task.subsets(s.row) | ({"model": s.row["model"]} if "model" in s.row else {})
        for what, name in names.items():
            divided.setdefault(what, {}).setdefault(name, []).append(s)
    return {what: members for what, members in divided.items() if len(members) > 1}


def disagreements(task: Task, labelled: Sequence[Solved], settings: Settings) -> list[dict[str, Any]]:
    """The first rows whose grade is not the recorded one: what was read, what is right, and how the response ends."""
    return [
        {settings.key: s.row.get(settings.key), "recorded": bool(s.row["is_correct"]), "graded": s.one.right,
         "answer": s.one.answer, "gold": task.gold(s.row), "response ends": s.row[settings.response][-TAIL:]}
        for s in labelled if s.one is not None and s.one.right != bool(s.row["is_correct"])
    ][:SHOWN]


def problems(solved: Sequence[Solved], settings: Settings) -> list[str]:
    """What tells problems apart: rows with one key are responses to one problem; without a key every row is its own."""
    return [str(s.row.get(settings.key, f"row {i}")) for i, s in enumerate(solved)]


def notes(settings: Settings, judge: "Judging | None") -> list[str]:
    """What a reader must know."""
    found = ["a response without a readable answer counts as wrong; `extraction` is the share that has one"]
    if judge is not None and settings.k:
        found.append(f"maj@{settings.k} and pass@k at temperature {settings.temperature:g}, top-p {settings.top_p:g}; "
                     "a tied vote counts by the share of the tied answers that is right")
    return found + answered_notes(judge, settings)


def _part(graded: Sequence[Graded], of: Callable[[Graded], float]) -> float:
    return sum(map(of, graded)) / len(graded)


EVALUATION = Reasoning
