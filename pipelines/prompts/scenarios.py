"""Kinds of questions and what counts in each: scenarios.yaml, checked when it is first read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StringConstraints

from pipelines.strict import Strict

FILE = Path(__file__).with_name("scenarios.yaml")
OTHER = "others"  # of a row that names no scenario, or none that there is
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


@dataclass(frozen=True)
class Criterion:
    """One thing that counts."""

    name: str
    text: str


@dataclass(frozen=True)
class Scenario:
    """One kind of question. `criteria` are its own, then the basic ones of its group."""

    name: str
    group: str
    description: str
    criteria: tuple[Criterion, ...]
    own: int  # how many of the criteria are its own
    answer_first: bool  # a teacher answers the question itself before it judges


class _Entry(Strict):
    task: Text
    criteria: dict[str, Text] = Field(min_length=4, max_length=8)


class _Group(Strict):
    basic: list[str] = Field(min_length=1)
    answer_first: bool = False
    scenarios: dict[str, _Entry] = Field(min_length=1)


class _Sheet(Strict):
    basic: dict[str, dict[str, Text]]
    groups: dict[str, _Group] = Field(min_length=1)


def read_scenarios(text: str) -> dict[str, Scenario]:
    """The scenarios of a YAML text by name; raises ValueError for what is missing, unknown or there twice."""
    sheet = _Sheet.model_validate(yaml.safe_load(text))
    found: dict[str, Scenario] = {}
    for group_name, group in sheet.groups.items():
        if unknown := [name for name in group.basic if name not in sheet.basic]:
            raise ValueError(f"groups.{group_name}.basic: no set {unknown[0]!r}, there are {', '.join(sheet.basic)}")
        basic = [item for name in group.basic for item in sheet.basic[name].items()]
        for name, entry in group.scenarios.items():
            criteria = tuple(Criterion(*item) for item in [*entry.criteria.items(), *basic])
            names = [criterion.name for criterion in criteria]
            if name in found or len(set(names)) < len(names):
                raise ValueError(f"groups.{group_name}.scenarios.{name}: it, or one of its criteria, is there twice")
            found[name] = Scenario(name, group_name, entry.task, criteria, len(entry.criteria), group.answer_first)
    if OTHER not in found:
        raise ValueError(f"groups: no scenario {OTHER!r}, which rows without one take")
    return found


@cache
def scenarios() -> dict[str, Scenario]:
    """The scenarios of this package."""
    return read_scenarios(FILE.read_text(encoding="utf-8"))


def scenario(meta: Mapping[str, Any]) -> Scenario:
    """The scenario that a row's `scenario` column names, else the one for all other questions."""
    known = scenarios()
    name = meta.get("scenario")
    return known[name] if isinstance(name, str) and name in known else known[OTHER]
