"""Shares and means as estimates, whose intervals know that several rows of one problem are not independent."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.steps.aggregate import mean


def rate(values: Sequence[float], problems: Sequence[str] | None = None, why: str = "no row counts") -> Estimate:
    """The mean of `values` [n], which are 0, 1 or between; `why` says what an empty one lacks.

    The interval is Wilson's where all are 0 or 1, and Student's otherwise; where a problem of `problems` [n] comes more
    than once, it is bootstrapped over problems.
    """
    if not values:
        return Estimate(value=None, n=0, why=why)
    if problems is not None and max(Counter(problems).values()) > 1:
        interval = bootstrap_interval(np.mean, values, clusters=problems)
    elif set(values) <= {0.0, 1.0}:
        interval = proportion_interval(sum(values), len(values))
    else:
        interval = mean_interval(values)
    return Estimate(value=mean(values), interval=interval, n=len(values))
