"""Whether a score means what it says: reliability, ranking, and what a gate at a required precision lets through."""

import math
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, read_columns
from pipelines.evaluation.estimates.gates import (
    Gate,
    auc_interval,
    brier,
    calibration_auc,
    calibration_error,
    calibration_error_by_chance,
    choose_gate,
    coverage_curve,
    items_needed,
    reliability,
    selective_auc,
)
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Settings(Strict):
    """Settings of `calibration`."""

    low: float = Field(0.0, description="score that means surely wrong: 0 for a probability or a digit, 1 for 1-10")
    high: float = Field(1.0, description="score that means surely right: 1 for a probability, 9 for a digit")
    bins: PositiveInt = Field(10, description="bins of the reliability table, of equal width")
    precision: float = Field(0.9, gt=0, lt=1, description="share of right items among the accepted, as promised")
    gold_share: float = Field(0.0, ge=0, le=1, description="share of all items that may go to gold labelling")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of intervals, confidence of the gate")

    @model_validator(mode="after")
    def _scale(self) -> "Settings":
        if self.high <= self.low:
            raise ValueError(f"high: {self.high:g} is not above low={self.low:g}; give the ends of the score's scale")
        return self


class Calibration(Evaluation):
    """ECE, Brier score, calibration-AUC, selective-AUC and a gate of recorded scores."""

    about = "whether scores mean what they say, and how many items a gate accepts at a required precision"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: Any, settings: Settings) -> Result:
        """Rows have `correct` and `score`; one without a score is an abstention."""
        rows = read_columns(data, {"correct": "flag"}, {"score": "number"})
        known = [row for row in rows if "score" in row]
        if not known:
            raise InputError(f"{data}: no row has a score")
        scores = np.array([row["score"] for row in known], dtype=np.float64)
        outside = ~((settings.low <= scores) & (scores <= settings.high))
        if outside.any():
            raise InputError(
                f"{data}: {int(outside.sum())} scores are outside {settings.low:g}..{settings.high:g}, as "
                f"{scores[outside][0]:g}; set low and high to the ends of their scale"
            )
        correct = np.array([row["correct"] for row in known], dtype=np.float64)
        confidences = (scores - settings.low) / (settings.high - settings.low)
        gate = choose_gate(scores, correct, settings.precision, settings.level, settings.gold_share)
        decisions = [gate.decide(float(score)) for score in scores] + [gate.decide(None)] * (len(rows) - len(known))
        labels = np.array([*correct, *(row["correct"] for row in rows if "score" not in row)], dtype=np.float64)
        curve = coverage_curve(scores, correct)
        places = [max(1, round(share * len(curve))) for share in COVERAGES]
        missing = len(rows) - len(known)
        return Result(
            **about("calibration", data, None, settings), rows=len(rows),
            estimates=measured(scores, confidences, correct, settings),
            abstentions={"missing": missing} if missing else {},
            tables={
                "reliability": [row._asdict() for row in reliability(confidences, correct, settings.bins)],
                "accuracy by coverage": [
                    {"coverage": share, "items": place, "accuracy": float(curve[place - 1])}
                    for share, place in zip(COVERAGES, places, strict=True)
                ],
                "gate": [_fate(what, np.array(decisions) == what, labels) for what in ("accept", "gold", "abstain")],
            },
            notes=_notes(gate, settings),
        )


EVALUATION = Calibration


def measured(
    scores: np.ndarray, confidences: np.ndarray, correct: np.ndarray, settings: Settings
) -> dict[str, Estimate]:
    """The numbers of `scores` [n], `confidences` [n] (the scores on 0..1) and `correct` [n]."""
    n, level = len(scores), settings.level
    area, right = calibration_auc(scores, correct), int(correct.sum())
    order = float(selective_auc(scores, correct))
    ends = bootstrap_interval(selective_auc, scores, correct, level=level)
    error = calibration_error(confidences, correct, settings.bins)
    return {
        "accuracy": Estimate(
            value=float(correct.mean()), interval=proportion_interval(float(correct.sum()), n, level), level=level, n=n
        ),
        "mean_confidence": Estimate(
            value=float(confidences.mean()), interval=mean_interval(confidences, level), level=level, n=n
        ),
        "ece": Estimate(value=error, level=level, n=n),
        "ece_if_calibrated": Estimate(
            value=calibration_error_by_chance(confidences, settings.bins), level=level, n=n
        ),
        "brier": Estimate(
            value=float(brier(confidences, correct)), level=level, n=n,
            interval=mean_interval((confidences - correct) ** 2, level),
        ),
        "calibration_auc": Estimate(
            value=area, level=level, n=n, why="all right or all wrong" if area is None else None,
            interval=None if area is None else auc_interval(area, right, n - right, level),
        ),
        "selective_auc": Estimate(value=order, interval=ends, level=level, n=n),
        "aurc": Estimate(value=1 - order, interval=ends and (1 - ends[1], 1 - ends[0]), level=level, n=n),
    }


def _fate(what: str, chosen: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    n = int(chosen.sum())
    return {
        "decision": what, "items": n, "share": n / len(labels), "right": float(labels[chosen].mean()) if n else None
    }


def _notes(gate: Gate, settings: Settings) -> list[str]:
    threshold = gate.boundary.thresholds[0]
    said = [
        "ece is above 0 for few items even where scores are calibrated: compare it with ece_if_calibrated",
        "scores are not probabilities by being put on 0..1: ece, brier and reliability are of that reading, the areas "
        "and the gate of the order alone",
    ]
    if math.isinf(threshold):
        least = items_needed(settings.precision, settings.level)
        said.append(
            f"no threshold can promise {settings.precision:.0%} with confidence {settings.level:.0%} here: nothing is "
            f"accepted (even if all are right it takes {least} items or more)"
        )
    else:
        said.append(
            f"accept scores from {threshold:g}: at least {settings.precision:.0%} of such items are right, with "
            f"confidence {settings.level:.0%}, while judge and judged stay the same"
        )
    if gate.gold_from is not None:
        said.append(f"scores from {gate.gold_from:g} up to there, and abstentions, go to gold labelling (see ppi)")
    return said
