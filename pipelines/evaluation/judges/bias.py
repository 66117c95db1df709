"""What moves a judge of pairs besides quality: place, length, style, and who wrote an answer. Pure.

Every order is one observation. A logistic regression without a constant explains the verdict by the label, by length
and by place; as every term changes its sign with the listing, exchanging A and B changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.judges.comparisons import Comparison
from pipelines.evaluation.judges.verdict_numbers import SIGN, Outcome, points, share

PRIOR_SD = 2.5  # of an effect in log-odds: wide for what judges show
Z = 1.959964  # of 95 %


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
                found.append((o.cluster, (1 + SIGN[verdict]) / 2, SIGN[o.label], np.tanh(o.longer / scale), place))
    return np.asarray(found, float).reshape(-1, 5)


def fit(seen: np.ndarray) -> tuple[Effects, Effects]:
    """The regression of `observations` and its standard errors; a tie counts half for either side.

    A normal prior of standard deviation PRIOR_SD keeps the effects of a judge that is always right finite. Errors are
    those of whole rows (the sandwich of Liang and Zeger 1986), with the prior's information as one more row.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    rows, y = np.unique(seen[:, 0], return_inverse=True)[1], seen[:, 1]
    varies = np.abs(seen[:, 2:]).sum(0) > 0
    terms, prior = seen[:, 2:][:, varies], 1 / PRIOR_SD**2
    effects, errors = np.zeros(3), np.zeros(3)
    if not varies.any():
        return Effects(*effects), Effects(*errors)

    def loss(b: np.ndarray) -> float:
        x = terms @ b
        return float((np.logaddexp(0, x) - y * x).sum() + prior * (b**2).sum() / 2)

    def gradient(b: np.ndarray) -> np.ndarray:
        return terms.T @ (expit(terms @ b) - y) + prior * b

    def curvature(b: np.ndarray) -> np.ndarray:
        p = expit(terms @ b)
        return (terms * (p * (1 - p))[:, None]).T @ terms + prior * np.eye(len(b))

    start = np.zeros(int(varies.sum()))
    b = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-8}).x
    each = terms * (expit(terms @ b) - y)[:, None]
    by_row = np.stack([np.bincount(rows, column) for column in each.T], axis=1)
    inverse = np.linalg.inv(curvature(b))
    spread = inverse @ (by_row.T @ by_row + prior * np.eye(len(b))) @ inverse
    effects[varies], errors[varies] = b, np.sqrt(np.diag(spread))
    return Effects(*map(float, effects)), Effects(*map(float, errors))


def length_estimates(outcomes: Sequence[Outcome], seed: int = 0) -> dict[str, Estimate]:
    """Agreement as it is and as it would be for responses of one length shown without a place, and what moves it.

    `agreement_at_equal_length` is sigmoid(label effect): the probability of the label's verdict once length and place
    are taken out (the idea of length-controlled win rates, 2404.04475, here for agreement). `longer_preferred` is the
    share of decided verdicts for the longer response, `longer_is_right` the share of labels for it.
    """
    from scipy.special import expit

    decisive = [o for o in outcomes if o.label != "tie"]
    seen = observations(decisive)
    named = [(o.cluster, float((v == "A") == (o.longer > 0)))
             for o in outcomes for v in o.verdicts if v in ("A", "B") and o.longer]
    right = [(o.cluster, float((o.label == "A") == (o.longer > 0))) for o in decisive if o.longer]
    found = {
        "agreement": share([(o.cluster, p) for o in decisive if (p := points(o, 0.5)) is not None], "no verdict", seed),
        "longer_preferred": share(named, "no decided verdict on responses of different lengths", seed),
        "longer_is_right": share(right, "no label on responses of different lengths", seed),
    }
    if len(seen) < 3:
        return found | {"agreement_at_equal_length": Estimate(value=None, n=len(seen), why="too few verdicts")}
    effects, errors = fit(seen)

    def of(effect: str, transform: Callable[[float], float]) -> Estimate:
        value, reach = getattr(effects, effect), Z * getattr(errors, effect)
        return Estimate(value=transform(value), interval=(transform(value - reach), transform(value + reach)),
                        n=len(seen))

    found["agreement_at_equal_length"] = of("label", lambda x: float(expit(x)))
    found["length_effect_log_odds"] = of("length", float)
    if seen[:, 4].any():
        found["first_place_effect_log_odds"] = of("place", float)
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
        name: share([(o.cluster, p) for o, pair in zip(outcomes, styles, strict=True)
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
            picked.append((made.cluster, judge))
            deserved.append((made.cluster, label))
            gap.append((made.cluster, judge - label))
    why = f"no readable verdict on an answer by {name} against another's"
    return {"picks_self": share(picked, why, seed), "label_is_self": share(deserved, why, seed),
            "self_preference": share(gap, why, seed)}
