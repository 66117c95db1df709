"""Whether a boundary in score and uncertainty accepts more right items than one threshold does, on held-out items."""

from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from actors.gates import Gate, save_gate
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.estimates.boundary import SLACK, fit_cuts, fit_isotonic, fit_single
from pipelines.evaluation.estimates.gates import Boundary, label_floor
from pipelines.evaluation.estimates.scored import calibrated, read_scored
from pipelines.evaluation.intervals import Interval, bootstrap_interval, proportion_interval
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

RULES = ("single", "cuts", "isotonic")


class Settings(Strict):
    """Settings of `uncertainty-boundary`."""

    score: str = Field("score", description="column of the score")
    uncertainty: str = Field("uncertainty", description="column of the uncertainty")
    precision: float = Field(0.9, gt=0, lt=1, description="share of right items among the accepted that is required")
    levels: PositiveInt = Field(5, description="levels of uncertainty, of about equal size; equal edges merge")
    bins: PositiveInt = Field(10, description="score bins in each level, of about equal size")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: NonNegativeInt = Field(0, description="draws the half that the rules are fitted on")
    gate: str | None = Field(None, description="JSON file to write the gate of `rule` to")
    rule: Literal["single", "cuts", "isotonic"] = Field("cuts", description="which of the three the gate is")
    label_share: float = Field(0.0, ge=0, le=1, description="share of all items that may go to people to be labelled")


