"""Recorded preferences of AlpacaEval's shape: one row is one model's response against a baseline's, already judged."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipelines.steps.rows import InputError, Problem, kind, read_rows

COLUMNS = ("idx", "baseline", "model", "preference", "len_baseline", "len_model")


class Annotation(NamedTuple):
    """One judged comparison. `share` is the model's part of the win, 0 to 1; None where there is no preference."""

    where: str
    idx: str
    baseline: str
    model: str
    share: float | None
    len_baseline: float | None
    len_model: float | None


@dataclass(frozen=True)
class Annotations:
    """All annotations of one model, in the order of the file: every array is [rows], NaN where something is missing."""

    model: str
    baseline: str
    idx: np.ndarray
    share: np.ndarray
    len_baseline: np.ndarray
    len_model: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        """Which rows have a preference; the others are abstentions."""
        return np.isfinite(self.share)


def share_of(preference: float) -> float:
    """The model's part of the win from a recorded preference: 1 the baseline's, 2 the model's, 1.5 or 0 a draw.

    Values between 1 and 2 are the judge's probability (AlpacaEval, alpaca_eval_gpt4_turbo_fn weighs the token's
    log-probabilities); 0 is what AlpacaEval 1 wrote for a draw. Raises ValueError for anything else.
    """
    if preference == 0:
        return 0.5
    if not 1 <= preference <= 2:
        raise ValueError(f"is {preference:g}; a preference is between 1 (baseline) and 2 (model), or 0 for a draw")
    return preference - 1


def recorded_share(row: dict[str, Any]) -> float | None:
    """The model's part of the win from a row's `preference`, None where there is none; raises Problem."""
    preference = _number(row, "preference")
    try:
        return None if preference is None else share_of(preference)
    except ValueError as error:
        raise Problem("preference", str(error)) from None


def instruction_of(idx: Any) -> str:
    """An instruction's number or name as text; raises Problem. 3.0, as some writers of Parquet leave it, is 3."""
    if isinstance(idx, float) and idx.is_integer():
        return str(int(idx))
    if not isinstance(idx, (int, str)) or isinstance(idx, bool):
        raise Problem("idx", f"is {kind(idx)}; use the instruction's number or name")
    return str(idx)


def read_annotations(data: str, lengths: bool) -> list[Annotation]:
    """The rows of an annotation file; `lengths` says whether the two lengths are needed.

    Raises InputError that names file, row and field: also for a model that is judged twice on one instruction.
    """

    def convert(row: dict[str, Any], where: str) -> Annotation:
        for name in ("baseline", "model"):
            if not isinstance(row.get(name), str):
                raise Problem(name, f"is {kind(row.get(name))}; use a name. The row has {', '.join(sorted(row))}")
        idx = instruction_of(row.get("idx"))
        found = {name: _number(row, name) for name in ("len_baseline", "len_model")}
        unmeasured = [name for name in ("len_baseline", "len_model") if found[name] is None]
        if lengths and unmeasured:
            raise Problem(unmeasured[0], "is missing; length control needs both lengths in characters")
        share = recorded_share(row)
        return Annotation(
            where, idx, row["baseline"], row["model"], share, found["len_baseline"], found["len_model"]
        )

    rows = read_rows(data, convert)[0]
    if all(row.share is None for row in rows):
        raise InputError(f"{data}: preference: no row has one; {', '.join(COLUMNS)} are the columns of this shape")
    seen: dict[tuple[str, str, str], str] = {}
    for row in rows:
        first = seen.setdefault((row.model, row.baseline, row.idx), row.where)
        if first != row.where:
            raise InputError(f"{row.where}: idx: {row.model} on instruction {row.idx} is in {first} too; keep one")
    return rows


def by_model(rows: Iterable[Annotation]) -> list[Annotations]:
    """The annotations model by model, by name; raises InputError for a model with two baselines."""
    held: dict[str, list[Annotation]] = {}
    for row in rows:
        held.setdefault(row.model, []).append(row)
    return [_together(model, held[model]) for model in sorted(held)]


def abstentions_of(rows: Iterable[Annotation]) -> dict[str, int]:
    """Rows without a preference by reason."""
    return dict(Counter("missing" for row in rows if row.share is None))


def _together(model: str, rows: list[Annotation]) -> Annotations:
    other = next((row for row in rows if row.baseline != rows[0].baseline), None)
    if other is not None:
        raise InputError(
            f"{other.where}: baseline: {model} is against {other.baseline} here and against {rows[0].baseline} in "
            f"{rows[0].where}; a win rate is against one baseline, so give each its own file"
        )

    def column(name: str) -> np.ndarray:
        return np.array([math.nan if getattr(row, name) is None else getattr(row, name) for row in rows], dtype=float)

    idx = np.array([row.idx for row in rows])
    return Annotations(
        model, rows[0].baseline, idx, column("share"), column("len_baseline"), column("len_model")
    )


def _number(row: dict[str, Any], name: str) -> float | None:
    """A number; None where it is missing, which Parquet may write as NaN."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Problem(name, f"is {kind(value)}; use a number")
    return None if math.isnan(value) else float(value)
