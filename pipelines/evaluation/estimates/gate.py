"""`gate`: a gate applied to rows of judgements: which are kept, which go to people, which are left out, and what of it.

A row that people are to label needs their `label` (or `correct`); then the file can choose the next gate.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from actors.gates import FATES, Calibration, Gate, Routed, load_gate
from pipelines.config import ConfigError
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, write_rows
from pipelines.evaluation.estimates.calibration import fate_row
from pipelines.evaluation.estimates.gates import coverage_curve, selective_auc
from pipelines.evaluation.estimates.scored import Scored, read_scored
from pipelines.evaluation.intervals import bootstrap_interval, proportion_interval
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
UNLIKE = 0.01  # p-value below which a gate keeps another share here than where it was chosen


class Settings(Strict):
    """Settings of `gate`."""

    gate: str = Field(description="JSON file of the gate")
    routed: str | None = Field(None, description="file for the rows with their fate and reason: .parquet or .jsonl")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")


class ApplyGate(Evaluation):
    """Counts by fate, the precision to expect or found, and risk against coverage where labels are there."""

    about = "a gate applied to judged rows: kept, to be labelled, left out; expected precision, risk-coverage"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: Any, settings: Settings) -> Result:
        """Rows have the gate's columns, and perhaps labels. Raises ConfigError, InputError."""
        gate = load_gate(settings.gate)
        if settings.routed is not None and Path(settings.routed).suffix not in (".parquet", ".jsonl"):
            raise ConfigError(f"routed={settings.routed}: use a name that ends in .parquet or .jsonl")
        items = read_scored(data, gate.score, gate.uncertainty, labels_needed=False)
        routed = [
            gate.decide(_none(score), _none(uncertainty))
            for score, uncertainty in zip(items.scores, items.uncertainties, strict=True)
        ]
        fates = np.array([fate for fate, _ in routed])
        if settings.routed is not None:
            write_routed(items.rows, routed, settings.routed)
        missing = int((~items.known).sum())
        return Result(
            **about("gate", data, None, settings), rows=len(items.rows),
            estimates=measured(gate, items, fates, settings), abstentions={"missing": missing} if missing else {},
            tables={
                "fates": [fate_row(fate, fates == fate, items.correct) for fate in FATES],
                **risk_coverage(gate, items, fates),
            },
            notes=notes(gate, items, fates, settings),
        )


EVALUATION = ApplyGate


def measured(gate: Gate, items: Scored, fates: np.ndarray, settings: Settings) -> dict[str, Estimate]:
    """Coverage here, precision as calibrated, and as found on the labelled rows."""
    n, kept, known = len(fates), fates == "keep", gate.calibration
    labelled = ~np.isnan(items.correct)
    right, counted = int((kept & (items.correct == 1)).sum()), int((kept & labelled).sum())
    found = {"coverage": _share(int(kept.sum()), n, settings.level, "no row")}
    if known is not None:
        found["expected_precision"] = Estimate(
            value=known.precision, interval=known.precision_interval, level=gate.level, n=known.kept,
            why=None if known.kept else "nothing was kept where the gate was chosen",
        )
    found["precision"] = _share(right, counted, settings.level, "no kept row has a label")
    scored = items.known & labelled
    if scored.any() and not gate.edges:
        columns = items.scores[scored], items.correct[scored]
        found["selective_auc"] = Estimate(
            value=float(selective_auc(*columns)), n=int(scored.sum()), level=settings.level,
            interval=bootstrap_interval(selective_auc, *columns, level=settings.level),
        )
    return found


def risk_coverage(gate: Gate, items: Scored, fates: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Accuracy and risk at each coverage of the labelled rows by score, the gate's own coverage among them."""
    scored = items.known & ~np.isnan(items.correct)
    if not scored.any():
        return {}
    curve = coverage_curve(items.scores[scored], items.correct[scored])
    rows = [
        {"coverage": share, "items": place, "accuracy": float(curve[place - 1]), "risk": 1 - float(curve[place - 1])}
        for share in COVERAGES for place in [max(1, round(share * len(curve)))]
    ]
    if (kept := int((scored & (fates == "keep")).sum())) and not gate.edges:
        accuracy = float(curve[kept - 1])
        rows.append({"coverage": kept / len(curve), "items": kept, "accuracy": accuracy, "risk": 1 - accuracy})
    return {"risk by coverage of the score": sorted(rows, key=lambda row: row["items"])}


def write_routed(rows: list[dict[str, Any]], routed: list[Routed], path: str) -> None:
    """The rows with `fate` and `fate_reason`, in their order; raises InputError where Parquet cannot hold them."""
    out = [{**row, "fate": fate, "fate_reason": reason} for row, (fate, reason) in zip(rows, routed, strict=True)]
    if path.endswith(".jsonl"):
        write_rows(path, out)
        return
    columns = list(dict.fromkeys(name for row in out for name in row))
    try:
        table = pa.table({name: [row.get(name) for row in out] for name in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"routed={path}: a column has values of several kinds ({error}); use a .jsonl name") from None
    pq.write_table(table, path, compression="zstd")


def notes(gate: Gate, items: Scored, fates: np.ndarray, settings: Settings) -> list[str]:
    """What a reader must know."""
    known, kept = gate.calibration, int((fates == "keep").sum())
    said = []
    if known is not None:
        what = "others than it was chosen on" if known.held_out else "those it was chosen on"
        promise = f"; {gate.required_precision:.0%} was promised" if gate.promised and gate.required_precision else ""
        said.append(f"expected_precision is of {known.n} rows of {known.data}, {what}{promise}")
        p = _unlike(known, kept, len(fates))
        if p < UNLIKE:
            said.append(
                f"the gate keeps {kept / len(fates):.0%} here and kept {known.coverage:.0%} there: these rows are not "
                "alike, so expect another precision; label some and choose the gate again"
            )
    if (fates == "label").any():
        said.append(
            "rows to be labelled are the uncertain ones, no random sample: do not estimate accuracy from them alone"
        )
    if gate.edges and (items.known & np.isnan(items.uncertainties)).any():
        said.append(f"rows without {gate.uncertainty} count as the most uncertain")
    return said


def _unlike(known: Calibration, kept: int, n: int) -> float:
    """Two-sided p-value of equal shares kept (normal approximation)."""
    pooled = (kept + known.kept) / (n + known.n)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / known.n)) if known.n else 0.0
    return math.erfc(abs(kept / n - known.kept / known.n) / error / math.sqrt(2)) if error else 1.0


def _share(hits: int, n: int, level: float, why: str) -> Estimate:
    return Estimate(
        value=hits / n if n else None, interval=proportion_interval(hits, n, level), level=level, n=n,
        why=None if n else why,
    )


def _none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
