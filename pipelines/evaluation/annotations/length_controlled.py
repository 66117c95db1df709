"""AlpacaEval 2's length-controlled win rate (2404.04475) from recorded annotations: reading, and who is fitted how."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from pipelines.config import ConfigError
from pipelines.evaluation.annotations.length_control import (
    Panel,
    Published,
    fit_effects,
    fit_jointly,
    length_controlled_win_rate,
    length_feature,
    recover_difficulties,
    win_rate_error,
)
from pipelines.evaluation.annotations.preferences import (
    Annotations,
    abstentions_of,
    by_model,
    instruction_of,
    read_annotations,
)
from pipelines.evaluation.annotations.win_rate import win_rate
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, name_of, read_columns
from pipelines.steps.rows import InputError, Problem, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

ENOUGH = 10  # published models to recover difficulties from; from fewer, a joint fit is nearer
EFFECTS = ("lc_coef_length", "lc_coef_difficulty", "lc_coef_model")


class Settings(Strict):
    """Settings of `length-controlled`. Of difficulties and leaderboard, the first that is given is used."""

    difficulties: str | None = Field(None, description="file of idx and difficulty (or the official CSV)")
    leaderboard: str | None = Field(None, description="file of model and lc_coef_length, _difficulty, _model")
    annotations: str | None = Field(None, description="annotations of the leaderboard's models, where data has others")
    save: str | None = Field(None, description="JSONL file to write the difficulties to, for difficulties=FILE")
    level: float = Field(0.95, gt=0, lt=1)


class Entry(NamedTuple):
    """A leaderboard's row: effects [3] in the order of EFFECTS, None where they are not published."""

    win_rate: float | None
    effects: np.ndarray | None


class Fitted(NamedTuple):
    """One model's effects [3], and difficulties [n] of all instructions that they were fitted with."""

    effects: np.ndarray
    difficulty: np.ndarray


def read_leaderboard(path: str) -> dict[str, Entry]:
    """Published length-controlled win rates and effects by model. Raises InputError."""
    optional = dict.fromkeys((*EFFECTS, "length_controlled_winrate"), "number")
    entries = {}
    for row in read_columns(path, {"model": "text"}, optional):
        known = [row[name] for name in EFFECTS if name in row and np.isfinite(row[name])]
        effects = np.array(known) if len(known) == len(EFFECTS) else None
        rate = row.get("length_controlled_winrate")
        entries[row["model"]] = Entry(rate if rate is not None and np.isfinite(rate) else None, effects)
    return entries


def read_difficulties(path: str) -> dict[str, float]:
    """Difficulty by instruction, from columns idx (or index) and difficulty (or instruction_difficulty).

    In CSV, as the official table is, the first column is the instruction's number. Raises InputError.
    """
    if path.lower().endswith(".csv"):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
        try:
            return {line[0]: float(line[-1]) for line in lines[1:]}
        except ValueError as error:
            raise InputError(f"{path}: a difficulty is no number ({error})") from error

    def convert(row: dict[str, Any], where: str) -> tuple[str, float]:
        idx = instruction_of(row.get("idx", row.get("index")))
        value = row.get("difficulty", row.get("instruction_difficulty"))
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
            raise Problem("difficulty", f"is {kind(value)}; use a number")
        return idx, float(value)

    return dict(read_rows(path, convert)[0])


def panel_of(models: list[Annotations]) -> tuple[Panel, np.ndarray]:
    """Models by instructions, and the instructions' names [n]."""
    names = np.unique(np.concatenate([one.idx for one in models]))
    share, length = (np.zeros((len(models), len(names))) for _ in range(2))
    judged = np.zeros((len(models), len(names)), dtype=bool)
    for row, one in enumerate(models):
        at = np.searchsorted(names, one.idx)
        judged[row, at] = one.judged
        share[row, at] = np.where(one.judged, one.share, 0)
        length[row, at] = length_feature(one.len_baseline, one.len_model)
    return Panel(share, length, judged), names


