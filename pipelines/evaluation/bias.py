"""What moves a judge of pairs besides quality: place, length, style, and who wrote an answer. Pure.

Every order is one observation. A logistic regression without a constant explains the verdict by the label, by length
and by place; as every term changes its sign with the listing, exchanging A and B changes nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.comparisons import Comparison
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.verdict_numbers import SIGN, Outcome, points, share

RIDGE = 1e-4  # keeps the coefficients of a judge that is always right finite
RESAMPLES = 200


class Effects(NamedTuple):
    """Coefficients of the log-odds that a verdict names A. A term that does not vary is 0."""

    label: float  # of the label naming A (1) or B (-1)
    length: float  # of tanh(characters that A is longer by / their root mean square)
    place: float  # of A being shown first (1) or second (-1)


def observations(outcomes: Sequence[Outcome]) -> np.ndarray:
    """[n, 5]: row, verdict (1 for A, .5 for a tie, 0 for B), label (1, 0, -1), length term, place (0 for no order)."""
    found = []
    gaps = np.asarray([o.longer for o in outcomes for v in o.verdicts if v is not None], float)
    scale = float(np.sqrt((gaps**2).mean())) if len(gaps) and gaps.any() else 1.0
    for o in outcomes:
        places = (1.0, -1.0) if len(o.verdicts) == 2 else (0.0,)
        for verdict, place in zip(o.verdicts, places, strict=True):
            if verdict is not None:
                found.append((o.row, (1 + SIGN[verdict]) / 2, SIGN[o.label], np.tanh(o.longer / scale), place))
    return np.asarray(found, float).reshape(-1, 5)


def fit(seen: np.ndarray) -> Effects:
    """The regression of `observations` by maximum likelihood; a tie counts half for either side."""
    from scipy.optimize import minimize
    from scipy.special import expit

    y, terms = seen[:, 1], seen[:, 2:]
    varies = np.abs(terms).sum(0) > 0

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        x = terms[:, varies] @ b
        value = (np.logaddexp(0, x) - y * x).sum() + RIDGE * (b**2).sum()
        return float(value), terms[:, varies].T @ (expit(x) - y) + 2 * RIDGE * b

    found = np.zeros(3)
    if varies.any() and len(y):
        found[varies] = minimize(loss, np.zeros(int(varies.sum())), jac=True, method="BFGS").x
    return Effects(*(float(b) for b in found))


def length_estimates(outcomes: Sequence[Outcome], seed: int = 0) -> dict[str, Estimate]:
    """Agreement as it is and as it would be for responses of one length shown without a place, and what moves it.

    `agreement_at_equal_length` is sigmoid(label effect): the probability of the label's verdict once length and place
    are taken out (the idea of length-controlled win rates, 2404.04475, here for agreement). `longer_preferred` is the
    share of decided verdicts for the longer response, `longer_is_right` the share of labels for it.
    """
    from scipy.special import expit

    decisive = [o for o in outcomes if o.label != "tie"]
    seen = observations(decisive)
    named = [(o.row, float((v == "A") == (o.longer > 0)))
             for o in outcomes for v in o.verdicts if v in ("A", "B") and o.longer]
    right = [(o.row, float((o.label == "A") == (o.longer > 0))) for o in decisive if o.longer]
    found = {
        "agreement": share([(o.row, p) for o in decisive if (p := points(o, 0.5)) is not None], "no verdict", seed),
        "longer_preferred": share(named, "no decided verdict on responses of different lengths", seed),
        "longer_is_right": share(right, "no label on responses of different lengths", seed),
    }
    if len(seen) < 3:
        return found | {"agreement_at_equal_length": Estimate(value=None, n=len(seen), why="too few verdicts")}
    rows = seen[:, 0].astype(int)

    def of(effect: str, odds: bool) -> Estimate:
        def statistic(*columns: np.ndarray) -> float:
            value = getattr(fit(np.stack(columns, axis=1)), effect)
            return float(expit(value)) if odds else value

        columns = [seen[:, i] for i in range(5)]
        ends = bootstrap_interval(statistic, *columns, clusters=rows, resamples=RESAMPLES, seed=seed)
        return Estimate(value=statistic(*columns), interval=ends, n=len(seen))

    found["agreement_at_equal_length"] = of("label", odds=True)
    found["length_effect_log_odds"] = of("length", odds=False)
    if seen[:, 4].any():
        found["first_place_effect_log_odds"] = of("place", odds=False)
    return found


def style_estimates(
    outcomes: Sequence[Outcome], styles: Sequence[tuple[int, int]], seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy where the better response has the plainer style (hard), the same (normal), the richer one (easy).

    `styles` of each outcome are those of the better and of the worse response, plain ones first (RM-Bench, 2410.16184).
    Ties are worth half.
    """
    kinds = {"style_hard": lambda i, j: i < j, "style_normal": lambda i, j: i == j, "style_easy": lambda i, j: i > j}
    return {
        name: share([(o.row, p) for o, pair in zip(outcomes, styles, strict=True)
                     if chosen(*pair) and (p := points(o, 0.5)) is not None], "no readable verdict", seed)
        for name, chosen in kinds.items()
    }


def style_rows(outcomes: Sequence[Outcome], styles: Sequence[tuple[int, int]]) -> list[dict[str, float | int | None]]:
    """Accuracy by the styles of the better and of the worse response, numbered from 0."""
    rows: list[dict[str, float | int | None]] = []
    for pair in sorted(set(styles)):
        some = [o for o, own in zip(outcomes, styles, strict=True) if own == pair]
        known = [p for o in some if (p := points(o, 0.5)) is not None]
        rows.append({"better has style": pair[0], "worse has style": pair[1], "comparisons": len(some),
                     "accuracy": sum(known) / len(known) if known else None,
                     "abstained": sum(v is None for o in some for v in o.verdicts)})
    return rows


def self_preference(
    comparisons: Sequence[Comparison], outcomes: Sequence[Outcome], name: str, seed: int = 0
) -> dict[str, Estimate]:
    """How often the judge prefers its own answer, how often people do, and the difference.

    Of comparisons where one of the two is by `name`. `self_preference` is the mean of the judge's points for its own
    answer minus the label's (a tie is half): 0 says that it likes itself as much as people do.
    """
    picked, deserved, gap = [], [], []
    for made, outcome in zip(comparisons, outcomes, strict=True):
        if made.authors is None or (made.authors[0] == name) == (made.authors[1] == name):
            continue
        own = "A" if made.authors[0] == name else "B"
        judge = points(outcome._replace(label=own), 0.5)
        label = 1.0 if made.label == own else 0.5 if made.label == "tie" else 0.0
        if judge is not None:
            picked.append((made.row, judge))
            deserved.append((made.row, label))
            gap.append((made.row, judge - label))
    why = f"no readable verdict on an answer by {name} against another's"
    return {"picks_self": share(picked, why, seed), "label_is_self": share(deserved, why, seed),
            "self_preference": share(gap, why, seed)}
