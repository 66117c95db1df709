"""Means of values that come in clusters: verdicts on the units of one question, marks on the criteria of one item."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.base import Estimate
from pipelines.evaluation.intervals import bootstrap_interval, proportion_interval


def clustered_mean(values: Sequence[tuple[Any, float]], why: str, shares: bool = True) -> Estimate:
    """The mean of (cluster, value) rows, and a bootstrap interval that draws whole clusters; `why` where there is none.

    All values the same: a bootstrap would be sure of it after two of them. Where `shares` says that values lie between
    0 and 1, and they are all 0 or all 1, Wilson's interval of as many observations as there are clusters is given.
    """
    if not values:
        return Estimate(value=None, n=0, why=why)
    clusters, numbers = [str(cluster) for cluster, _ in values], [float(value) for _, value in values]
    count, mean = len(set(clusters)), float(np.mean(numbers))
    if len(set(numbers)) > 1:
        interval = bootstrap_interval(np.mean, numbers, clusters=clusters)
    else:
        interval = proportion_interval(mean * count, count) if shares and mean in (0.0, 1.0) else None
    return Estimate(value=mean, interval=interval, n=len(numbers))
