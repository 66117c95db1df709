"""The critique of critique (MetaCritique, 2401.04518): are a critique's single claims right, and does it say enough?

Verdicts come from a model, or are recorded in the rows; where the rows have people's labels as well, the verdicts are
held against them.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat

from actors.claims import parse_units
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.correlation import MEASURES, correlation
from pipelines.evaluation.data import about, read_columns, write_rows
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.rates import rate
from pipelines.evaluation.services.critique_units import (
    CritiqueScore,
    agreement,
    critic_table,
    critique_score,
    meta_winner,
    ranked_pairs,
)
from pipelines.evaluation.services.questions import Answer, Asker, AskingSettings, as_text
from pipelines.steps.rows import InputError, Problem

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

QUESTION = {"index": "number", "question": "text", "response": "text", "reference_answer": "text",
            "reference_critique": "text", "reference_aius": "texts"}  # fmt: skip
CRITIQUE = {"critic": "text", "critique": "text", "aius": "texts", "precision_labels": "flags",
            "recall_labels": "flags", "precision_verdicts": "verdicts", "recall_verdicts": "verdicts"}  # fmt: skip
RESAMPLES = 500  # of a correlation; a mean is cheaper and gets more
UNITS_OF = {"precision_labels": "aius", "precision_verdicts": "aius", "recall_labels": "reference_aius",
            "recall_verdicts": "reference_aius"}  # fmt: skip


class Settings(AskingSettings):
    """How critiques are split and checked."""

    questions: str | None = Field(None, description="file with what the critiques are about, joined by `index`")
    units: Literal["file", "model"] = Field("file", description="model: split every critique again, the file's or not")
    margin: NonNegativeFloat = Field(0.0, description="gap of F1 above which one of two critiques wins")
    units_out: str | None = Field(None, description="JSONL file for every unit with verdict, status and rationale")


@dataclass
class Item:
    """One critique with what was found of it: (unit, answer) lists of its own units and of the reference's."""

    row: dict[str, Any]
    precision: list[tuple[str, Answer[float]]] = field(default_factory=list)
    recall: list[tuple[str, Answer[float]]] = field(default_factory=list)
    status: str = "ok"  # of splitting the critique
    reference_status: str = "ok"  # of making or splitting the reference critique

    @property
    def question(self) -> str:
        """What tells the questions apart: critiques of one answer are of one question."""
        row = self.row
        return str(row["index"]) if "index" in row else json.dumps([row.get("question"), row.get("response")])

    @property
    def score(self) -> CritiqueScore:
        """From the readable verdicts."""
        sides = ([_verdict(a) for _, a in side] for side in (self.precision, self.recall))
        return critique_score(*sides, self.status if self.status != "ok" else self.reference_status)

    @property
    def human(self) -> CritiqueScore | None:
        """From people's labels; None where the row has none."""
        if "precision_labels" not in self.row or "recall_labels" not in self.row:
            return None
        return critique_score(self.row["precision_labels"], self.row["recall_labels"])


class MetaCritique(Evaluation):
    """R9: precision, recall and F1 of critiques by units, by critic; with labels, how far a judge's verdicts hold."""

    about = "critiques by their single claims: precision, recall, F1, rank of critics; judges of claims against people"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        rows = read_critiques(data, settings.questions, asking=judge is not None, limit=settings.limit)
        judged = any("precision_verdicts" in row or "recall_verdicts" in row for row in rows)
        items = await ask_units(rows, judge, settings) if judge else [recorded(row, judged) for row in rows]
        if settings.units_out:
            write_rows(settings.units_out, (line for item in items for line in unit_lines(item)))
        own_verdicts = judge is not None or judged
        estimates, notes = score_estimates(items), []
        tables = {"critics": critics(items)}
        if len({item.question for item in items}) < len(items):
            tables["pairs within a question"] = [winners(items, settings.margin)]
        if own_verdicts and any(item.human for item in items):
            estimates |= meta_estimates(items)
        if not own_verdicts:
            notes.append("verdicts are people's labels: nobody was asked")
        notes.append("means are over critiques; the mean F1 is no F1 of the means")
        return Result(
            **about("metacritique", data, judge, settings), rows=len(rows),
            estimates=estimates, abstentions=abstentions(items), tables=tables, notes=notes,
        )


