"""Accuracy, win rate or mean score from few gold labels and many judge scores, debiased, with valid intervals (R12)."""

import math
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.estimates.ppi_estimators import (
    CROSS_FIT_BELOW,
    Debiased,
    Scale,
    agreement,
    correlation,
    correlation_interval,
    correlation_limit,
    gold_only,
    ppi,
    ppi_tuned,
    saving,
    saving_limit,
    tuned_weight,
)
from pipelines.evaluation.intervals import mean_interval, proportion_interval
from pipelines.steps.rows import InputError, Problem, kind, read_rows
from pipelines.strict import Strict

WORTH = 1.2  # R12, section 4: below this tau the judge is not worth asking
WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5, "yes": 1.0, "no": 0.0}
UNLIKE = 0.01  # p-value below which the labelled items do not look like a random subset
PAIRED = ("score_a", "score_b", "gold_a", "gold_b")


class Settings(Strict):
    """Settings of `ppi`."""

    level: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    clip: bool = Field(True, description="keep the tuned weight in 0..1; false where the judge's scale is another one")


class Items(NamedTuple):
    """What a file holds: labels and the judge's scores of the same n items, scores of the N others, and their kind.

    `abstained` judge scores were filled with the mean of the readable ones. `scale` is that of the labels where it is
    known: (0, 1) for shares, (-1, 1) for differences of them.
    """

    gold: np.ndarray
    judged: np.ndarray
    rest: np.ndarray
    abstained: int
    scale: Scale | None
    paired: bool
    outcomes: np.ndarray | None  # [n]: where judge and gold both say 0 or 1; None where either says something else


class Ppi(Evaluation):
    """PPI and PPI++ beside gold alone, and what the judge is worth in labels."""

    about = "accuracy, win rate or mean score from few gold labels and many judge scores, without the judge's bias"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: Any, settings: Settings) -> Result:
        """Rows have `score` or `verdict`, some have `gold`; or `score_a`, `score_b` and some `gold_a`, `gold_b`."""
        items = read_items(data)
        n, more = len(items.gold), len(items.rest)
        alone = gold_only(items.gold, settings.level, items.scale)
        plain = ppi(items.gold, items.judged, items.rest, settings.level, items.scale)
        tuned = ppi_tuned(items.gold, items.judged, items.rest, settings.level, items.scale, settings.clip)
        everything = np.concatenate([items.judged, items.rest])
        estimates = {
            "ppi_tuned": _estimate(tuned, n + more),
            "ppi": _estimate(plain, n + more),
            "gold_only": _estimate(alone, n),
            "judge_only": Estimate(
                value=float(everything.mean()), interval=mean_interval(everything, settings.level),
                level=settings.level, n=n + more,
            ),
            **worth(items, settings.level),
        }
        return Result(
            **about("ppi", data, None, settings), rows=n + more, estimates=estimates,
            abstentions={"missing": items.abstained} if items.abstained else {},
            tables={"methods": [_method(*row) for row in (("gold only", alone), ("ppi", plain), ("tuned", tuned))]},
            notes=notes(items, plain, alone, settings),
        )


EVALUATION = Ppi


def read_items(data: str) -> Items:
    """The items of a file; raises InputError for rows that are neither, and for too few with and without gold."""
    rows, _ = read_rows(data, lambda row, where: _item(row))
    kinds = {row[2] for row in rows} - {None}
    if len(kinds) > 1:
        raise InputError(f"{data}: some rows have score_a and score_b, others score; give one kind")
    paired = kinds == {True}
    gold = np.array([row[1] for row in rows if row[1] is not None])
    if len(gold) < 3 or len(rows) - len(gold) < 2:
        raise InputError(
            f"{data}: {len(gold)} rows have gold and {len(rows) - len(gold)} have none; at least 3 and 2 are needed"
        )
    known = [row[0] for row in rows if row[0] is not None]
    if not known:
        raise InputError(f"{data}: no row has a score of the judge; add `score` or `verdict`")
    fill = math.fsum(known) / len(known)
    outcomes = not {*known, *gold.tolist()} - {0.0, 1.0}
    scores = np.array([fill if row[0] is None else row[0] for row in rows])
    labelled = np.array([row[1] is not None for row in rows])
    low = -1.0 if paired else 0.0
    # one value alone, 1 on a scale of 1 to 5 say, is a share only if the judge's scores are shares too
    clear = len(set(gold)) > 1 or (low <= scores.min() and scores.max() <= 1)
    shares = clear and bool(np.isin(gold, (low, low / 2, 0.0, 0.5, 1.0)).all())
    readable = np.array([row[0] is not None for row in rows if row[1] is not None])
    return Items(
        gold, scores[labelled], scores[~labelled], len(rows) - len(known), (low, 1.0) if shares else None, paired,
        readable if outcomes and not paired else None,
    )


