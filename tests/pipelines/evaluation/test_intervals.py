"""Intervals against scipy's and against the closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval


def mean_of_rows(values, others):
    """A statistic without `axis`, of two columns."""
    return float(np.mean(values - others))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_interval_of_a_mean_is_students(values: list[float], level: float) -> None:
    expected = stats.t.interval(level, len(values) - 1, np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values)))
    if np.std(values) > 1e-6:  # scipy gives nothing where rounding makes it 0
        assert mean_interval(values, level) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_mean_of_one_value_has_no_interval_and_an_abstention_is_no_value() -> None:
    assert mean_interval([1.0]) is None and mean_interval([]) is None
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="abstentions"):
        mean_interval([1.0, float("nan")])


@given(st.integers(1, 200), st.integers(0, 200), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_of_a_share_is_wilsons(n: int, successes: int, level: float) -> None:
    successes = min(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert proportion_interval(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_shares_at_the_ends_and_of_nothing() -> None:
    assert proportion_interval(0, 0) is None
    assert proportion_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert proportion_interval(10, 10) == pytest.approx((0.72247, 1), abs=1e-5)
    with pytest.raises(ValueError, match="no share"):
        proportion_interval(3, 2)
    with pytest.raises(ValueError, match="level"):
        proportion_interval(1, 2, level=95)


def test_the_bootstrap_of_a_mean_is_near_the_normal_one_and_repeats() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_interval(np.mean, values, seed=3)
    assert found == bootstrap_interval(np.mean, values, seed=3)
    assert found != bootstrap_interval(np.mean, values, seed=4)
    assert found == pytest.approx(mean_interval(values), abs=0.015)
    assert found == pytest.approx(bootstrap_interval(lambda x: x.mean(), values, seed=3), abs=1e-12)  # one by one


def test_rows_are_drawn_together() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_interval(mean_of_rows, values + 1, values) == pytest.approx((1, 1))


def test_whole_clusters_are_drawn() -> None:
    rng = np.random.default_rng(3)
    effects = rng.normal(size=40)
    repeated = np.repeat(effects, 5)
    prompts = np.repeat([f"p{i:02}" for i in range(40)], 5)
    by_cluster = bootstrap_interval(np.mean, repeated, clusters=prompts, seed=1)
    assert by_cluster == pytest.approx(bootstrap_interval(np.mean, effects, seed=1), abs=1e-12)
    by_row = bootstrap_interval(np.mean, repeated)
    assert by_cluster is not None and by_row is not None
    assert by_cluster[1] - by_cluster[0] > 1.8 * (by_row[1] - by_row[0])  # sqrt(5), as rows repeat each other
    uneven = bootstrap_interval(np.mean, repeated[:-3], clusters=prompts[:-3])
    assert uneven == pytest.approx(by_cluster, abs=0.06)
    order = rng.permutation(200)
    mixed = bootstrap_interval(np.mean, repeated[order], clusters=prompts[order], seed=1)
    assert mixed == pytest.approx(by_cluster, abs=1e-12)


def test_resamples_without_the_statistic_are_left_out() -> None:
    """One label in ten is missed by a third of the resamples, which is too many; ten in forty by next to none."""

    def share_of_ones(labels):
        return None if len(set(labels)) == 1 else float(np.mean(labels))

    assert bootstrap_interval(share_of_ones, [1] + [0] * 9) is None
    found = bootstrap_interval(share_of_ones, [1] * 10 + [0] * 30)
    assert found is not None and 0 < found[0] < 0.25 < found[1] < 0.5


def test_too_few_rows_or_clusters_and_columns_that_do_not_fit() -> None:
    assert bootstrap_interval(np.mean, [1.0]) is None
    assert bootstrap_interval(np.mean, []) is None
    assert bootstrap_interval(np.mean, [1.0, 2.0], clusters=["a", "a"]) is None
    with pytest.raises(ValueError, match="lengths"):
        bootstrap_interval(mean_of_rows, [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="lengths"):
        bootstrap_interval(np.mean, [1.0, 2.0], clusters=["a"])
