"""`self-j`: a judge without a reference, as a score by which to answer or decline (Self-J, R14, 2409.00935).

The score is the expected value of the ten digits as the judge's first token. It is correlated with gold scores, beside
the same judge with the reference in sight where rows have one, and it is cut by a gate: below the threshold the system
declines.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, PositiveInt

from actors.gates import FATES, save_gate
from actors.votes import mean_scores
from actors.weighed_verdicts import expected_digit, log_sum_exp, names_letter
from pipelines.config import ConfigError
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.correlation import correlation
from pipelines.evaluation.data import about, write_rows
from pipelines.evaluation.estimates.calibration import fate_row
from pipelines.evaluation.estimates.gates import auc_interval, calibration_auc, choose_gate, coverage_curve
from pipelines.evaluation.estimates.scored import calibrated
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.evaluation.judges.comparisons import Comparison
from pipelines.evaluation.judges.judged import JudgeSettings, ask
from pipelines.steps.rows import InputError, Problem, check_text, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

DIGITS = "0123456789"
COVERAGES = (0.1, 0.25, 0.5, 0.75, 1.0)
SIDES = ("without reference", "with reference")


class Settings(Strict):
    """Settings of `self-j`."""

    good: float | None = Field(None, description="gold score from which a response is right; needed without `correct`")
    precision: float = Field(0.8, gt=0, lt=1, description="share of right responses among the kept, as promised")
    coverage: float | None = Field(None, gt=0, le=1, description="keep this share of the responses instead")
    label_share: float = Field(0.0, ge=0, le=1, description="share of all items that may go to people to be labelled")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of intervals, confidence of the gate")
    gate: str | None = Field(None, description="JSON file to write the gate to")
    scored: str | None = Field(None, description="JSONL to write the rows to, with their score")
    limit: PositiveInt | None = Field(None, description="rows used; all when empty")


class SelfJ(Evaluation):
    """Pearson with gold scores, selective accuracy, best of n, and the gate."""

    about = "a judge's reference-free digit score: correlation with gold, answers kept at a threshold (Self-J)"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Rows have `prompt`, `response`, `gold` and/or `correct`, and `digit_logprobs` where nobody is asked."""
        if judge is not None and judge.live is not None:
            raise ConfigError(f"{judge.name}: a live judge gives no digit's probability; name a checkpoint or a run")
        rows = read_items(data, settings, asked=judge is not None)
        sides = [await scores_of(rows, judge, side == SIDES[1]) for side in SIDES]
        scores, informed = sides
        known = ~np.isnan(scores)
        if not known.any():
            raise InputError(f"{data}: no response could be scored")
        correct = np.array([_right(row, settings.good) for row in rows], dtype=np.float64)
        gold = np.array([row.get("gold", np.nan) for row in rows], dtype=np.float64)
        gate = choose_gate(
            scores[known], correct[known], settings.precision, settings.level, settings.label_share, settings.coverage,
            scale=(0.0, 9.0),
        ).model_copy(update={"method": "self_j"})
        fates = np.array([gate.decide(None if np.isnan(score) else float(score)).fate for score in scores])
        if settings.gate is not None:
            who = (None, None) if judge is None else (judge.name, judge.weight_version)
            save_gate(calibrated(gate, data, fates == "keep", correct, False, *who), settings.gate)
        if settings.scored is not None:
            write_rows(settings.scored, [
                {**row, "score": float(s) if there else None, "correct": bool(right)}
                for row, s, there, right in zip(rows, scores, known, correct, strict=True)
            ])
        missing = int((~known).sum())
        return Result(
            **about("self-j", data, judge, settings), rows=len(rows),
            estimates={
                **_correlations(gold, (scores, informed), settings.level),
                **_selective(scores[known], correct[known], settings.level),
                **_best_of(rows, scores, gold, settings.level),
            },
            abstentions={"missing": missing} if missing else {},
            tables={
                "gate": [fate_row(fate, fates == fate, correct) for fate in FATES],
                "quality by fate": _quality(fates, gold),
            },
            notes=_notes(gate.thresholds[0], settings),
        )


EVALUATION = SelfJ


def read_items(data: str, settings: Settings, asked: bool) -> list[dict[str, Any]]:
    """The rows; raises InputError for one that cannot be scored or has nothing to compare its score with."""

    def convert(row: dict[str, Any], where: str) -> dict[str, Any]:
        for name in ("prompt", "response"):
            check_text(row.get(name), name)
        if "gold" in row and (isinstance(row["gold"], bool) or not isinstance(row["gold"], (int, float))):
            raise Problem("gold", f"is {kind(row['gold'])}; use a score")
        if "correct" in row and row["correct"] not in (0, 1):
            raise Problem("correct", f"is {kind(row['correct'])}; use true or false")
        if "correct" not in row and ("gold" not in row or settings.good is None):
            raise Problem("correct", "is missing; give it, or `gold` and good=SCORE from which a response is right")
        if not asked and not isinstance(row.get("digit_logprobs"), dict):
            raise Problem("digit_logprobs", "is needed where nobody is asked; or give --judge")
        return row

    return read_rows(data, convert, settings.limit)[0]


