"""Criteria from guidelines (LLMCrit, 2403.01069; R7): the file a person edits, and what feedback by criteria is worth.

Pure, but for reading and writing the file.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError, model_validator

from actors.numbered import Drafted, same_name
from actors.verdicts import Reading
from pipelines.config import ConfigError, explain, read_yaml
from pipelines.evaluation.data import read_text, write_text
from pipelines.steps.new_prompts import words
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

LAYERS = {  # R7.3, in this order; a piece of feedback that fails one is not scored above it
    "valid": "Is what the feedback criticises really so in this text?",
    "contextualised": "Does the feedback point at the place in the text that it means?",
    "constructive": "Does the feedback say how to correct what it criticises?",
    "helpful": "Would the author of the text use the feedback to improve it?",
}
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$")
_UNDERLINE = re.compile(r"^(=+|-{3,})[ \t]*$")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)")


class Criterion(Strict):
    """One thing to check. `severity`: breaking a rule is a fault, a preference is a matter of style (R7.8)."""

    id: str
    name: str = Field(min_length=1)
    description: str
    severity: Literal["rule", "preference"] = "preference"


class Demonstration(Strict):
    """A text and the feedback on it, by the criteria of one aspect."""

    input: str
    feedback: str


class Aspect(Strict):
    """One part of the guidelines; feedback is asked for aspect by aspect."""

    name: str
    criteria: list[Criterion] = Field(min_length=1)
    demonstrations: list[Demonstration] = Field(default_factory=list)


class Criteria(Strict):
    """What `llmcrit` drafts and a person edits: YAML or JSON."""

    task: str
    aspects: list[Aspect] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Criteria":
        for kind in ("id", "name"):
            seen: dict[str, str] = {}
            for criterion in self.all():
                value = getattr(criterion, kind)
                key = value if kind == "id" else same_name(value)
                if key in seen:
                    raise ValueError(f"two criteria have the {kind} {value!r}; each needs its own")
                seen[key] = value
        return self

    def all(self) -> list[Criterion]:
        """The criteria of all aspects, in order."""
        return [criterion for aspect in self.aspects for criterion in aspect.criteria]

    def named(self, name: str) -> Criterion:
        """The criterion with this name or id; raises ValueError that names the nearest one."""
        for criterion in self.all():
            if name == criterion.id or same_name(name) == same_name(criterion.name):
                return criterion
        near = difflib.get_close_matches(name, [c.name for c in self.all()], n=1, cutoff=0.4)
        raise ValueError(f"{name!r} is no criterion" + (f", did you mean {near[0]!r}?" if near else ""))


def split_guidelines(text: str, title: str = "Guidelines") -> list[tuple[str, str]]:
    """(heading, text) of the aspects of a Markdown or plain text document.

    The shallowest level with two headings or more makes the aspects, deeper ones stay in their text. What stands before
    the first one is the aspect `title`, as is a text without such headings; a single heading above it is its title.
    Sections without text are left out.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    headings = _headings(lines)
    levels = [level for _, _, level, _ in headings]
    level = next((n for n in range(1, 7) if levels.count(n) > 1), None)
    starts = [(start, stop, name) for start, stop, found, name in headings if found == level]
    above = {n for start, stop, found, _ in headings if level is None or found < level for n in range(start, stop)}
    marks = [(0, 0, title), *starts, (len(lines), 0, "")]
    sections = [
        (name, "\n".join(line for n, line in enumerate(lines[stop:end], stop) if n not in above).strip())
        for (_, stop, name), (end, _, _) in pairwise(marks)
    ]
    return [(name, body) for name, body in sections if body]


def _headings(lines: Sequence[str]) -> list[tuple[int, int, int, str]]:
    """(first line, line after, level, name) of the headings outside of code fences."""
    found, fenced = [], False
    for n, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and (heading := _HEADING.match(line)):
            found.append((n, n + 1, len(heading[1]), heading[2].strip()))
        elif not fenced and n and (under := _UNDERLINE.match(line)) and lines[n - 1].strip()[:1].isalnum():
            found.append((n - 1, n + 1, 1 if under[1][0] == "=" else 2, lines[n - 1].strip()))
    return found