def read_critiques(data: str, questions: str | None, asking: bool, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of critiques with the columns of their question; raises InputError.

    Without a model to ask, a row needs the verdicts or labels of both sides; with one, question, response and critique.
    """

    def check(row: dict[str, Any]) -> None:
        if not asking and not any({f"precision_{k}", f"recall_{k}"} <= row.keys() for k in ("labels", "verdicts")):
            raise Problem("precision_labels", "is missing, or recall_labels is; give both, or --judge to ask a model")

    about: dict[float, dict[str, Any]] = {}
    if questions is not None:
        needed = {name: QUESTION[name] for name in ("index", "question", "response")}
        about = {row["index"]: row for row in read_columns(questions, needed, QUESTION)}
    needed = {"critique": "text"} if asking else {}
    needed |= {"index": "number"} if about else {}
    rows = read_columns(data, needed, {**QUESTION, **CRITIQUE}, limit, check)
    joined = []
    for row in rows:
        if about and row["index"] not in about:
            raise InputError(f"{questions}: no row with index {row['index']}, which {data} has a critique of")
        joined.append({**about.get(row.get("index", -1), {}), **row})
    for number, row in enumerate(joined, 1):
        missing = [name for name in ("question", "response") if asking and name not in row]
        if missing:
            raise InputError(f"{data}: critique {number} has no {missing[0]}; add the column, or questions=FILE")
        for column, units in UNITS_OF.items():
            if column in row and units in row and len(row[column]) != len(row[units]):
                counts = f"{len(row[units])} {units} and {len(row[column])} {column}"
                raise InputError(f"{data}: critique {number} has {counts}; there is one for each")
    return joined


def recorded(row: dict[str, Any], judged: bool) -> Item:
    """A row's recorded verdicts, or, where no row is `judged`, its labels, as if they had just been given.

    In a file of a judge's verdicts those that a row lacks are abstentions; labels are people's, never the judge's.
    """

    def side(name: str, units: str) -> list[tuple[str, Answer[float]]]:
        labels = row.get(f"{name}_labels", [None] * len(row.get(units) or []))
        verdicts = row.get(f"{name}_verdicts", [None] * len(labels)) if judged else labels
        texts = row.get(units) or [""] * len(verdicts)
        answers = (Answer(None, "missing", "") if v is None else Answer(float(v), "ok", "") for v in verdicts)
        return list(zip(texts, answers, strict=True))

    return Item(row, side("precision", "aius"), side("recall", "reference_aius"))


async def ask_units(rows: Sequence[dict[str, Any]], judging: "Judging", settings: Settings) -> list[Item]:
    """Units that the rows lack and all verdicts, asked of a model (R9.2): two references once a question, then claims.

    Critiques of one answer share its reference. An empty critique has no units and says nothing: nobody is asked.
    """
    asker = Asker(judging, "metacritique", settings)
    references: dict[str, asyncio.Task[tuple[str | None, Answer[list[str]]]]] = {}

    async def ask(row: dict[str, Any]) -> Item:
        item = Item(row)
        key = json.dumps([row["question"], row["response"], row.get("reference_critique"), row.get("reference_aius")])
        if key not in references:
            references[key] = asyncio.ensure_future(_reference(asker, row, settings))
        units = await _units(asker, row["critique"], row.get("aius"), settings)
        gold, expected = await references[key]
        item.status, item.reference_status = units.status, expected.status
        question, answer, critique = row["question"], {"response": row["response"]}, {"critique": row["critique"]}
        item.precision, item.recall = await asyncio.gather(
            _verdicts(asker, "claim_precision", question, units.value or [], gold, answer),
            _verdicts(asker, "claim_recall", question, expected.value or [], gold, critique),
        )
        return item

    try:
        return list(await asyncio.gather(*map(ask, rows)))
    finally:
        for task in references.values():
            task.cancel()


async def _reference(
    asker: Asker, row: dict[str, Any], settings: Settings
) -> tuple[str | None, Answer[list[str]]]:
    """The reference answer, where there is one, and the units of the reference critique."""
    gold, critique = row.get("reference_answer"), row.get("reference_critique")
    if "reference_aius" in row and settings.units == "file":
        return gold, Answer(row["reference_aius"], "ok", "")
    if critique is None:
        if gold is None:
            (answer,) = await asker.read("reference_answer", as_text, {"prompt": row["question"]})
            gold = answer.value
        shown = {"prompt": row["question"], "response": row["response"], "gold": gold}
        (answer,) = await asker.read("reference_critique", as_text, shown)
        if answer.value is None:
            return gold, Answer(None, answer.status, answer.text)
        critique = answer.value
    return gold, await _units(asker, critique, None, settings)


async def _units(asker: Asker, critique: str, given: list[str] | None, settings: Settings) -> Answer[list[str]]:
    if not critique.strip():
        return Answer(None, "missing", "")
    if given is not None and settings.units == "file":
        return Answer(given, "ok", "")
    (answer,) = await asker.read("claim_units", parse_units, {"critique": critique})
    return answer


async def _verdicts(
    asker: Asker, template: str, question: str, units: list[str], gold: str | None, meta: dict[str, Any]
) -> list[tuple[str, Answer[float]]]:
    if not meta.get("critique", "-").strip():
        return [(unit, Answer(0.0, "ok", "")) for unit in units]  # an empty critique says nothing
    asked = (asker.judge("claim", template, question, unit, gold, meta) for unit in units)
    return list(zip(units, await asyncio.gather(*asked), strict=True))


def _verdict(answer: Answer[float]) -> bool | None:
    return None if answer.value is None else bool(answer.value)


def unit_lines(item: Item) -> list[dict[str, Any]]:
    """A line for each unit: whose it is, its verdict, status and rationale, and people's label where there is one."""
    lines = []
    for side in ("precision", "recall"):
        labels = item.row.get(f"{side}_labels")
        for place, (unit, answer) in enumerate(getattr(item, side)):
            line = {"question": item.row.get("index"), "critic": item.row.get("critic"), "side": side, "unit": unit,
                    "verdict": _verdict(answer), "status": answer.status, "rationale": answer.text}  # fmt: skip
            if labels is not None and place < len(labels) and len(labels) == len(getattr(item, side)):
                line["label"] = labels[place]
            lines.append(line)
    return lines


def score_estimates(items: Sequence[Item]) -> dict[str, Estimate]:
    """Mean P, R and F1 of all critiques, with intervals that draw whole questions."""
    found = {}
    for name in ("precision", "recall", "f1"):
        known = [item for item in items if getattr(item.score, name) is not None]
        values = [getattr(item.score, name) for item in known]
        found[name] = rate(values, [str(item.question) for item in known], "no critique has one")
    return found


def critics(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The critics by mean F1, the best first."""
    by_critic: dict[str, list[CritiqueScore]] = {}
    for item in items:
        by_critic.setdefault(item.row.get("critic", "-"), []).append(item.score)
    return critic_table(by_critic)


def winners(items: Sequence[Item], margin: float) -> dict[str, int]:
    """How many pairs of critiques of one question have a winner by more than `margin`, tie, or cannot be compared."""
    found = Counter({"decided": 0, "tie": 0, "undefined": 0})
    for i, a in enumerate(items):
        for b in items[i + 1:]:
            if a.question == b.question:
                winner = meta_winner(a.score, b.score, margin).value
                found["undefined" if winner is None else "tie" if winner == "tie" else "decided"] += 1
    return dict(found)


def meta_estimates(items: Sequence[Item]) -> dict[str, Estimate]:
    """A judge against people: accuracy of its verdicts, correlation of its scores, order of two critiques (R9.6).

    Verdicts on units that the judge split itself have no label: then scores alone are compared.
    """
    labelled = [item for item in items if item.human is not None]
    found = {}
    for side in ("precision", "recall"):
        held = [(str(item.question), float(right)) for item in labelled for right in _held(item, side)]
        values, questions = [right for _, right in held], [question for question, _ in held]
        found[f"{side}_verdict_accuracy"] = rate(values, questions, "no readable verdict on a labelled unit")
    for name in ("precision", "recall", "f1"):
        found |= _correlated(name, labelled)
    asked = [item.question for item in labelled]
    human = [item.human.f1 if item.human else None for item in labelled]
    ranked = ranked_pairs(asked, [item.score.f1 for item in labelled], human)
    why = "no question has two critiques that people score differently"
    found["ranking_accuracy"] = rate([right for _, right in ranked], [str(question) for question, _ in ranked], why)
    return found


def _correlated(name: str, labelled: Sequence[Item]) -> dict[str, Estimate]:
    """Correlations of one score with people's over critiques that have both; intervals draw whole questions."""
    both = [(item.question, getattr(item.score, name), getattr(item.human, name)) for item in labelled]
    both = [(q, s, h) for q, s, h in both if s is not None and h is not None]
    questions, judged, human = map(list, zip(*both, strict=True)) if both else ([], [], [])
    found = {}
    for measure in MEASURES:
        value, interval, why = correlation(measure, judged, human), None, None
        if value is None:
            why = "one side is constant, or there are fewer than two"
        else:
            of_drawn = partial(correlation, measure)
            interval = bootstrap_interval(of_drawn, judged, human, clusters=questions, resamples=RESAMPLES)
        found[f"{name}_{measure}"] = Estimate(value=value, interval=interval, n=len(both), why=why)
    return found


def _held(item: Item, side: str) -> list[bool]:
    answers, labels = getattr(item, side), item.row[f"{side}_labels"]
    given = [unit for unit, _ in answers] == item.row.get(UNITS_OF[f"{side}_labels"], [""] * len(labels))
    return agreement([_verdict(a) for _, a in answers], labels) if given and len(answers) == len(labels) else []


def abstentions(items: Sequence[Item]) -> dict[str, int]:
    """Unreadable verdicts by side and reason, and critiques without units."""
    found: Counter[str] = Counter()
    for item in items:
        for side in ("precision", "recall"):
            found.update(f"{side} verdict {a.status}" for _, a in getattr(item, side) if a.status != "ok")
        if not item.precision:
            found[f"no units: {item.status if item.status != 'ok' else 'missing'}"] += 1
        if item.reference_status != "ok":
            found[f"no reference units: {item.reference_status}"] += 1
    return dict(sorted(found.items()))


EVALUATION = MetaCritique
