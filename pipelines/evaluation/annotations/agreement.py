"""Recorded verdicts or scores of a judge against gold: do they agree, and is one judge better than another?"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pipelines.config import ConfigError
from pipelines.evaluation.annotations.agreement_statistics import LABELS, ORDERED, compare
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.intervals import bootstrap_interval, proportion_interval
from pipelines.steps.rows import InputError, Problem, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

Columns = dict[str, np.ndarray]


class Settings(Strict):
    """Settings of `agreement`: which columns, and what kind of values."""

    gold: str = Field("gold", description="column of the labels or scores to agree with")
    verdict: str = Field("verdict", description="column of the judge's; a row without one is an abstention")
    other: str | None = Field(None, description="column of a second judge, to be compared on the same items")
    cluster: str | None = Field(None, description="column whose equal values are drawn together, a prompt id say")
    order: list[str] | None = Field(None, description="labels from worst to best, [B, tie, A] say, for rank statistics")
    status: str | None = Field(None, description="column of the verdict's status: all but ok are abstentions")
    level: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100)
    seed: int = 0


def read_verdicts(data: str, settings: Settings) -> tuple[list[dict[str, Any]], bool]:
    """Rows with gold, verdict, other, cluster and status, and whether values are numbers.

    Raises InputError: values must be all numbers or all labels, and no row may lack its gold.
    """
    names = {"gold": settings.gold, "verdict": settings.verdict, "other": settings.other}
    known = set(settings.order) if settings.order else None

    def convert(row: dict[str, Any], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for role, column in names.items():
            value = row.get(column) if column else None
            if role == "gold" and value is None:
                raise Problem(settings.gold, f"is missing; the row has {', '.join(sorted(row))}")
            if isinstance(value, float) and np.isnan(value):
                value = None  # how Parquet may write a missing number
            if isinstance(value, bool):
                value = str(value).lower()
            if value is not None and not isinstance(value, (int, float, str)):
                raise Problem(str(column), f"is {kind(value)}; use a label or a number")
            if known is not None and value is not None and str(value) not in known:
                raise Problem(str(column), f"is {value!r:.40}, which order=[{', '.join(settings.order or [])}] lacks")
            found[role] = value
        if found["gold"] is None:
            raise Problem(settings.gold, "is no number (NaN); leave the row out")
        found["cluster"] = _named(row, settings.cluster)
        found["status"] = str(row.get(settings.status, "missing")) if settings.status else None
        return found

    rows = read_rows(data, convert)[0]
    kinds = {isinstance(row[role], str) for row in rows for role in names if row[role] is not None}
    if settings.order is None and len(kinds) > 1:
        raise InputError(f"{data}: {settings.gold}, {settings.verdict}: some are numbers and some are labels")
    if all(row["verdict"] is None for row in rows):
        raise InputError(f"{data}: {settings.verdict}: no row has one; name the column with verdict=COLUMN")
    if settings.other and all(row["other"] is None for row in rows):
        raise InputError(f"{data}: {settings.other}: no row has one; name the column with other=COLUMN")
    return rows, settings.order is None and kinds == {False}


def _named(row: dict[str, Any], column: str | None) -> str | None:
    if column is None:
        return None
    if row.get(column) is None:
        raise Problem(column, "is missing; every row needs its cluster")
    return str(row[column])


def agreement(
    columns: Columns, ordered: bool, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Every statistic that fits, with its bootstrap interval.

    `columns` has gold and given [n] (codes or scores), and cluster [n] where items belong together. Rank statistics
    need `ordered` values, and statistics of classes whole numbers: of scores, 3.7 and 3.71 are no disagreement.
    Intervals of accuracy are Wilson's unless there are clusters.
    """
    gold, given, clusters = columns["gold"], columns["given"], columns.get("cluster")
    estimates: dict[str, Estimate] = {}
    classes = not ordered or (not (gold % 1).any() and not (given % 1).any())
    for name, statistic in {**(LABELS if classes else {}), **(ORDERED if ordered else {})}.items():
        value = float(statistic(gold, given)) if len(gold) > 1 else float("nan")
        if not np.isfinite(value):
            why = "needs two items" if len(gold) < 2 else "one of the two never varies"
            estimates[name] = Estimate(value=None, n=len(gold), level=level, why=why)
            continue
        if name == "accuracy" and clusters is None:
            interval = proportion_interval(int((gold == given).sum()), len(gold), level)
        else:
            interval = bootstrap_interval(
                statistic, gold, given, clusters=clusters, level=level, resamples=resamples, seed=seed
            )
        estimates[name] = Estimate(value=value, interval=interval, level=level, n=len(gold))
    return estimates