def drafted_aspects(drafts: Iterable[tuple[str, Sequence[Drafted]]]) -> list[Aspect]:
    """Aspects of drafted criteria, with ids from aspect and number; a name that came before is left out."""
    taken: set[str] = set()
    aspects = []
    for number, (name, drafted) in enumerate(drafts, 1):
        fresh = []
        for draft in drafted:
            if same_name(draft.name) not in taken:
                taken.add(same_name(draft.name))
                fresh.append(draft)
        slug = re.sub(r"\W+", "-", name.lower()).strip("-") or "aspect"
        criteria = [
            Criterion(id=f"{number}-{slug}-{i}", name=d.name, description=d.description,
                      severity="rule" if d.severity == "rule" else "preference")
            for i, d in enumerate(fresh, 1)
        ]
        if criteria:
            aspects.append(Aspect(name=name, criteria=criteria))
    return aspects


def read_criteria(path: str) -> Criteria:
    """A criteria file, YAML or JSON; raises InputError that names the field."""
    try:
        return Criteria.model_validate(read_yaml(read_text(path), path))
    except ConfigError as error:
        raise InputError(str(error)) from None
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, [])}") from None


def write_criteria(path: str, criteria: Criteria) -> None:
    """Write a criteria file, JSON where the name ends so, else YAML."""
    data = criteria.model_dump()
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n" if path.endswith(".json") else yaml.safe_dump(
        data, sort_keys=False, allow_unicode=True, width=120
    )
    write_text(path, text)


def feedback_layer(answers: Sequence[bool | None]) -> Reading[int]:
    """How many layers a piece of feedback passes before the first that it fails (R7.3): 0 to 4.

    `answers` are to LAYERS, in order; None, or an answer that is not there, says nothing: unless a layer below has
    failed, the layer is missing.
    """
    for place in range(len(LAYERS)):
        answer = answers[place] if place < len(answers) else None
        if answer is None:
            return Reading(None, "missing")
        if not answer:
            return Reading(place, "ok")
    return Reading(len(LAYERS), "ok")


def copied_share(text: str, sources: Iterable[str], n: int = 5) -> float | None:
    """Share of the word n-grams of `text` that stand in one of `sources` (R7.8); None for fewer than n words."""
    mine = _ngrams(text, n)
    theirs = {gram for source in sources for gram in _ngrams(source, n)}
    return sum(gram in theirs for gram in mine) / len(mine) if mine else None


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


class Marked(NamedTuple):
    """Whether feedback on an item says that a criterion is violated, and whether it is (planted)."""

    item: int
    criterion: str
    planted: bool
    marked: bool
    assessed: bool  # the feedback says something about the criterion


def marked(item: int, violated: set[str], marks: Mapping[str, tuple[str | None, str]]) -> list[Marked]:
    """The marks of an item by criterion id, (mark, status) each, against the planted violations (R7.7).

    A criterion that complete feedback does not mention (missing) is not assessed: it is not marked, and never counted
    as satisfied. What could not be read (truncated, ambiguous, too long a prompt) is left out.
    """
    return [
        Marked(item, criterion, criterion in violated, mark == "violated", status == "ok")
        for criterion, (mark, status) in marks.items() if status in ("ok", "missing")
    ]


def rates(found: Sequence[Marked]) -> dict[str, Any]:
    """Recall (planted violations that are marked) and false alarms (marks on the others); both of what was assessed."""

    def share(of: list[Marked]) -> float | None:
        return sum(m.marked for m in of) / len(of) if of else None

    planted, others = [m for m in found if m.planted], [m for m in found if not m.planted]
    return {
        "planted": len(planted), "recall": share(planted),
        "recall of assessed": share([m for m in planted if m.assessed]),
        "others": len(others), "false alarms": share(others),
        "false alarms of assessed": share([m for m in others if m.assessed]),
        "assessed": sum(m.assessed for m in found) / len(found) if found else None,
    }
