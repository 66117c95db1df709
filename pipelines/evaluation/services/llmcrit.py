"""Feedback by criteria (LLMCrit, 2403.01069): draft criteria from guidelines, then see what feedback finds with them.

A guideline document as data drafts the criteria file; rows as data measure recall and false alarms on planted defects,
without criteria and with them, one aspect at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import exists
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from actors.claims import parse_units
from actors.numbered import items_of, parse_criteria, parse_marks
from pipelines.config import ConfigError
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, read_columns, read_text, write_rows
from pipelines.evaluation.rates import average, rate
from pipelines.evaluation.services.criteria import (
    LAYERS,
    Aspect,
    Criteria,
    Criterion,
    Demonstration,
    Marked,
    copied_share,
    drafted_aspects,
    feedback_layer,
    marked,
    rates,
    read_criteria,
    split_guidelines,
    write_criteria,
)
from pipelines.evaluation.services.questions import Asker, AskingSettings, as_text
from pipelines.records import digest
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

DOCUMENTS = (".md", ".markdown", ".txt")
Condition = Literal["base", "criteria", "demonstrations", "both"]


class Settings(AskingSettings):
    """What is drafted, and which conditions are compared."""

    criteria: str = Field(description="criteria file (YAML or JSON): written from a guideline document, else read")
    task: str = Field("text", description="what kind of text the guidelines are about; drafting only")
    examples: str | None = Field(None, description="rows with `input` to write demonstrations for; drafting only")
    demonstrations: NonNegativeInt = Field(4, description="demonstrations an aspect, where there are examples")
    conditions: list[Condition] = Field(["base", "criteria"], min_length=1, description="R7.5's four")
    layers: bool = Field(False, description="judge every criticism: valid, contextualised, constructive, helpful")
    copied_ngram: PositiveInt = Field(5, description="words in a row that count as copied from a demonstration")
    feedback_out: str | None = Field(None, description="JSONL file for every criticism with its layer and overlap")


@dataclass
class Feedback:
    """What was said about one item: marks by criterion id as (mark, status), and the criticisms."""

    marks: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    criticisms: list[dict[str, Any]] = field(default_factory=list)


class LLMCrit(Evaluation):
    """R7: criteria from guidelines; feedback with and without them on items whose violations are known."""

    about = "criteria drafted from guidelines; what feedback finds of planted defects without them and by them"
    settings = Settings
    judge = "needed"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        assert judge is not None  # `needed`
        asker = Asker(judge, "llmcrit", settings)
        drafting = data.lower().endswith(DOCUMENTS)
        found = await (_draft(data, asker, settings) if drafting else _measure(data, asker, settings))
        return Result(**about("llmcrit", data, judge, settings), **found)


# ---- drafting


async def _draft(data: str, asker: Asker, settings: Settings) -> dict[str, Any]:
    """Criteria of every aspect of a guideline document, and demonstrations, written to the criteria file."""
    sections = read_guidelines(data, settings.criteria)
    asked = [
        asker.read("criteria_draft", parse_criteria, {"aspect": name, "text": text, "task": settings.task})
        for name, text in sections
    ]
    answers = [answer for (answer,) in await asyncio.gather(*asked)]
    silent = Counter(answer.status for answer in answers if answer.value is None)
    drafts = [(name, answer.value) for (name, _), answer in zip(sections, answers, strict=True) if answer.value]
    aspects = drafted_aspects(drafts)
    if not aspects:
        why = ", ".join(f"{status} {count}" for status, count in silent.items())
        raise InputError(
            f"{data}: the model drafted no readable criterion for {len(sections)} aspects ({why}); ask another model, "
            "or raise max_tokens where drafts are truncated"
        )
    if settings.examples is not None and settings.demonstrations:
        inputs = [row["input"] for row in read_columns(settings.examples, {"input": "text"})]
        shown = [await _demonstrations(asker, settings, aspect, inputs) for aspect in aspects]
        aspects = [a.model_copy(update={"demonstrations": d}) for a, d in zip(aspects, shown, strict=True)]
    criteria = Criteria(task=settings.task, aspects=aspects)
    write_criteria(settings.criteria, criteria)
    rows = [{"aspect": a.name, "criteria": len(a.criteria), "rules": sum(c.severity == "rule" for c in a.criteria),
             "demonstrations": len(a.demonstrations)} for a in aspects]  # fmt: skip
    return {
        "rows": len(sections), "tables": {"aspects": rows}, "abstentions": dict(silent),
        "estimates": {
            "aspects": Estimate(value=len(aspects), n=len(sections)),
            "criteria": Estimate(value=len(criteria.all()), n=len(aspects)),
        },
        "notes": [f"a draft is no guideline: read and edit {settings.criteria} before it judges anything"],
    }


def read_guidelines(data: str, criteria: str) -> list[tuple[str, str]]:
    """The aspects of a guideline document; raises InputError, and ConfigError where the criteria file exists."""
    if exists(criteria):
        raise ConfigError(f"criteria={criteria} is there already, and may have been edited; name another file")
    sections = split_guidelines(read_text(data))
    if not sections:
        raise InputError(f"{data}: has no text")
    return sections


async def _demonstrations(
    asker: Asker, settings: Settings, aspect: Aspect, inputs: Sequence[str]
) -> list[Demonstration]:
    """Feedback on examples drawn by hash, kept where it says something of a criterion (R7.2)."""
    drawn = sorted(set(inputs), key=lambda text: digest("demonstration", settings.seed, aspect.name, text))
    asked = [_asked(asker, settings.task, aspect, text, []) for text in drawn[: settings.demonstrations]]
    answers = await asyncio.gather(*asked)
    names = [criterion.name for criterion in aspect.criteria]
    return [
        Demonstration(input=text, feedback=answer.value)
        for text, (answer,) in zip(drawn, answers, strict=False)
        if answer.value and any(reading.status == "ok" for reading in parse_marks(answer.value, names))
    ]


def _asked(asker: Asker, task: str, aspect: Aspect, text: str, shown: Sequence[Demonstration]) -> Any:
    """Feedback on one aspect of a text, as it was written."""
    about = {"task": task, "aspect": aspect.name, "criteria": aspect.criteria}
    return asker.read("criteria_feedback", as_text, {**about, "input": text, "demonstrations": list(shown)})


# ---- measuring


async def _measure(data: str, asker: Asker, settings: Settings) -> dict[str, Any]:
    """Marks of every condition against the planted violations."""
    criteria = read_criteria(settings.criteria)
    rows = read_items(data, criteria, settings.limit)
    given = {"base": base_feedback, "demonstrations": base_feedback}
    found: dict[str, list[Feedback]] = {}
    for condition in dict.fromkeys(settings.conditions):
        write, with_shown = given.get(condition, aspect_feedback), condition in ("demonstrations", "both")
        asked = (write(asker, criteria, row["input"], with_shown, settings) for row in rows)
        found[condition] = list(await asyncio.gather(*asked))
    marks = {
        condition: [m for i, (row, fb) in enumerate(zip(rows, feedback, strict=True)) if "violated" in row
                    for m in marked(i, row["violated"], fb.marks)]
        for condition, feedback in found.items()
    }  # fmt: skip
    if settings.layers:
        await asyncio.gather(
            *(_judge_layers(asker, row["input"], criticism) for feedback in found.values()
              for row, fb in zip(rows, feedback, strict=True) for criticism in fb.criticisms)
        )  # fmt: skip
    if settings.feedback_out:
        write_rows(settings.feedback_out, (
            {"item": i, "condition": condition, **criticism} for condition, feedback in found.items()
            for i, fb in enumerate(feedback) for criticism in fb.criticisms
        ))  # fmt: skip
    silent = Counter(f"{c}: {status}" for c, feedback in found.items() for fb in feedback
                     for _, status in fb.marks.values() if status != "ok")  # fmt: skip
    rules = {criterion.id for criterion in criteria.all() if criterion.severity == "rule"}
    by_severity = [
        {"condition": condition, "severity": "rule" if hard else "preference", **rates(those)}
        for condition, ms in marks.items() for hard in (True, False)
        if (those := [m for m in ms if (m.criterion in rules) == hard])
    ]
    return {
        "rows": len(rows), "estimates": _estimates(marks), "abstentions": dict(sorted(silent.items())),
        "tables": {"conditions": [{"condition": c, **rates(ms)} for c, ms in marks.items()], "severity": by_severity,
                   "criticisms": [_criticised(c, feedback) for c, feedback in found.items()]},
        "notes": ["a criterion that feedback does not mention (missing) is not assessed: neither marked nor satisfied"],
    }  # fmt: skip


def read_items(data: str, criteria: Criteria, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows with `input` and, where known, `violated` as criterion ids; raises InputError for an unknown criterion."""
    rows = read_columns(data, {"input": "text"}, {"violated": "texts"}, limit)
    for number, row in enumerate(rows, 1):
        try:
            if "violated" in row:
                row["violated"] = {criteria.named(name).id for name in row["violated"]}
        except ValueError as error:
            raise InputError(f"{data}: item {number}: violated: {error}") from None
    return rows


