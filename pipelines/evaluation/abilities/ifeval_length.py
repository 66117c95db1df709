"""Whether a model keeps to lengths and counts that it was told: that part of IFEval (2311.07911).

Instructions of other kinds are counted as not checked, never as followed.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PositiveInt

from pipelines.evaluation.abilities.constraints import CHECKS, RELATIONS, follows, follows_loosely
from pipelines.evaluation.abilities.responses import (
    Answering,
    answered_notes,
    answered_result,
    asked_answers,
    first_responses,
    read_answered,
    recorded_answers,
)
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.rates import rate
from pipelines.records import Message
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

COLUMNS = {"prompt": "text", "instruction_id_list": "texts", "kwargs_json": "text"}


class Settings(Answering):
    """`key=value` of `appellate eval ifeval-length`."""

    key: str = Field("key", description="column by which responses and `problems` belong together")
    max_tokens: PositiveInt = Field(1024, description="of an answer; one that is cut off there is counted as truncated")


class Checked(NamedTuple):
    """One instruction of one response; `strict` and `loose` are None where its kind is not checked."""

    instruction: str
    strict: bool | None
    loose: bool | None


def instructions_of(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A row's instructions with their arguments, nulls left out; raises ValueError that says what is wrong."""
    arguments = json.loads(row["kwargs_json"])
    if not isinstance(arguments, list) or len(arguments) != len(row["instruction_id_list"]):
        raise ValueError("kwargs_json is no list with one object an instruction")
    found = []
    for name, given in zip(row["instruction_id_list"], arguments, strict=True):
        given = {key: value for key, value in given.items() if value is not None}
        if name in CHECKS:
            wanted = list(inspect.signature(CHECKS[name]).parameters)[1:]
            given = {key: given[key] for key in wanted if key in given}
            if len(given) < len(wanted):
                raise ValueError(f"{name} needs {', '.join(wanted)}")
            relation = next((value for key, value in given.items() if key.endswith("relation")), None)
            if relation is not None and relation not in RELATIONS:
                raise ValueError(f"{name} has relation {relation!r}; it is one of {', '.join(RELATIONS)}")
        found.append((name, given))
    return found


def check(response: str, instructions: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Checked]:
    """Every instruction of a response by the strict and by the loose criterion. Pure."""
    return [
        Checked(name, follows(response, name, given), follows_loosely(response, name, given)) if name in CHECKS
        else Checked(name, None, None)
        for name, given in instructions
    ]


def numbers(checked: Sequence[Sequence[Checked]]) -> dict[str, Estimate]:
    """Instruction level, of checked instructions, and prompt level, of prompts whose instructions are all checked.

    `checked` has one list a prompt. Instructions of one prompt stand and fall together, so their intervals are
    bootstrapped over prompts.
    """
    single = [(str(i), c) for i, prompt in enumerate(checked) for c in prompt if c.strict is not None]
    whole = [prompt for prompt in checked if prompt and all(c.strict is not None for c in prompt)]
    some = [known for prompt in checked if (known := [c for c in prompt if c.strict is not None])]
    found = {}
    for criterion in ("strict", "loose"):
        values = [float(getattr(c, criterion)) for _, c in single]
        found[f"instruction_{criterion}"] = rate(values, [i for i, _ in single], "no instruction is of a checked kind")
        found[f"prompt_{criterion}"] = rate(
            [float(all(getattr(c, criterion) for c in prompt)) for prompt in whole],
            why="no prompt has instructions of checked kinds alone",
        )
        found[f"checked_part_{criterion}"] = rate(
            [float(all(getattr(c, criterion) for c in prompt)) for prompt in some],
            why="no instruction is of a checked kind",
        )
    return found


def by_instruction(checked: Sequence[Sequence[Checked]]) -> list[dict[str, Any]]:
    """One row a kind of instruction, the kinds that are not checked last."""
    kinds: dict[str, list[Checked]] = {}
    for c in (c for prompt in checked for c in prompt):
        kinds.setdefault(c.instruction, []).append(c)
    rows = []
    for name in sorted(kinds, key=lambda name: (name not in CHECKS, name)):
        strict, loose = (
            rate([float(value) for c in kinds[name] if (value := getattr(c, of)) is not None]).value
            for of in ("strict", "loose")
        )
        rows.append({"instruction": name, "n": len(kinds[name]), "strict": strict, "loose": loose,
                     "": "" if name in CHECKS else "not checked"})
    return rows


class IFEvalLength(Evaluation):
    """Strict and loose accuracy on checkable instructions about lengths and counts."""

    about = "whether a model keeps to lengths and counts that it was told (part of IFEval)"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        rows = read_answered(data, COLUMNS, {}, settings)
        instructions = []
        for number, row in enumerate(rows, 1):
            try:
                instructions.append(instructions_of(row))
            except ValueError as error:
                raise InputError(f"{settings.problems or data}: row {number}: {error}") from None
        if judge is None:
            answers = recorded_answers(data, rows, settings)
        else:
            asked = [[Message(role="user", content=row["prompt"])] for row in rows]
            answers = await asked_answers(judge, asked, settings)
        given = [(answer.one, wanted) for answer, wanted in zip(answers, instructions, strict=True) if answer.one]
        checked = [check(reply.text, wanted) for reply, wanted in given]
        estimates = numbers(checked)
        if judge is not None:
            estimates["truncated"] = rate([float(bool(reply.truncated)) for reply, _ in given])
        skipped = sum(c.strict is None for prompt in checked for c in prompt)
        return Result(
            **answered_result("ifeval-length", data, len(rows), judge, answers, settings), estimates=estimates,
            tables={"by instruction": by_instruction(checked), **first_responses(rows, answers)},
            notes=[
                f"{skipped} of {sum(map(len, checked))} instructions are of kinds not checked here, and count neither "
                "as followed nor as broken: prompt_* is of prompts without any, checked_part_* leaves them aside",
                "sentences and words in capitals are counted by rules, where IFEval uses NLTK's models",
                *answered_notes(judge, settings),
            ],
        )


EVALUATION = IFEvalLength