class Agreement(Evaluation):
    """Agreement of one judge, or of two on the same items, with gold."""

    about = "accuracy, kappa, alpha and correlations of recorded verdicts or scores with gold; two judges compared"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Raises InputError, ConfigError."""
        if settings.order is not None and len(set(settings.order)) != len(settings.order):
            raise ConfigError("order names a label twice")
        rows, numbers = read_verdicts(data, settings)
        code = _coder(rows, settings.order, numbers)
        options = {"level": settings.level, "resamples": settings.resamples, "seed": settings.seed}
        ordered = numbers or settings.order is not None
        estimates: dict[str, Estimate] = {}
        abstentions: dict[str, int] = {}
        for role in ("verdict", "other") if settings.other else ("verdict",):
            reasons = Counter(reason for row in rows if (reason := _abstains(row, role)))
            answered = [row for row in rows if not _abstains(row, role)]
            prefix = f"{getattr(settings, role)} " if settings.other else ""
            found = agreement(_columns(answered, role, code), ordered, **options)
            answers = Estimate(
                value=len(answered) / len(rows), n=len(rows), level=settings.level,
                interval=proportion_interval(len(answered), len(rows), settings.level),
            )
            estimates |= {f"{prefix}{name}": estimate for name, estimate in {**found, "answered": answers}.items()}
            abstentions |= {f"{prefix}{reason}": count for reason, count in sorted(reasons.items())}
        notes = ["abstentions are in no statistic but `answered`"]
        tables: dict[str, list[dict[str, Any]]] = {}
        if settings.other:
            estimates |= _comparison(rows, code, settings, options)
            notes.append(
                "the difference is of accuracy (verdict less other) where both answered, by paired bootstrap; "
                "mcnemar_p is the exact two-sided test of the same items"
            )
        elif not numbers:
            tables["confusion"] = _confusion(rows)
        return Result(
            **about("agreement", data, None, settings), rows=len(rows),
            estimates=estimates, abstentions=abstentions, tables=tables, notes=notes,
        )


def _abstains(row: dict[str, Any], role: str) -> str | None:
    """Why a row has no verdict that counts: the status, or missing."""
    if role == "verdict" and row["status"] not in (None, "ok"):
        return row["status"]
    return "missing" if row[role] is None else None


def _coder(rows: list[dict[str, Any]], order: list[str] | None, numbers: bool) -> Any:
    """Value to number: itself, its place in the order, or any code."""
    if numbers:
        return float
    values = order or sorted({str(row[role]) for row in rows for role in ("gold", "verdict", "other")})
    places = {value: float(place) for place, value in enumerate(values)}
    return lambda value: places[str(value)]


def _columns(rows: list[dict[str, Any]], role: str, code: Any) -> Columns:
    columns = {name: np.array([code(row[of]) for row in rows]) for name, of in (("gold", "gold"), ("given", role))}
    if rows and rows[0]["cluster"] is not None:
        columns["cluster"] = np.array([row["cluster"] for row in rows])
    return columns


def _comparison(
    rows: list[dict[str, Any]], code: Any, settings: Settings, options: dict[str, Any]
) -> dict[str, Estimate]:
    both = [row for row in rows if not _abstains(row, "verdict") and not _abstains(row, "other")]
    first, second = _columns(both, "verdict", code), _columns(both, "other", code)
    found = compare(
        first["gold"] == first["given"], second["gold"] == second["given"], first.get("cluster"), **options
    )
    why = None if both else "no item has both verdicts"
    return {
        "accuracy_difference": Estimate(
            value=found.difference, interval=found.interval, n=len(both), level=settings.level, why=why
        ),
        "mcnemar_p": Estimate(
            value=found.p_value, n=found.only_first + found.only_second, level=settings.level, why=why
        ),
    }


def _given(row: dict[str, Any]) -> str:
    reason = _abstains(row, "verdict")
    return f"({reason})" if reason else str(row["verdict"])


def _confusion(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a gold label: how often each verdict was given."""
    counts = Counter((str(row["gold"]), _given(row)) for row in rows)
    golds, givens = sorted({gold for gold, _ in counts}), sorted({given for _, given in counts})
    return [{"gold": gold, **{given: counts[gold, given] for given in givens}} for gold in golds]


EVALUATION = Agreement
