"""Whether a score means what it says: reliability, ranking, and what a gate at a required precision lets through."""

from typing import Any

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from actors.gates import FATES, Gate, save_gate
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.estimates.gates import (
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
from pipelines.evaluation.estimates.scored import calibrated, read_scored
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Settings(Strict):
    """Settings of `calibration`."""

    score: str = Field("score", description="column of the score")
    low: float = Field(0.0, description="score that means surely wrong: 0 for a probability or a digit, 1 for 1-10")
    high: float = Field(1.0, description="score that means surely right: 1 for a probability, 9 for a digit")
    bins: PositiveInt = Field(10, description="bins of the reliability table, of equal width")
    precision: float = Field(0.9, gt=0, lt=1, description="share of right items among the accepted, as promised")
    coverage: float | None = Field(None, gt=0, le=1, description="keep this share of the items, whatever is right")
    label_share: float = Field(0.0, ge=0, le=1, description="share of all items that may go to people to be labelled")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of intervals, confidence of the gate")
    gate: str | None = Field(None, description="JSON file to write the gate to")

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
        """Rows have the score, and `correct` or `verdict` and `label`; one without a score is an abstention."""
        items = read_scored(data, settings.score)
        scores, correct = items.scores[items.known], items.correct[items.known]
        outside = ~((settings.low <= scores) & (scores <= settings.high))
        if outside.any():
            raise InputError(
                f"{data}: {int(outside.sum())} scores are outside {settings.low:g}..{settings.high:g}, as "
                f"{scores[outside][0]:g}; set low and high to the ends of their scale"
            )
        confidences = (scores - settings.low) / (settings.high - settings.low)
        gate = choose_gate(
            scores, correct, settings.precision, settings.level, settings.label_share, settings.coverage,
            settings.score, (settings.low, settings.high),
        )
        decisions = np.array([
            gate.decide(float(score) if known else None).fate
            for score, known in zip(items.scores, items.known, strict=True)
        ])
        if settings.gate is not None:
            save_gate(calibrated(gate, data, decisions == "keep", items.correct, held_out=False), settings.gate)
        curve = coverage_curve(scores, correct)
        places = [max(1, round(share * len(curve))) for share in COVERAGES]
        missing = int((~items.known).sum())
        return Result(
            **about("calibration", data, None, settings), rows=len(items.rows),
            estimates=measured(scores, confidences, correct, settings),
            abstentions={"missing": missing} if missing else {},
            tables={
                "reliability": [row._asdict() for row in reliability(confidences, correct, settings.bins)],
                "accuracy by coverage": [
                    {"coverage": share, "items": place, "accuracy": float(curve[place - 1])}
                    for share, place in zip(COVERAGES, places, strict=True)
                ],
                "gate": [fate_row(what, decisions == what, items.correct) for what in FATES],
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


def fate_row(fate: str, chosen: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """How many items [n] are `chosen` for a fate, and how many of those with a label (not NaN) are right."""
    n, labels = int(chosen.sum()), correct[chosen & ~np.isnan(correct)]
    right = float(labels.mean()) if len(labels) else None
    return {"fate": fate, "items": n, "share": n / len(correct), "right": right}


def _notes(gate: Gate, settings: Settings) -> list[str]:
    threshold = gate.thresholds[0]
    said = [
        "ece is above 0 for few items even where scores are calibrated: compare it with ece_if_calibrated",
        "scores are not probabilities by being put on 0..1: ece, brier and reliability are of that reading, the areas "
        "and the gate of the order alone",
    ]
    if threshold is None:
        least = items_needed(settings.precision, settings.level)
        said.append(
            f"no threshold can promise {settings.precision:.0%} with confidence {settings.level:.0%} here: nothing is "
            f"kept (even if all are right it takes {least} items or more)"
        )
    elif gate.promised:
        said.append(
            f"keep scores from {threshold:g}: at least {settings.precision:.0%} of such items are right, with "
            f"confidence {settings.level:.0%}, while judge and judged stay the same"
        )
    else:
        said.append(f"keep scores from {threshold:g}: that share of the items, with no promise of how many are right")
    if gate.label_from is not None:
        said.append(f"scores from {gate.label_from:g} up to there, and abstentions, go to be labelled (see ppi)")
    return said
