"""Shares and means as estimates, whose intervals know that several rows of one problem are not independent."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.steps.aggregate import mean


def rate(values: Sequence[float], problems: Sequence[str] | None = None, why: str = "no row counts") -> Estimate:
    """The mean of `values` [n] between 0 and 1; `why` says what an empty one lacks.

    The interval is Wilson's where all are 0 or 1, and as `average` has it otherwise, cut to [0, 1]; where a problem of
    `problems` [n] comes more than once, it is bootstrapped over problems, or Wilson's of that many problems where all
    values are 0, or all are 1, of which a bootstrap would be sure. Raises ValueError for other values.
    """
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("a value is not between 0 and 1")
    repeated = _repeated(problems)
    if values and set(values) <= {0.0, 1.0} and not (repeated and len(set(values)) > 1):
        count = len(set(problems)) if repeated and problems else len(values)
        share = sum(values) / len(values)
        return Estimate(value=share, interval=proportion_interval(share * count, count), n=len(values))
    found = average(values, problems, why)
    ends = found.interval
    return found.model_copy(update={"interval": ends and (max(0.0, ends[0]), min(1.0, ends[1]))})


def average(values: Sequence[float], problems: Sequence[str] | None = None, why: str = "no row counts") -> Estimate:
    """The mean of any `values` [n], its interval Student's, or bootstrapped over problems that come more than once."""
    if not values:
        return Estimate(value=None, n=0, why=why)
    repeated = _repeated(problems)
    interval = bootstrap_interval(np.mean, values, clusters=problems) if repeated else mean_interval(values)
    return Estimate(value=mean(values), interval=interval, n=len(values))


def _repeated(problems: Sequence[str] | None) -> bool:
    return problems is not None and max(Counter(problems).values(), default=0) > 1
