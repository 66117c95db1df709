"""Criteria as text for a judge: of the package's scenarios, or of a user's own file."""

import dataclasses
from typing import Any

from pipelines.prompts.scenarios import Criterion, Scenario
from pipelines.steps.rows import Problem, check_text, read_rows


@dataclasses.dataclass(frozen=True)
class _Row:
    scenario: str
    description: str
    weight: float
    criterion: Criterion


def read_criteria(source: str) -> dict[str, Scenario]:
    """The scenarios of a file with one criterion a row, by name (the layout of Auto-J's, 2310.05470).

    Columns: `scenario`, `criterion` (its name) and `content`, and if there are any `weight` (a number; the weightier
    stand first, equal ones as in the file) and `scenario_description`. Raises InputError that names row and field.
    """
    rows, _ = read_rows(source, _row)
    found: dict[str, Scenario] = {}
    for row in sorted(rows, key=lambda row: -row.weight):
        known = found.get(row.scenario) or Scenario(row.scenario, "", row.description, (), 0, False)
        criteria = (*known.criteria, row.criterion)
        found[row.scenario] = dataclasses.replace(known, criteria=criteria, own=len(criteria))
    return dict(sorted(found.items()))


def criteria_text(scenario: Scenario) -> str:
    """The criteria of a scenario as a judge reads them, one a line with its name."""
    lead = [f"The question asks for this kind of work: {scenario.description}"] if scenario.description else []
    listed = [f"{i}. {criterion.name}: {criterion.text}" for i, criterion in enumerate(scenario.criteria, 1)]
    return "\n".join([*lead, *listed])


def _row(row: dict[str, Any], where: str) -> _Row:
    name, criterion, content = (check_text(row.get(c), c).strip() for c in ("scenario", "criterion", "content"))
    weight = row.get("weight", 0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise Problem("weight", f"is {weight!r:.40}; use a number")
    description = row.get("scenario_description", "")
    return _Row(name, description if isinstance(description, str) else "", weight, Criterion(criterion, content))