def fit_all(
    panel: Panel, models: list[str], wanted: list[str], leaderboard: dict[str, Entry]
) -> tuple[dict[str, Fitted], np.ndarray, bool]:
    """Every wanted model's own effects, the difficulties [n] of all that is known, and whether they were recovered.

    A model's difficulties come from the published effects of the other models of the panel alone, never from its own.
    With fewer than ENOUGH of them everything is fitted jointly, where published win rates of models that are not
    wanted still bind the difficulties.
    """
    known = np.array([name in leaderboard and leaderboard[name].effects is not None for name in models])
    effects = np.array([leaderboard[name].effects if k else np.zeros(3) for name, k in zip(models, known, strict=True)])
    row_of = {name: row for row, name in enumerate(models)}
    if known.sum() - any(known[row_of[name]] for name in wanted) < ENOUGH:
        rows = np.array([row_of[name] for name in wanted])
        fitted, difficulty = fit_jointly(panel.of(rows), _published(leaderboard, set(wanted)))
        return {name: Fitted(one, difficulty) for name, one in zip(wanted, fitted, strict=True)}, difficulty, False
    of_all = recover_difficulties(panel.of(known), effects[known])
    found = {}
    for name in wanted:
        row, others = row_of[name], known.copy()
        others[row] = False
        difficulty = recover_difficulties(panel.of(others), effects[others], of_all) if known[row] else of_all
        found[name] = Fitted(_fit_row(panel, row, difficulty), difficulty)
    return found, of_all, True


def _fit_row(panel: Panel, row: int, difficulty: np.ndarray) -> np.ndarray:
    judged = panel.judged[row]
    return fit_effects(panel.share[row, judged], panel.length[row, judged], difficulty[judged])


def _published(leaderboard: dict[str, Entry], without: set[str]) -> Published | None:
    rows = [(entry.effects, entry.win_rate) for name, entry in leaderboard.items() if name not in without]
    rows = [row for row in rows if row[0] is not None and row[1] is not None and row[0].any()]
    return Published(np.array([row[0] for row in rows]), np.array([row[1] for row in rows])) if rows else None