async def aspect_feedback(asker: Asker, criteria: Criteria, text: str, shown: bool, settings: Settings) -> Feedback:
    """One request an aspect, as a prompt with all criteria loses most of them (R7.8)."""
    given = [aspect.demonstrations if shown else [] for aspect in criteria.aspects]
    asked = (_asked(asker, criteria.task, a, text, d) for a, d in zip(criteria.aspects, given, strict=True))
    found = Feedback()
    for aspect, shots, (answer,) in zip(criteria.aspects, given, await asyncio.gather(*asked), strict=True):
        names = [criterion.name for criterion in aspect.criteria]
        cut = answer.status == "truncated"
        readings = parse_marks(answer.text, names, cut)
        items = items_of(answer.text, names)
        unasked = answer.status if not answer.text else None
        for place, (criterion, reading) in enumerate(zip(aspect.criteria, readings, strict=True)):
            found.marks[criterion.id] = (reading.value, unasked or reading.status)
            if reading.value == "violated":
                found.criticisms.append(_criticism(items[place].text, shots, settings, criterion))
    return found


async def base_feedback(asker: Asker, criteria: Criteria, text: str, shown: bool, settings: Settings) -> Feedback:
    """Free feedback, which knows no criteria; then, criterion by criterion, whether it says that one is violated."""
    shots = [d for aspect in criteria.aspects for d in aspect.demonstrations[:1]] if shown else []
    about = {"task": criteria.task, "input": text, "demonstrations": shots}
    (answer,) = await asker.read("feedback_base", as_text, about)
    found = Feedback()
    if answer.value is None:
        found.marks = {criterion.id: (None, answer.status) for criterion in criteria.all()}
        return found
    found.criticisms = [_criticism(line, shots, settings) for line in parse_units(answer.value).value or []]
    asked = [
        asker.judge("classify", "feedback_match", "", answer.value, meta={"criterion": f"{c.name}: {c.description}"})
        for c in criteria.all()
    ]
    for criterion, said in zip(criteria.all(), await asyncio.gather(*asked), strict=True):
        no = said.value == 0.0  # it says nothing of the criterion, so it has not assessed it
        mark = "violated" if said.value else None
        found.marks[criterion.id] = (None, "missing") if no else (mark, _status(said.status))
    return found