class UncertaintyBoundary(Evaluation):
    """R17: exact cuts, isotonic probabilities and one threshold at a required precision."""

    about = "recall at a required precision of a boundary in score and uncertainty, beside one threshold"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: Any, settings: Settings) -> Result:
        """Rows have score, uncertainty, and `correct` or `verdict` and `label`; without both it is an abstention."""
        found = read_scored(data, settings.score, settings.uncertainty)
        known = found.known & ~np.isnan(found.uncertainties)
        items = np.stack([found.scores, found.uncertainties, found.correct], axis=1)[known]
        if len(items) < 4:
            raise InputError(f"{data}: {len(items)} rows have score and uncertainty; two halves need more")
        order = np.random.default_rng(settings.seed).permutation(len(items))
        fit, held = items[order[: len(items) // 2]], items[order[len(items) // 2 :]]
        if not held[:, 2].any() or not fit[:, 2].any():
            raise InputError(f"{data}: a half has no row with correct = true, so recall is of nothing")
        rules = fit_rules(fit, settings)
        estimates = {}
        for name, rule in rules.items():
            estimates |= measured(name, rule, held, settings.level)
        gains = {name: gain(rules[name], held, settings.level) for name in RULES[1:]}
        estimates |= {f"{name}: recall gain at equal precision": found for name, found in gains.items()}
        if settings.gate is not None:
            save_gate(chosen_gate(data, rules[settings.rule], fit, held, settings), settings.gate)
        missing = int((~known).sum())
        return Result(
            **about("uncertainty-boundary", data, None, settings), rows=len(found.rows),
            estimates=estimates, abstentions={"missing": missing} if missing else {},
            tables={"thresholds": [row for name, rule in rules.items() for row in _levels(name, rule)]},
            notes=_notes(estimates, gains, len(fit), len(held), settings),
        )


EVALUATION = UncertaintyBoundary


def fit_rules(items: np.ndarray, settings: Settings) -> dict[str, Boundary]:
    """The three rules fitted on `items` [n, 3]: score, uncertainty, correct."""
    scores, uncertainties, correct = items.T
    return {
        "single": fit_single(scores, correct, settings.precision),
        "cuts": fit_cuts(scores, uncertainties, correct, settings.precision, settings.levels, settings.bins),
        "isotonic": fit_isotonic(scores, uncertainties, correct, settings.precision, settings.levels),
    }


def chosen_gate(data: str, rule: Boundary, fit: np.ndarray, held: np.ndarray, settings: Settings) -> Gate:
    """The rule as a gate, with what it did on the `held` items [n, 3] that it was not fitted on."""
    gate = Gate(
        method=settings.rule, score=settings.score, uncertainty=settings.uncertainty if rule.edges else None,
        thresholds=rule.floors(), edges=rule.edges, required_precision=settings.precision, level=settings.level,
        label_from=label_floor(fit[:, 0], rule.accepts(fit[:, 0], fit[:, 1]), settings.label_share),
    )
    return calibrated(gate, data, rule.accepts(held[:, 0], held[:, 1]), held[:, 2], held_out=True)


def measured(name: str, rule: Boundary, items: np.ndarray, level: float) -> dict[str, Estimate]:
    """Recall and precision of a rule on items [n, 3] that it was not fitted on, with Wilson's intervals."""
    scores, uncertainties, correct = items.T
    accepted = rule.accepts(scores, uncertainties)
    found = {}
    for what, of in (("recall", correct == 1), ("precision", accepted)):
        hits, n = int((accepted & (correct == 1)).sum()), int(of.sum())
        found[f"{name}: {what}"] = Estimate(
            value=hits / n if n else None, interval=proportion_interval(hits, n, level), level=level, n=n,
            why=None if n else "nothing is accepted",
        )
    return found


def gain(rule: Boundary, items: np.ndarray, level: float) -> Estimate:
    """Recall of `rule` on items [n, 3] less that of the best one threshold of the same precision, with an interval.

    The threshold is chosen on these very items, which favours it: a rule that only took more at a lower precision, or
    that fitted noise, gains nothing.
    """
    scores, uncertainties, correct = items.T
    accepted = rule.accepts(scores, uncertainties)
    if not accepted.any():
        return Estimate(value=None, level=level, n=len(items), why="nothing is accepted")
    interval: Interval | None = bootstrap_interval(recall_gain, scores, correct, accepted, level=level)
    return Estimate(value=float(recall_gain(scores, correct, accepted)), interval=interval, level=level, n=len(items))


def recall_gain(scores: Any, correct: Any, accepted: Any, axis: int = -1) -> Any:
    """Share of the right items that `accepted` holds more than one threshold of its precision could; [..., n] to [...].

    Not a number where nothing is accepted, or nothing right.
    """
    scores, correct, accepted = (np.moveaxis(np.asarray(x, dtype=float), axis, -1) for x in (scores, correct, accepted))
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, -1)
    right = np.cumsum(np.take_along_axis(correct, order, -1), axis=-1)
    ends = np.diff(ranked, axis=-1, append=-np.inf) != 0  # a threshold takes all items of one score
    hits, taken = (accepted * correct).sum(-1), accepted.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precise = right * taken[..., None] >= hits[..., None] * np.arange(1, right.shape[-1] + 1) - SLACK
        single = np.where(ends & precise, right, 0).max(-1)
        return np.where(taken > 0, (hits - single) / right[..., -1], np.nan)[()]


def _levels(name: str, rule: Boundary) -> list[dict[str, Any]]:
    edges = [*rule.edges, None]
    return [
        {"rule": name, "uncertainty_up_to": edge, "score_from": threshold}
        for edge, threshold in zip(edges, rule.floors(), strict=True)
    ]


def _notes(
    estimates: dict[str, Estimate], gains: dict[str, Estimate], fitted: int, held: int, settings: Settings
) -> list[str]:
    said = [
        f"fitted on {fitted} items, all numbers are of the {held} others; fit again when judge or judged change"
    ]
    for name, found in gains.items():
        if found.interval is None or found.interval[0] <= 0:
            said.append(
                f"{name}: no gain over one threshold of the same precision that these items can show; use one threshold"
            )
    for name in RULES:
        found = estimates[f"{name}: precision"]
        if found.interval is not None and found.interval[1] < settings.precision:
            said.append(f"{name}: falls short of the required precision on items it was not fitted on")
    said.append("the precision was required of the fitted half, not promised of new items: choose_threshold in "
                "pipelines/evaluation/estimates/gates.py promises it")  # fmt: skip
    return said
