"""Where a model is weak (QualEval, 2311.02807; R18): attributes that a model finds in the data, scores by attribute.

With a file of attributes and affinities recorded in the rows nobody is asked. What it suggests is a file of prompts,
more of them where the scores are low, that a run takes as its prompts.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import splitext
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from actors.claims import parse_units
from actors.numbered import parse_affinities
from actors.verdicts import Reading
from pipelines.config import ConfigError
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, read_columns, read_text, write_rows, write_text
from pipelines.evaluation.services.attributes import (
    Assignment,
    assign,
    distinct_names,
    divergence,
    is_binary,
    priors,
    proficiency,
    score_interval,
    targeted,
    top_attributes,
    weakness_weights,
)
from pipelines.evaluation.services.questions import Asker, AskingSettings
from pipelines.steps.rows import InputError, Problem

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

KINDS = {"sub-tasks": "the skills or steps that they need", "domains": "the fields of knowledge that they are about"}
MAX_WORDS = 12  # of an attribute's name; a longer line is no name
GATHERED = 4  # times as many names as wanted go into one request to shorten a list (R18.2)


class Settings(AskingSettings):
    """How attributes are found and items assigned; the paper's values."""

    kind: str = Field("sub-tasks", description="what is looked for: sub-tasks, domains, or words of your own")
    attributes: str | None = Field(None, description="JSON file, a list of names, in place of the model's proposals")
    affinities_out: str | None = Field(None, description="JSONL file: the rows with their affinities, to be read again")
    prompts_out: str | None = Field(None, description="JSONL file of prompts drawn where the model is weak")
    prompts: PositiveInt = Field(100, description="prompts that are drawn")
    chunk: PositiveInt = Field(5, description="items that one proposal sees")
    candidates: PositiveInt = Field(15, description="attributes that are scored")
    keep: PositiveInt = Field(10, description="attributes that are kept, by mean affinity")
    per_item: PositiveInt = Field(2, description="most attributes of an item")
    slack: float = Field(0.1, ge=0, description="by how much a count may miss its share; widened if it must")
    retries: NonNegativeInt = Field(3, description="further attempts at an incomplete list of affinities")
    one_by_one: bool = Field(False, description="one request an attribute, for judges that get lost in lists")


@dataclass
class Affinities:
    """Names, and affinities by row to what was asked for and to the model's own answer; None: incomplete."""

    names: list[str]
    rows: list[list[float] | None]
    answers: list[list[float] | None] | None = None


class QualEval(Evaluation):
    """R18: attributes, affinities, an integer program, and what to train on next."""

    about = "attributes of a data set, a model's score by attribute, and prompts for where it is weak"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        rows = read_items(data, recorded=judge is None, limit=settings.limit)
        abstentions: Counter[str] = Counter()
        if judge is None:
            found = recorded_affinities(data, rows, settings)
        else:
            found = await ask_affinities(rows, Asker(judge, "qualeval", settings), settings, abstentions)
        known = [i for i, affinity in enumerate(found.rows) if affinity is not None]
        if not known:
            why = ", ".join(f"{reason} {count}" for reason, count in abstentions.items())
            raise InputError(f"{data}: no item has a readable affinity to all {len(found.names)} attributes ({why})")
        table = np.array([found.rows[i] for i in known])
        places = top_attributes(table, settings.keep)
        names, kept = [found.names[j] for j in places], table[:, places]
        assignment = assign(kept, priors(kept), settings.per_item, settings.slack)
        scores = [rows[i]["score"] for i in known]
        report = proficiency(names, assignment.chosen, scores)
        weights = weakness_weights([_score_of(report, name) for name in names])
        drawn = targeted(assignment.chosen, weights, settings.prompts, settings.seed)
        for row in report:
            place = names.index(row["attribute"])
            row |= {"prior": float(priors(kept)[place]), "affinity": float(kept[:, place].mean()),
                    "weight": weights[place]}  # fmt: skip
        if found.answers:
            _add_divergence(report, names, places, found, known)
        _write_files(settings, rows, found, known, names, assignment, weights, drawn)
        numbers = [s for s in scores if s is not None]
        return Result(
            **about("qualeval", data, judge, settings), rows=len(rows),
            estimates={
                "score": Estimate(
                    value=float(np.mean(numbers)) if numbers else None, n=len(numbers),
                    interval=score_interval(numbers, is_binary(numbers)),
                    why=None if numbers else "the rows have no score",
                ),
                "affinity of an assignment": Estimate(
                    value=assignment.objective / max(1, int(assignment.chosen.sum())), n=int(assignment.chosen.sum())
                ),
            },
            abstentions=dict(sorted(abstentions.items())),
            tables={"attributes": report}, notes=_notes(settings, assignment, known, drawn, bool(numbers)),
        )