async def scores_of(rows: Sequence[dict[str, Any]], judging: "Judging | None", informed: bool) -> np.ndarray:
    """Expected digits [n] of the rows, with their reference in sight where `informed`; NaN where there is none."""
    if judging is None:
        column = "reference_digit_logprobs" if informed else "digit_logprobs"
        found = [expected_of_top(row[column]) if isinstance(row.get(column), dict) else None for row in rows]
    else:
        chosen = [row for row in rows if not informed or isinstance(row.get("reference"), str)]
        made = [
            Comparison(0, row["prompt"], row["response"], "", "tie",
                       meta={"reference": row["reference"]} if informed else {})
            for row in chosen
        ]
        judged, _ = await ask(judging, made, JudgeSettings(protocol="digits"), "self-j", count=1) if made else ([], [])
        by_row = {id(row): mean_scores(one.votes, 1)[0] for row, one in zip(chosen, judged, strict=True)}
        found = [by_row.get(id(row)) for row in rows]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def expected_of_top(top: Mapping[str, float]) -> float | None:
    """The expected digit of the most likely tokens {token: log-probability}; a digit that is absent counts nothing.

    Spellings of a digit are added (" 7", "7."); None where there is no digit among the tokens (R14, section 3).
    """
    said = {digit: [logp for token, logp in top.items() if names_letter(token, digit)] for digit in DIGITS}
    return expected_digit({digit: log_sum_exp(logps) for digit, logps in said.items() if logps})


def _right(row: dict[str, Any], good: float | None) -> bool:
    return bool(row["correct"]) if "correct" in row else good is not None and row["gold"] >= good


def _correlations(gold: np.ndarray, sides: tuple[np.ndarray, ...], level: float) -> dict[str, Estimate]:
    """Pearson and Spearman of each side with the gold scores, on the rows that have both."""
    found = {}
    for side, scores in zip(SIDES, sides, strict=True):
        both = ~np.isnan(scores) & ~np.isnan(gold)
        for measure in ("pearson", "spearman") if both.any() else ():
            x, y = scores[both], gold[both]
            value = correlation(measure, x, y)
            interval = None if value is None else bootstrap_interval(
                lambda a, b, m=measure: correlation(m, a, b), x, y, level=level, resamples=1000
            )
            found[f"{side}: {measure}"] = Estimate(
                value=value, interval=interval, level=level, n=int(both.sum()),
                why=None if value is not None else "one side does not vary",
            )
    return found


def _selective(scores: np.ndarray, correct: np.ndarray, level: float) -> dict[str, Estimate]:
    """Accuracy of the best-scored share of the responses, and the chance that a right one scores above a wrong one."""
    curve, n, right = coverage_curve(scores, correct), len(scores), int(correct.sum())
    found = {}
    for share in COVERAGES:
        place = max(1, round(share * n))
        accuracy = float(curve[place - 1])
        found[f"accuracy at {share:.0%} coverage"] = Estimate(
            value=accuracy, interval=proportion_interval(accuracy * place, place, level), level=level, n=place
        )
    area = calibration_auc(scores, correct)
    found["calibration_auc"] = Estimate(
        value=area, level=level, n=n, why="all right or all wrong" if area is None else None,
        interval=None if area is None else auc_interval(area, right, n - right, level),
    )
    return found


def _best_of(rows: Sequence[dict[str, Any]], scores: np.ndarray, gold: np.ndarray, level: float) -> dict[str, Estimate]:
    """Gold score of the best-scored response of each prompt with several, beside a random one and the best there is."""
    of: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if not np.isnan(scores[place]) and not np.isnan(gold[place]):
            of.setdefault(row["prompt"], []).append(place)
    several = [places for places in of.values() if len(places) > 1]
    if not several:
        return {}
    columns = {
        "best of n: gold": [float(gold[places][scores[places] == scores[places].max()].mean()) for places in several],
        "random of n: gold": [float(gold[places].mean()) for places in several],
        "oracle of n: gold": [float(gold[places].max()) for places in several],
    }
    return {
        name: Estimate(value=float(np.mean(values)), interval=mean_interval(values, level), level=level, n=len(values))
        for name, values in columns.items()
    }


def _quality(fates: np.ndarray, gold: np.ndarray) -> list[dict[str, Any]]:
    known = ~np.isnan(gold)
    return [
        {"fate": fate, "items": int(chosen.sum()), "mean gold": float(gold[chosen].mean())}
        for fate in FATES if (chosen := (fates == fate) & known).any()
    ]


def _notes(threshold: float | None, settings: Settings) -> list[str]:
    said = ["the score is the expected digit without a reference; a threshold belongs to this judge and this policy"]
    if threshold is None:
        said.append(f"no threshold can promise {settings.precision:.0%} here: everything is declined")
    else:
        said.append(f"keep responses that score at least {threshold:.4g}, decline the others")
    return said
