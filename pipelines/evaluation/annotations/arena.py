"""Ratings of models from battles, with style taken out, as in Chatbot Arena (2403.04132) and its style control."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from pipelines.config import ConfigError
from pipelines.evaluation.annotations.bradley_terry import (
    Battles,
    fit,
    islands,
    make_battles,
    one_sided,
    ratings,
    relative_difference,
    resampled_fits,
)
from pipelines.evaluation.annotations.preferences import recorded_share
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.intervals import DEFINED_SHARE
from pipelines.steps.rows import InputError, Problem, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

# what the winner column may say: the first's part of the win
SHARES = {
    "a": 1.0, "b": 0.0, "tie": 0.5, "model_a": 1.0, "model_b": 0.0, "tie (bothbad)": 0.5,
}
LENGTHS = {"length_a": "len_baseline", "length_b": "len_model"}  # AlpacaEval's names


class Settings(Strict):
    """Settings of `arena`."""

    controls: list[str] = Field(
        default_factory=list, description="what to take out: NAME for columns NAME_a and NAME_b, or one of differences"
    )
    anchor: str | None = Field(None, description="the model whose rating is fixed; else the mean is")
    anchor_rating: float = 1000.0
    ridge: float = Field(0.0, ge=0, description="pulls strengths to their mean; 0 uses 0.01 only where it must")
    prompt: str | None = Field(None, description="column of prompts, which are drawn whole; else prompt_id or idx")
    level: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(200, ge=0, description="bootstrap fits; 0 for no intervals")
    seed: int = 0


class Battle(NamedTuple):
    """One row: `share` is None where nobody was named the winner."""

    first: str
    second: str
    share: float | None
    weight: float
    controls: tuple[float, ...]
    prompt: str | None


def read_battles(data: str, settings: Settings) -> list[Battle]:
    """Rows with model_a, model_b and winner, or with AlpacaEval's baseline, model and preference. Raises InputError."""

    def convert(row: dict[str, Any], where: str) -> Battle:
        recorded = "model_a" not in row and "baseline" in row
        names = ("baseline", "model") if recorded else ("model_a", "model_b")
        for name in names:
            if not isinstance(row.get(name), str):
                raise Problem(name, f"is {kind(row.get(name))}; use a name. The row has {', '.join(sorted(row))}")
        won = recorded_share(row) if recorded else _winner(row)
        share = 1 - won if recorded and won is not None else won  # the baseline is listed first
        weight = _number(row, "weight") if "weight" in row else 1.0
        if weight < 0:
            raise Problem("weight", f"is {weight:g}; a weight is 0 or more")
        controls = tuple(_control(row, name) for name in settings.controls)
        return Battle(row[names[0]], row[names[1]], share, weight, controls, _prompt(row, settings.prompt))

    return read_rows(data, convert)[0]


def battles_of(rows: list[Battle]) -> tuple[Battles, np.ndarray]:
    """Battles with a winner between two models, controls divided by their root mean square, which comes second [k].

    They are not centred: a swap of sides must negate a control. Raises ValueError for one that never varies.
    """
    used = [row for row in rows if row.share is not None and row.first != row.second]
    controls = np.array([row.controls for row in used], dtype=float).reshape(len(used), len(rows[0].controls))
    scale = np.sqrt((controls**2).mean(0)) if len(used) else np.ones(controls.shape[1])
    if (scale == 0).any():
        raise ValueError(f"control {int(np.flatnonzero(scale == 0)[0]) + 1} is 0 in every battle; leave it out")
    battles = make_battles(
        [(row.first, row.second) for row in used], [row.share for row in used if row.share is not None],
        [row.weight for row in used], controls / scale,
    )
    return battles, scale


def _winner(row: dict[str, Any]) -> float | None:
    winner = row.get("winner")
    if winner is None:
        return None
    if str(winner).strip().lower() not in SHARES:
        raise Problem("winner", f"is {winner!r:.40}; use A, B or tie, or leave it out where there is none")
    return SHARES[str(winner).strip().lower()]


def _control(row: dict[str, Any], name: str) -> float:
    sides = [side if side in row else LENGTHS.get(side, side) for side in (f"{name}_a", f"{name}_b")]
    if all(side in row for side in sides):
        first, second = (_number(row, side) for side in sides)
        if first < 0 or second < 0:
            raise Problem(sides[0], "is negative; give differences as one column instead")
        return float(relative_difference(first, second))
    if name not in row:
        raise Problem(name, f"is missing, and so are {name}_a and {name}_b; the row has {', '.join(sorted(row))}")
    return _number(row, name)


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Problem(name, f"is {'not finite' if isinstance(value, float) else kind(value)}; use a number")
    return float(value)


def _prompt(row: dict[str, Any], column: str | None) -> str | None:
    if column is not None and row.get(column) is None:
        raise Problem(column, f"is missing; the row has {', '.join(sorted(row))}")
    found = next((name for name in ([column] if column else ["prompt_id", "idx"]) if name in row), None)
    return None if found is None else str(row[found])