def _status(status: str) -> str:
    return "unmatched" if status == "missing" else status  # the matching judge was silent, not the feedback


def _criticism(
    text: str, shots: Sequence[Demonstration], settings: Settings, criterion: Criterion | None = None
) -> dict[str, Any]:
    sources = [part for shot in shots for part in (shot.input, shot.feedback)]
    about = {"criterion": criterion.id, "severity": criterion.severity} if criterion else {}
    return {**about, "text": text, "copied": copied_share(text, sources, settings.copied_ngram) if shots else None}


async def _judge_layers(asker: Asker, text: str, criticism: dict[str, Any]) -> None:
    """Ask layer by layer, until one fails or cannot be read."""
    answers: list[bool | None] = []
    for question in LAYERS.values():
        said = await asker.judge("classify", "feedback_layer", text, criticism["text"], meta={"question": question})
        answers.append(None if said.value is None else bool(said.value))
        if not answers[-1]:
            break
    criticism["layer"], criticism["layer_status"] = feedback_layer(answers)


def _criticised(condition: str, feedback: Sequence[Feedback]) -> dict[str, Any]:
    """How many criticisms there are, how many pass each layer, and how much of them stands in demonstrations."""
    all_of = [criticism for fb in feedback for criticism in fb.criticisms]
    row: dict[str, Any] = {"condition": condition, "criticisms": len(all_of)}
    layers = [c["layer"] for c in all_of if c.get("layer") is not None]
    if any("layer" in c for c in all_of):
        row |= {"layer unreadable": sum(c.get("layer_status") != "ok" for c in all_of)}
        row |= {name: sum(n > place for n in layers) / len(layers) if layers else None
                for place, name in enumerate(LAYERS)}  # fmt: skip
    copied = [c["copied"] for c in all_of if c["copied"] is not None]
    return row | {"copied from demonstrations": float(np.mean(copied)) if copied else None}


def _estimates(marks: dict[str, list[Marked]]) -> dict[str, Estimate]:
    """Recall and false alarms of each condition, and the others' gain over the first; intervals draw whole items."""
    found = {}
    for condition, ms in marks.items():
        for name, planted in (("recall", True), ("false alarms", False)):
            those = [m for m in ms if m.planted == planted]
            none = "no item has a known violation" if planted else "every criterion is violated"
            why = none if ms else "no feedback on items with known violations can be read"
            found[f"{condition} {name}"] = rate([float(m.marked) for m in those], [str(m.item) for m in those], why)
    first, *others = marks
    for other in others:
        before = {(m.item, m.criterion): m for m in marks[first] if m.planted}
        both = [m for m in marks[other] if (m.item, m.criterion) in before]
        gains = [float(m.marked) - float(before[m.item, m.criterion].marked) for m in both]
        found[f"{other} recall - {first} recall"] = average(gains, [str(m.item) for m in both], "nothing to compare")
    return found


EVALUATION = LLMCrit