def worth(items: Items, level: float) -> dict[str, Estimate]:
    """rho, tau and what the labels are worth, and how often the judge agrees where both know two outcomes."""
    n, more = len(items.gold), len(items.rest)
    rho = float(correlation(items.gold, items.judged))
    ends = correlation_interval(rho, n, level)
    taus = ends and tuple(saving(end, n, more) for end in ends)
    tau = saving(rho, n, more)
    found = {
        "rho": Estimate(value=rho, interval=ends, level=level, n=n),
        "tau": Estimate(value=tau, interval=taus, level=level, n=n),
        "effective_labels": Estimate(value=n * tau, interval=taus and (n * taus[0], n * taus[1]), level=level, n=n),
    }
    if items.outcomes is not None and (both := int(items.outcomes.sum())):
        seen = agreement(items.gold[items.outcomes], items.judged[items.outcomes])
        found["agreement"] = Estimate(
            value=seen.agreement, interval=proportion_interval(seen.agreement * both, both, level), level=level, n=both
        )
        found["balanced_agreement"] = Estimate(
            value=seen.balanced, level=level, n=both, why=None if seen.balanced is not None else "gold has one outcome"
        )
    return found


def notes(items: Items, plain: Debiased, alone: Debiased, settings: Settings) -> list[str]:
    """What a reader must know to use the estimates."""
    n, more = len(items.gold), len(items.rest)
    what = "mean difference of the two models (a minus b)" if items.paired else "mean of gold over all rows"
    said = [
        f"ppi_tuned estimates the {what}; judge_only is the judge's own mean, whose bias no number of items removes, "
        "and its interval is of that mean alone",
        "the rows with gold must be a random subset of all rows, and rho is of this model: estimate it again for "
        "another one",
    ]
    tau = saving(float(correlation(items.gold, items.judged)), n, more)
    if tau < WORTH:
        said.append(f"tau {tau:.2f} is below {WORTH}: the judge saves too little to be asked; label instead")
    if items.outcomes is not None and items.outcomes.any():
        said += _limits(items.gold[items.outcomes], items.judged[items.outcomes])
    if items.abstained:
        said.append(
            f"{items.abstained} scores of the judge are missing; these items count with the mean of the readable "
            "scores, which keeps the estimate one of all items and unbiased"
        )
    if _unlike(items.judged, items.rest) < UNLIKE:
        said.append("the judge scores the rows with gold otherwise than the rest: they look like no random subset")
    raw = float(tuned_weight(items.gold, items.judged, items.rest, clip=False))
    if settings.clip and not 0 <= raw <= 1:
        said.append(f"the weight of least variance is {raw:.2f} and was kept in 0..1; clip=false uses it as it is")
    if plain.variance > alone.variance:
        said.append("ppi, which weighs the judge fully, is wider than gold alone here: use ppi_tuned")
    if n < CROSS_FIT_BELOW:
        said.append(f"fewer than {CROSS_FIT_BELOW} labels: each item's weight was fitted on the others")
    if items.scale is None and not items.gold.std():
        said.append("all labels are equal and their scale is not known: the intervals say nothing")
    return said


def _limits(gold: np.ndarray, judged: np.ndarray) -> list[str]:
    """What agreement allows, whatever the judge costs (R12, section 3)."""
    seen, score = agreement(gold, judged), float(gold.mean())
    if seen.balanced is None:
        return []
    said = []
    if seen.balanced >= 0.5:
        said.append(f"at this balanced agreement rho^2 is at most 2 BA - 1 = {correlation_limit(seen.balanced):.3f}")
    limit = saving_limit(score, seen.agreement, seen.balanced)
    if limit is not None:
        said.append(
            f"the judge agrees with gold on {seen.agreement:.1%}, no more than the {score:.1%} that the judged is "
            f"right on: such a judge cannot save more than half the labels, here tau <= 2p = {limit:.2f} (2410.13341)"
        )
    return said


def _unlike(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of equal means (Welch); 1 where nothing varies."""
    error = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    apart = abs(float(first.mean() - second.mean()))
    return math.erfc(apart / error / math.sqrt(2)) if error else float(not apart)


def _item(row: dict[str, Any]) -> tuple[float | None, float | None, bool | None]:
    """Judge's score, gold, and whether they are differences of two models (None: the row has neither); or Problem."""
    if any(name in row for name in PAIRED):
        a, b, gold_a, gold_b = (_outcome(row, name) for name in PAIRED)
        if (gold_a is None) != (gold_b is None):
            raise Problem("gold_b" if gold_b is None else "gold_a", "is missing; label both models' answers or neither")
        judged = None if a is None or b is None else a - b
        return judged, None if gold_a is None or gold_b is None else gold_a - gold_b, True
    if "score" in row and "verdict" in row:
        raise Problem("verdict", "stands beside score; keep one of them")
    known = bool({"score", "verdict", "gold"} & row.keys())
    judged = _outcome(row, "verdict" if "verdict" in row else "score")
    return judged, _outcome(row, "gold"), False if known else None


def _outcome(row: dict[str, Any], name: str) -> float | None:
    """A number, true or false, A (the model wins), B or tie, yes or no; None for what is not there."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Problem(name, f"is {kind(value)}; use a number, true or false, A, B or tie, yes or no")
    return float(value)


def _estimate(found: Debiased, n: int) -> Estimate:
    low, high = found.interval
    return Estimate(value=float(found.value), interval=(float(low), float(high)), level=found.level, n=n)


def _method(name: str, found: Debiased) -> dict[str, Any]:
    low, high = (float(end) for end in found.interval)
    return {
        "method": name, "weight": float(found.weight), "value": float(found.value),
        "standard_error": math.sqrt(float(found.variance)), "half_width": (high - low) / 2,
    }