class Arena(Evaluation):
    """Bradley-Terry ratings of all models that met."""

    about = "Bradley-Terry ratings of models from battles, length and style taken out; bootstrap intervals"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Raises InputError, ConfigError."""
        rows = read_battles(data, settings)
        try:
            battles, scale = battles_of(rows)
        except ValueError as error:
            raise InputError(f"{data}: {error}") from error
        _check(data, battles, settings)
        try:
            found = fit(battles, settings.ridge)
        except ValueError as error:
            raise InputError(f"{data}: {error}") from error
        prompts = [row.prompt for row in rows if row.share is not None and row.first != row.second]
        clusters = prompts if prompts and all(prompt is not None for prompt in prompts) else None
        drawn = resampled_fits(battles, found, clusters, settings.resamples, settings.seed)
        return Result(
            **about("arena", data, None, settings), rows=len(rows),
            **_estimates(battles, found, drawn, settings),
            abstentions=dict(Counter("missing" for row in rows if row.share is None)),
            notes=_notes(rows, battles, found.ridge, scale, clusters is not None, settings),
        )


def _check(data: str, battles: Battles, settings: Settings) -> None:
    if len(battles.players) < 2:
        raise InputError(f"{data}: no battle between two models has a winner or a tie")
    groups = islands(battles)
    if len(groups) > 1:
        shown = "; ".join(", ".join(group[:4]) + (", ..." if len(group) > 4 else "") for group in groups[:4])
        raise InputError(f"{data}: {len(groups)} groups of models never met, so no rating compares them: {shown}")
    if settings.anchor is not None and settings.anchor not in battles.players:
        raise ConfigError(f"anchor={settings.anchor} is in no battle; there are {', '.join(battles.players)}")


def _estimates(battles: Battles, found: Any, drawn: np.ndarray, settings: Settings) -> dict[str, Any]:
    n = len(battles.players)
    anchor = None if settings.anchor is None else battles.players.index(settings.anchor)
    rating = ratings(found.strength, anchor, settings.anchor_rating)
    spread = ratings(drawn[:, :n], anchor, settings.anchor_rating)
    tail = (1 - settings.level) / 2

    def interval(values: np.ndarray) -> tuple[float, float] | None:
        known = values[np.isfinite(values)]
        if not len(known) or len(known) < DEFINED_SHARE * len(values):
            return None
        return float(np.quantile(known, tail)), float(np.quantile(known, 1 - tail))

    fought = np.bincount(battles.first, minlength=n) + np.bincount(battles.second, minlength=n)
    total = np.bincount(battles.first, battles.weight, n) + np.bincount(battles.second, battles.weight, n)
    won = np.bincount(battles.first, battles.weight * battles.share, n)
    won = won + np.bincount(battles.second, battles.weight * (1 - battles.share), n)
    estimates, table = {}, []
    for i in sorted(range(n), key=lambda i: -rating[i]):
        name = battles.players[i]
        ends = None if i == anchor else interval(spread[:, i])
        estimates[name] = Estimate(
            value=float(rating[i]), interval=ends, level=settings.level, n=int(fought[i])
        )
        share = 100 * float(won[i] / total[i]) if total[i] else None
        table.append({"model": name, "rating": float(rating[i]), "battles": int(fought[i]), "win_rate": share})
    for k, name in enumerate(settings.controls):
        estimates[f"effect of {name}"] = Estimate(
            value=float(found.effect[k]), interval=interval(drawn[:, n + k]), level=settings.level,
            n=len(battles.first),
        )
    return {"estimates": estimates, "tables": {"models": table}}


def _notes(
    rows: list[Battle], battles: Battles, ridge: float, scale: np.ndarray, by_prompt: bool, settings: Settings
) -> list[str]:
    middle = f"{settings.anchor} is" if settings.anchor else "the mean is"
    notes = [f"400 points are odds of ten to one; {middle} {settings.anchor_rating:g}; a tie is half a win of both"]
    alone = one_sided(battles)
    if alone and not settings.ridge:
        notes.append(
            f"never beaten, or never a winner, among the others: {', '.join(alone[:8])}; a ridge of {ridge:g} keeps "
            "ratings finite, and theirs say little but the order"
        )
    elif settings.ridge:
        notes.append(f"strengths are pulled to their mean by a ridge of {settings.ridge:g}")
    if settings.resamples:
        notes.append(f"intervals: {settings.resamples} fits to {'prompts' if by_prompt else 'battles'} drawn again")
    if settings.controls:
        sizes = ", ".join(f"{name} {size:.4g}" for name, size in zip(settings.controls, scale, strict=True))
        notes.append(f"effects are log-odds per root mean square of the difference ({sizes}); ratings are without them")
    own = sum(row.first == row.second for row in rows)
    if own:
        notes.append(f"{own} battles of a model against itself are left out")
    return notes


EVALUATION = Arena
