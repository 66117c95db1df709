"""Rows that hold a judge's score, perhaps its uncertainty, and whether the judged is right: what gates read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from actors.gates import Calibration, Gate
from pipelines.evaluation.data import name_of
from pipelines.evaluation.intervals import proportion_interval
from pipelines.manifest import source_hash
from pipelines.steps.rows import InputError, Problem, kind, read_rows


class Scored(NamedTuple):
    """The raw rows of a file with score, uncertainty and label of each; NaN where a row has none."""

    rows: list[dict[str, Any]]
    scores: np.ndarray
    uncertainties: np.ndarray
    correct: np.ndarray  # 1 right, 0 wrong

    @property
    def known(self) -> np.ndarray:
        """True [n] where there is a score."""
        return ~np.isnan(self.scores)


def read_scored(data: str, score: str, uncertainty: str | None = None, labels_needed: bool = True) -> Scored:
    """The rows of `data` with columns `score` and `uncertainty`; a row without a score is an abstention.

    What is right: `correct` (true or false), or `verdict` equal to `label`. A row whose `status` is not "ok" has no
    score, whatever its column says. Raises InputError that names file, row and field.
    """

    def convert(row: dict[str, Any], where: str) -> tuple[dict[str, Any], float | None, float | None, float | None]:
        abstained = row.get("status", "ok") != "ok"
        value, unsure = (_number(row, name) if name else None for name in (score, uncertainty))
        return row, None if abstained else value, unsure, _right(row, labels_needed)

    found, _ = read_rows(data, convert)
    if not any(value is not None for _, value, _, _ in found):
        numbers = sorted({name for row, *_ in found for name, value in row.items() if _is_number(value)})
        hint = f"; columns of numbers are {', '.join(numbers)}: set score=NAME" if numbers else ""
        raise InputError(f"{data}: no row has a score, column {score!r}{hint}")
    rows, scores, uncertainties, correct = zip(*found, strict=True)
    return Scored(list(rows), _floats(scores), _floats(uncertainties), _floats(correct))


def calibrated(
    gate: Gate, data: str, kept: np.ndarray, correct: np.ndarray, held_out: bool,
    judge: str | None = None, weight_version: str | None = None,
) -> Gate:
    """The gate with what it did: `kept` [n] and `correct` [n] of the labelled items, abstentions among them."""
    n, taken, right = len(kept), int(kept.sum()), int((kept & (correct == 1)).sum())
    return gate.model_copy(update={"calibration": Calibration(
        data=name_of(data), data_hash=source_hash(data), judge=judge, weight_version=weight_version,
        n=n, kept=taken, right=right, held_out=held_out,
        precision=right / taken if taken else None, precision_interval=proportion_interval(right, taken, gate.level),
        coverage=taken / n if n else None, coverage_interval=proportion_interval(taken, n, gate.level),
    )})


def _right(row: dict[str, Any], needed: bool) -> float | None:
    if "correct" in row:
        if row["correct"] not in (0, 1):
            raise Problem("correct", f"is {kind(row['correct'])}; use true or false")
        return float(row["correct"])
    if "label" in row:  # a verdict that is missing is an abstention, which is not right
        return float(str(row["label"]).strip().lower() == str(row.get("verdict", "")).strip().lower())
    if needed:
        raise Problem("correct", f"is missing, and so is label; the row has {', '.join(sorted(row)) or 'nothing'}")
    return None


def _number(row: dict[str, Any], name: str) -> float | None:
    if name not in row:
        return None
    if not _is_number(row[name]) or not np.isfinite(row[name]):
        raise Problem(name, f"is {kind(row[name])}; use a finite number, and null where it is not known")
    return float(row[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