class LengthControlled(Evaluation):
    """Win rate of every model in a file of annotations, had its responses the baseline's length."""

    about = "length-controlled win rate (AlpacaEval 2) of models against a baseline, from recorded preferences"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Raises InputError, ConfigError."""
        rows = read_annotations(data, lengths=True)
        models = by_model(rows)
        names = {one.model for one in models}
        if settings.annotations is not None:
            models += [one for one in by_model(read_annotations(settings.annotations, True)) if one.model not in names]
        leaderboard = read_leaderboard(settings.leaderboard) if settings.leaderboard else {}
        baseline = _one_baseline(data, models, leaderboard)
        fought = [one for one in models if one.model != baseline and one.judged.any()]
        wanted = [one.model for one in fought if one.model in names]
        if not wanted:
            raise InputError(f"{data}: model: only the baseline is judged; a win rate is of another model")
        panel, instructions = panel_of(fought)
        if settings.difficulties is not None:
            of_all = _lookup(settings.difficulties, instructions)
            found = {
                one.model: Fitted(_fit_row(panel, row, of_all), of_all)
                for row, one in enumerate(fought) if one.model in names
            }
            how = f"difficulties are those of {name_of(settings.difficulties)}"
        else:
            found, of_all, recovered = fit_all(panel, [one.model for one in fought], wanted, leaderboard)
            how = _how(recovered, len(wanted), settings)
        if settings.save is not None:
            _save(settings.save, instructions, of_all)
        estimates, tables = _estimates(
            [one for one in models if one.model in names], found, panel, instructions, fought, leaderboard, settings
        )
        return Result(
            **about("length-controlled", data, None, settings), rows=len(rows),
            estimates=estimates, abstentions=abstentions_of(rows), tables=tables,
            notes=[
                f"percent, against {baseline}, at equal lengths; intervals are over instructions and take the "
                "difficulties for known", how,
            ],
        )


def _one_baseline(data: str, models: list[Annotations], leaderboard: dict[str, Entry]) -> str:
    baselines = sorted({one.baseline for one in models})
    if len(baselines) > 1:
        raise InputError(f"{data}: baseline: there are {', '.join(baselines)}; give each its own file")
    entry = leaderboard.get(baselines[0])
    if leaderboard and (entry is None or (entry.effects is not None and entry.effects.any())):
        raise ConfigError(
            f"leaderboard: its coefficients are not against {baselines[0]}, which it would list with coefficients of 0"
        )
    return baselines[0]


def _lookup(path: str, instructions: np.ndarray) -> np.ndarray:
    known = read_difficulties(path)
    missing = [name for name in instructions if name not in known]
    if missing:
        raise InputError(f"{path}: idx: {len(missing)} instructions of the data are not here, {missing[0]} say")
    return np.array([known[name] for name in instructions])


def _how(recovered: bool, models: int, settings: Settings) -> str:
    if recovered:
        return (
            "difficulties are recovered from the published effects of the other models; each model's own effects are "
            "fitted to its annotations, and its published ones are not used"
        )
    fewer = "" if settings.leaderboard is None else (
        f"fewer than {ENOUGH} models of the leaderboard are annotated here (annotations=FILE names more), so "
    )
    few = " few models tell little about difficulties: expect errors of some points" if models < ENOUGH else ""
    return f"{fewer}difficulties are fitted jointly with the effects of {models} models;{few}".rstrip(";")


def _save(path: str, instructions: np.ndarray, difficulty: np.ndarray) -> None:
    pairs = zip(instructions.tolist(), difficulty.tolist(), strict=True)
    lines = [json.dumps({"idx": int(idx) if idx.isdigit() else idx, "difficulty": d}) + "\n" for idx, d in pairs]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _estimates(
    models: list[Annotations], found: dict[str, Fitted], panel: Panel, instructions: np.ndarray,
    fought: list[Annotations], leaderboard: dict[str, Entry], settings: Settings,
) -> tuple[dict[str, Estimate], dict[str, list[dict[str, Any]]]]:
    """Estimates, best first, and tables: each model beside what is published, its effects, and how far all are off."""
    row_of = {one.model: row for row, one in enumerate(fought)}
    entries, own_effects, from_published = [], [], []
    for one in models:
        plain = win_rate(one.share)
        line: dict[str, Any] = {"model": one.model, "win_rate": plain.win_rate}
        if one.model not in found:  # the baseline itself, or nobody was judged
            own = one.model == one.baseline
            estimate = Estimate(
                value=50.0 if own else None, level=settings.level, n=plain.n,
                why=None if own else "no row has a preference",
            )
            entries.append((estimate, {**line, "controlled": estimate.value}))
            continue
        effects, difficulty = found[one.model]
        row, here = row_of[one.model], np.searchsorted(instructions, one.idx)
        value = length_controlled_win_rate(effects, difficulty[here])
        judged = panel.judged[row]
        error = win_rate_error(panel.share[row, judged], panel.length[row, judged], difficulty[judged], effects)
        reach = None if error is None else -float(ndtri((1 - settings.level) / 2)) * error
        interval = None if reach is None else (max(0.0, value - reach), min(100.0, value + reach))
        line["controlled"] = value
        fitted = {"model": one.model, "standard_error": error}
        fitted |= dict(zip(("effect_length", "effect_difficulty", "effect_model"), effects.tolist(), strict=True))
        entry = leaderboard.get(one.model)
        if entry is not None and entry.win_rate is not None:
            line |= {"published": entry.win_rate, "difference": value - entry.win_rate}
            if entry.effects is not None:
                rate = length_controlled_win_rate(entry.effects, difficulty[here])
                fitted["with_published_effects"] = rate
                from_published.append(rate - entry.win_rate)
        own_effects.append(fitted)
        entries.append((Estimate(value=value, interval=interval, level=settings.level, n=plain.n), line))
    entries.sort(key=lambda pair: -(pair[0].value or 0.0))
    lines = [line for _, line in entries]
    tables = {"models": lines, "effects": own_effects}
    from_own = [line["difference"] for line in lines if "difference" in line]
    ways = {"own effects": from_own, "published effects": from_published}
    summaries = [_summary(way, np.abs(differences)) for way, differences in ways.items() if differences]
    if summaries:
        tables["against the leaderboard"] = summaries
    return {str(line["model"]): estimate for estimate, line in entries}, tables


def _summary(way: str, errors: np.ndarray) -> dict[str, Any]:
    """How far win rates from these effects are from what is published, in points."""
    return {
        "win rates from": way, "models": len(errors), "median": float(np.median(errors)),
        "90%": float(np.quantile(errors, 0.9)), "largest": float(errors.max()),
        "within 2": float(np.mean(errors <= 2)),
    }


EVALUATION = LengthControlled
