"""How many gold labels to buy: from a pilot file, or from assumed correlations (R12)."""

import math
from typing import Any

from pydantic import Field, NonNegativeInt

from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, read_columns
from pipelines.evaluation.estimates.ppi import WORTH, Items, read_items
from pipelines.evaluation.estimates.ppi_estimators import correlation, correlation_interval, plan, saving
from pipelines.steps.rows import InputError, Problem, read_rows
from pipelines.strict import Strict

MULTIPLES = (1, 2, 10, math.inf)  # of the judged items: what more judging would save


class Settings(Strict):
    """Settings of `ppi-plan`."""

    half_width: float = Field(0.05, gt=0, description="wanted half-width of the interval, in units of the label")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of the interval")
    judged: NonNegativeInt | None = Field(None, description="items with a judge score alone; the file's when empty")


class PpiPlan(Evaluation):
    """Labels for a wanted interval with and without the judge, and whether the judge is worth asking."""

    about = "how many gold labels a wanted interval needs, and how many of them a judge saves"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: Any, settings: Settings) -> Result:
        """Rows are a pilot as for `ppi`, or cases with `rho`, `judged` and perhaps `sd` and `n`."""
        cases = read_cases(data)
        found = pilot(read_items(data), settings) if cases is None else assumed(cases, settings)
        estimates, table, notes, rows = found
        return Result(
            **about("ppi-plan", data, None, settings), rows=rows, estimates=estimates,
            tables={"plan": table}, notes=notes,
        )


EVALUATION = PpiPlan
Found = tuple[dict[str, Estimate], list[dict[str, Any]], list[str], int]


def read_cases(data: str) -> list[dict[str, Any]] | None:
    """Rows of assumed correlations; None where the file is a pilot. Raises InputError."""
    first, _ = read_rows(data, lambda row, where: "rho" in row, limit=1)
    if not first[0]:
        return None
    rows = read_columns(data, {"rho": "number", "judged": "number"}, {"sd": "number", "n": "number"})

    def check(row: dict[str, Any], where: str) -> None:
        fits = {
            "rho": (lambda v: -1 <= v <= 1, "use -1 to 1"), "judged": (lambda v: v >= 0, "use 0 or more"),
            "sd": (lambda v: v > 0, "use a standard deviation above 0"), "n": (lambda v: v >= 1, "use 1 or more"),
        }
        for name, (holds, advice) in fits.items():
            if name in row and not holds(row[name]):
                raise Problem(name, f"is {row[name]}; {advice}")

    read_rows(data, check)
    return rows


def pilot(items: Items, settings: Settings) -> Found:
    """The plan that a pilot supports; its correlation, and so the plan, is uncertain and says by how much."""
    n, level, h = len(items.gold), settings.level, settings.half_width
    rho, sd = float(correlation(items.gold, items.judged)), float(items.gold.std(ddof=1))
    if not sd:
        raise InputError("all labels of the pilot are equal: it says nothing about their spread; label more")
    more = len(items.rest) if settings.judged is None else settings.judged
    ends = correlation_interval(rho, n, level)
    found = plan(h, sd, rho, more, level)
    worst, best = (plan(h, sd, end, more, level) for end in ends or (0.0, 1.0))
    interval = None if ends is None else (float(best.labels), float(worst.labels))
    estimates = {
        "labels": Estimate(value=found.labels, interval=interval, level=level, n=n),
        "labels_without_judge": Estimate(value=found.without_judge, n=n, level=level),
        "labels_saved": Estimate(value=found.without_judge - found.labels, n=n, level=level),
        "tau": Estimate(value=found.tau, interval=ends and (worst.tau, best.tau), level=level, n=n),
        "rho": Estimate(value=rho, interval=ends, level=level, n=n),
        "label_sd": Estimate(value=sd, n=n, level=level),
    }
    table = [
        {
            "judged": "no limit" if math.isinf(multiple) else int(multiple * more), "labels": case.labels,
            "alone": case.without_judge, "tau": case.tau,
        }
        for multiple in MULTIPLES
        if (case := plan(h, sd, rho, math.inf if math.isinf(multiple) else multiple * more, level))
    ]
    notes = [
        advice(found.tau, worst.tau, best.tau),
        "the interval of labels is that of rho; the spread of the labels is taken as known",
    ]
    return estimates, table, notes, n + len(items.rest)


def assumed(cases: list[dict[str, Any]], settings: Settings) -> Found:
    """The plan of each case; `n` labels, where given, are also said to be worth so many."""
    estimates: dict[str, Estimate] = {}
    table, notes = [], []
    for number, case in enumerate(cases, 1):
        sd, rho, more = case.get("sd", 0.5), case["rho"], case["judged"]
        found = plan(settings.half_width, sd, rho, more, settings.level)
        estimates[f"labels, case {number}"] = Estimate(value=found.labels, n=found.labels, level=settings.level)
        row = {
            "case": number, "rho": rho, "judged": more, "sd": sd, "labels": found.labels,
            "alone": found.without_judge, "tau": found.tau,
        }
        if "n" in case:
            row |= {"n": case["n"], "tau_at_n": saving(rho, case["n"], more)}
            row["worth"] = case["n"] * row["tau_at_n"]
        table.append(row)
        notes.append(f"case {number}: {advice(found.tau, found.tau, found.tau)}")
    return estimates, table, notes, len(cases)


def advice(tau: float, worst: float, best: float) -> str:
    """Whether to ask the judge, given tau and its interval (R12, section 4: skip it below 1.2)."""
    if tau < WORTH:
        unsure = f"; the pilot is too small to be sure (up to {best:.2f})" if best >= WORTH else ""
        return f"skip the judge: tau {tau:.2f} is below {WORTH}, so label instead{unsure}"
    unsure = f"; the pilot is too small to be sure (down to {worst:.2f})" if worst < WORTH else ""
    return f"use the judge: each label is worth {tau:.2f} with it{unsure}"
