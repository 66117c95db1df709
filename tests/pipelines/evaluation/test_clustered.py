"""Means over clusters, and what is said of them when all values are the same."""

import numpy as np
import pytest

from pipelines.evaluation.clustered import clustered_mean
from pipelines.evaluation.intervals import bootstrap_interval, proportion_interval


def test_whole_clusters_are_drawn() -> None:
    values = [(cluster, float(cluster % 2)) for cluster in range(20) for _ in range(5)]
    found, alone = clustered_mean(values, "none"), clustered_mean(list(enumerate(v for _, v in values)), "none")
    assert found.value == alone.value == 0.5 and found.n == 100
    assert found.interval and alone.interval
    assert found.interval[1] - found.interval[0] > 1.5 * (alone.interval[1] - alone.interval[0])
    assert found.interval == bootstrap_interval(np.mean, [v for _, v in values], clusters=[str(c) for c, _ in values])


@pytest.mark.parametrize(("value", "wins"), [(0.0, 0), (1.0, 3)])
def test_equal_shares_are_as_sure_as_their_clusters_are_many(value: float, wins: int) -> None:
    found = clustered_mean([(c, value) for c in (1, 1, 2, 3)], "none")
    assert found.interval == proportion_interval(wins, 3) and found.n == 4
    assert clustered_mean([(1, value)] * 4, "none", shares=False).interval is None
    assert clustered_mean([(1, 0.5)] * 4, "none").interval is None


def test_nothing_has_a_reason() -> None:
    found = clustered_mean([], "nobody answered")
    assert (found.value, found.n, found.why) == (None, 0, "nobody answered")