def read_items(data: str, recorded: bool, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows with `prompt` and a `score` or None: a number, or `correct`, true or false. Raises InputError."""

    def check(row: dict[str, Any]) -> None:
        if recorded and "affinities" not in row:
            raise Problem("affinities", "is missing; give a list of numbers from 1 to 5, or --judge to ask a model")
        if any(not 1 <= a <= 5 for a in row.get("affinities", [])):
            raise Problem("affinities", "has a number that is not from 1 to 5")

    optional = {"score": "number", "correct": "flag", "gold": "text", "response": "text", "affinities": "numbers"}
    rows = read_columns(data, {"prompt": "text"}, optional, limit, check)
    return [{**row, "score": float(row["score"]) if "score" in row else
             float(row["correct"]) if "correct" in row else None} for row in rows]  # fmt: skip


def recorded_affinities(data: str, rows: Sequence[dict[str, Any]], settings: Settings) -> Affinities:
    """The affinities that the rows have, to the attributes of a file; raises ConfigError, InputError."""
    if settings.attributes is None:
        raise ConfigError("attributes=FILE is needed to read recorded affinities: a JSON list of names")
    names = read_names(settings.attributes)
    for number, row in enumerate(rows, 1):
        if len(row["affinities"]) != len(names):
            counts = f"{len(row['affinities'])} affinities to {len(names)} attributes"
            raise InputError(f"{data}: item {number} has {counts}; there is one for each")
    return Affinities(names, [[float(a) for a in row["affinities"]] for row in rows])


def read_names(path: str) -> list[str]:
    """A JSON list of attribute names; raises InputError."""
    text = read_text(path)
    try:
        names = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise InputError(f"{path}: is no list of names; write [\"algebra\", \"reading a table\"]")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: names an attribute twice")
    return names


# ---- asking


async def ask_affinities(
    rows: Sequence[dict[str, Any]], asker: Asker, settings: Settings, abstentions: Counter[str]
) -> Affinities:
    """Attributes, unless a file names them, and the affinity of every item, and of its response, to each."""
    given = settings.attributes
    names = read_names(given) if given else await propose(rows, asker, settings, abstentions)
    texts = [row["prompt"] + (f"\n\nAnswer: {row['gold']}" if row.get("gold") else "") for row in rows]
    ask = _one_by_one if settings.one_by_one else _as_list
    found = list(await asyncio.gather(*(ask(asker, text, names, settings, abstentions) for text in texts)))
    answers = None
    if not settings.one_by_one and all(row.get("response", "").strip() for row in rows):
        asked = (_as_list(asker, r["prompt"], names, settings, abstentions, r["response"]) for r in rows)
        answers = list(await asyncio.gather(*asked))
    return Affinities(names, found, answers)


async def propose(
    rows: Sequence[dict[str, Any]], asker: Asker, settings: Settings, abstentions: Counter[str]
) -> list[str]:
    """Names from every chunk of the data, shortened in rounds until there are few enough (R18.2)."""
    hint = KINDS.get(settings.kind, settings.kind)
    about = {"kind": settings.kind, "hint": hint, "count": settings.candidates}
    prompts = [row["prompt"] for row in rows]
    chunks = [prompts[i : i + settings.chunk] for i in range(0, len(prompts), settings.chunk)]
    asked = (asker.read("attributes_propose", _listed, {"items": chunk, **about}) for chunk in chunks)
    names = _names(await asyncio.gather(*asked), abstentions)
    if not names:
        raise InputError(f"the model listed no {settings.kind} that can be read; name them with attributes=FILE")
    while len(names) > settings.candidates:
        size = GATHERED * settings.candidates
        parts = [names[i : i + size] for i in range(0, len(names), size)]
        wanted = [min(settings.candidates, len(part)) for part in parts]
        asked = (
            asker.read("attributes_prune", _listed, {"kind": settings.kind, "names": part, "count": count})
            for part, count in zip(parts, wanted, strict=True)
        )
        kept = [_shorter(answer.value, part, count) for (answer,), part, count
                in zip(await asyncio.gather(*asked), parts, wanted, strict=True)]  # fmt: skip
        fewer = distinct_names([name for part in kept for name in part])
        names = fewer if len(fewer) < len(names) else names[: settings.candidates]
    return names


def _listed(text: str, truncated: bool) -> Reading[list[str]]:
    """The names of a list; one that runs on until it is cut off still has complete lines."""
    return parse_units(text, truncated, partly=True)


def _shorter(said: list[str] | None, names: list[str], count: int) -> list[str]:
    """The names that the model kept, filled up with the first others where it kept too few or invented some."""
    kept = [name for name in said or [] if name in names][:count]
    return kept + [name for name in names if name not in kept][: count - len(kept)]


def _names(replies: Sequence[Any], abstentions: Counter[str]) -> list[str]:
    found: Counter[str] = Counter()
    for (answer,) in replies:
        if answer.value is None:
            abstentions[f"proposal {answer.status}"] += 1
        found.update(n.strip(" .") for n in answer.value or [] if len(n.split()) <= MAX_WORDS and n.strip(" ."))
    return distinct_names([name for name, _ in found.most_common()])


async def _as_list(
    asker: Asker, text: str, names: list[str], settings: Settings, abstentions: Counter[str], response: str = ""
) -> list[float] | None:
    """Affinities from one list; an incomplete one is asked for again, hotter, and then the item abstains (R18.3)."""
    status = "missing"
    for attempt in range(settings.retries + 1):
        (answer,) = await asker.read(
            "attributes_affinity", lambda text, cut: _complete(text, len(names), cut),
            {"kind": settings.kind, "names": names, "item": text, "response": response}, attempt,
            temperature=1.0 if attempt else None,
        )
        if answer.value is not None:
            return answer.value
        status = answer.status
    abstentions[f"affinities {status}"] += 1
    return None


def _complete(text: str, count: int, cut: bool) -> Reading[list[float]]:
    """A reading of all affinities or, with the first reason, of none."""
    readings = parse_affinities(text, count, cut)
    values = [r.value for r in readings if r.value is not None]
    bad = next((r.status for r in readings if r.status != "ok"), None)
    return Reading(values, "ok") if bad is None else Reading(None, bad)


async def _one_by_one(
    asker: Asker, text: str, names: list[str], settings: Settings, abstentions: Counter[str]
) -> list[float] | None:
    asked = (asker.judge("likert", "attributes_affinity_one", text, name) for name in names)
    answers = await asyncio.gather(*asked)
    bad = next((a.status for a in answers if a.value is None), None)
    if bad is not None:
        abstentions[f"affinities {bad}"] += 1
        return None
    return [float(a.value) for a in answers if a.value is not None]


# ---- reporting


def _score_of(report: Sequence[dict[str, Any]], name: str) -> float | None:
    return next(row["score"] for row in report if row["attribute"] == name)


def _add_divergence(
    report: list[dict[str, Any]], names: list[str], places: list[int], found: Affinities, known: list[int]
) -> None:
    both = [i for i in known if found.answers and found.answers[i] is not None]
    if both and found.answers:
        shares = divergence(
            np.array([found.rows[i] for i in both])[:, places], np.array([found.answers[i] for i in both])[:, places]
        )
        for row in report:
            row["divergence"] = float(shares[names.index(row["attribute"])])


def _write_files(
    settings: Settings, rows: Sequence[dict[str, Any]], found: Affinities, known: list[int], names: list[str],
    assignment: Assignment, weights: Sequence[float], drawn: Sequence[tuple[int, int]],
) -> None:  # fmt: skip
    """The recorded affinities with the attributes' names, and the prompts that a run takes."""
    if settings.affinities_out:
        kept = [{**rows[i], "affinities": found.rows[i]} for i in known]
        write_rows(settings.affinities_out, ({k: v for k, v in row.items() if v is not None} for row in kept))
        names_file = splitext(settings.affinities_out)[0] + ".attributes.json"
        write_text(names_file, json.dumps(found.names, ensure_ascii=False) + "\n")
    if settings.prompts_out:
        sources = [rows[known[i]] for i, _ in drawn]
        write_rows(settings.prompts_out, (
            {**{key: row[key] for key in ("prompt", "gold") if row.get(key)}, "attribute": names[j],
             "attribute_weight": weights[j]}
            for row, (_, j) in zip(sources, drawn, strict=True)
        ))  # fmt: skip


def _notes(
    settings: Settings, assignment: Assignment, known: list[int], drawn: Sequence[tuple[int, int]], scored: bool
) -> list[str]:
    most = settings.per_item
    found = [f"{len(known)} items are assigned, at most {most} attributes each; slack {assignment.slack:g}"]
    if assignment.slack > settings.slack:
        found[0] += f", widened from {settings.slack:g}, which no assignment fits"
    if not scored:
        found.append("no row has a score or correct: attributes are counted, and none is weaker than another")
    if settings.prompts_out:
        path = settings.prompts_out
        found.append(f"{len(drawn)} prompts in {path}: appellate run RECIPE prompts={path}")
    found.append("a weight is the distance of an attribute's score to the best one: small groups have wide intervals")
    return found


EVALUATION = QualEval
