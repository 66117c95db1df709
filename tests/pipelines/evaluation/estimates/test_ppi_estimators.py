"""PPI against its closed forms, the fixtures of R12, a reference implementation, and coverage over 2,000 draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation.estimates.ppi_estimators import (
    agreement,
    correlation,
    correlation_interval,
    correlation_limit,
    gold_only,
    plan,
    ppi,
    ppi_tuned,
    saving,
    saving_limit,
    tuned_weight,
)

DRAWS, CHUNK = 2000, 250


def confusion_judge(rng, shape, score, tpr, tnr):
    """Gold labels of a model that is right with probability `score`, and a judge with the rates given."""
    gold = rng.random(shape, dtype=np.float32) < score
    return gold, rng.random(shape, dtype=np.float32) < np.where(gold, tpr, 1 - tnr).astype(np.float32)


def rule_judge(rng, shape, noise):
    """Scores around a planted quality, and a judge that sees it with noise and a bias of a half."""
    gold = rng.normal(3, 1, shape)
    return gold, gold + 0.5 + rng.normal(0, noise, shape)


def win_rate_judge(rng, shape):
    """Wins, ties and losses (1, 0.5, 0), and a judge who calls a fifth of the losses ties and flips a tenth."""
    gold = rng.choice([0.0, 0.5, 1.0], shape, p=[0.35, 0.15, 0.5])
    lenient = np.where((gold == 0) & (rng.random(shape) < 0.2), 0.5, gold)
    return gold, np.where(rng.random(shape) < 0.1, 1 - lenient, lenient)


def covered(draw, truth, n, more, scale, level=0.9, seed=12):
    """Share of intervals over the truth, and variance ratio gold / tuned, over DRAWS draws."""
    rng, hits, values = np.random.default_rng(seed), {}, {}
    for _ in range(DRAWS // CHUNK):
        gold, judged = draw(rng, (CHUNK, n + more))
        parts = gold[:, :n], judged[:, :n], judged[:, n:]
        estimates = {
            "gold": gold_only(parts[0], level, scale), "ppi": ppi(*parts, level, scale),
            "tuned": ppi_tuned(*parts, level, scale),
        }
        for name, found in estimates.items():
            low, high = found.interval
            hits.setdefault(name, []).append((low <= truth) & (truth <= high))
            values.setdefault(name, []).append(found.value)
    shares = {name: float(np.concatenate(found).mean()) for name, found in hits.items()}
    spread = {name: float(np.concatenate(found).var()) for name, found in values.items()}
    return shares, spread


CASES = {
    "mean": (lambda rng, shape: rule_judge(rng, shape, 0.7), 3.0, 100, 500, None),
    "accuracy": (lambda rng, shape: confusion_judge(rng, shape, 0.8, 0.75, 1.0), 0.8, 100, 1000, (0, 1)),
    "win rate": (win_rate_judge, 0.575, 100, 500, (0, 1)),
    "mean of few labels": (lambda rng, shape: rule_judge(rng, shape, 0.7), 3.0, 20, 500, None),
}
RARE = {
    "few labels": (lambda rng, shape: confusion_judge(rng, shape, 0.85, 0.95, 0.7), 0.85, 40, 400, (0, 1)),
    "rare errors": (lambda rng, shape: confusion_judge(rng, shape, 0.95, 0.97, 0.8), 0.95, 40, 400, (0, 1)),
    "a judge of rare errors": (lambda rng, shape: confusion_judge(rng, shape, 0.6, 0.97, 0.97), 0.6, 100, 1000, (0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_intervals_of_90_percent_cover_88_to_92_percent(name):
    shares, _ = covered(*CASES[name])
    assert all(0.88 <= share <= 0.92 for share in shares.values()), shares


@pytest.mark.parametrize("name", RARE)
def test_where_a_sample_may_show_no_error_at_all_intervals_cover_no_less(name):
    shares, _ = covered(*RARE[name])
    assert all(0.88 <= share <= 0.99 for share in shares.values()), shares


def test_the_variance_ratio_of_the_recipe():
    shares, spread = covered(
        lambda rng, shape: confusion_judge(rng, shape, 0.8, 0.75, 1.0), 0.8, 100, 10_000, (0, 1), 0.95
    )
    assert saving(math.sqrt(0.375), 100, 10_000) == pytest.approx(1.59, abs=0.005)
    assert spread["gold"] / spread["tuned"] == pytest.approx(1.59, rel=0.1)
    assert 0.91 <= shares["tuned"] <= 0.96


def test_the_saving_of_the_recipe():
    assert saving(math.sqrt(0.5), 100, 1000) == pytest.approx(1.8333, abs=1e-4)
    assert saving(0.5, 100, 1e12) == pytest.approx(1 / (1 - 0.25))
    assert saving(-0.9, 100, 1000) == 1 == saving(0.9, 100, 0)


def test_a_judge_that_always_says_the_same_changes_nothing():
    gold = np.array([1.0, 0, 1, 1, 0, 1] * 10)
    for constant in (0.3, 0.0, 1e6):
        found = ppi_tuned(gold, np.full(60, constant), np.full(500, constant), scale=(0, 1))
        assert found.weight == 0 and found.value == pytest.approx(gold.mean())
        assert found.variance == pytest.approx(gold_only(gold, scale=(0, 1)).variance)
    assert correlation(gold, np.full(60, 0.3)) == 0


def test_the_tuned_weight_and_estimate_by_hand():
    gold, judged, rest = np.array([1.0, 2, 4, 5]), np.array([2.0, 2, 3, 5]), np.array([1.0, 3, 4, 4, 8])
    cov, var = np.cov(gold, judged)[0, 1], np.var(np.concatenate([judged, rest]), ddof=1)
    weight = cov / var * 5 / 9
    assert tuned_weight(gold, judged, rest) == pytest.approx(weight)
    plain = ppi(gold, judged, rest)
    assert plain.value == pytest.approx(rest.mean() + (gold - judged).mean())
    assert plain.variance == pytest.approx(np.var(gold - judged, ddof=1) / 4 + np.var(rest, ddof=1) / 5)
    others = [
        np.cov(np.delete(gold, j), np.delete(judged, j))[0, 1] / var * 5 / 9 for j in range(4)
    ]  # each label is weighed by the three others
    found = ppi_tuned(gold, judged, rest)
    assert found.weight == pytest.approx(np.clip(others, 0, 1).mean())
    assert found.value == pytest.approx((gold + np.clip(others, 0, 1) * (rest.mean() - judged)).mean())


@pytest.mark.parametrize("n", [60, 400])
def test_values_and_errors_of_the_authors_package(n):
    """Pinned from ppi-python 0.2.3: `ppi_mean_pointestimate` and `ppi_mean_ci` at alpha 0.1 on these draws."""
    rng = np.random.default_rng(n)
    gold, judged = rule_judge(rng, n + 1000, 0.7)
    found = ppi_tuned(gold[:n], judged[:n], judged[n:], level=0.9)
    plain = ppi(gold[:n], judged[:n], judged[n:], level=0.9)
    value, low, high, weight, plain_value, plain_low, plain_high = PACKAGE[n]
    assert found.weight * (n - 1) / n == pytest.approx(weight)  # the package divides the covariance by n
    assert found.value == pytest.approx(value, abs=0.05 * (high - low))
    assert found.interval == pytest.approx((low, high), abs=0.05 * (high - low))  # z against t
    assert plain.value == pytest.approx(plain_value)
    assert plain.interval == pytest.approx((plain_low, plain_high), abs=0.02 * (plain_high - plain_low))


PACKAGE = {
    60: (2.9076139608946634, 2.770815865383505, 3.0444120564058217, 0.7852167728449182,
         2.8485159700234544, 2.675264284796763, 3.021767655250146),
    400: (2.954076498800674, 2.893578286568736, 3.0145747110326115, 0.5578866409242654,
          2.9661832053015535, 2.8813583343745823, 3.0510080762285248),
}  # fmt: skip


LABELS = arrays(np.float64, 12, elements=st.floats(-5, 5).map(lambda x: round(x, 3)))


@settings(deadline=None)
@given(LABELS, LABELS, LABELS, st.permutations(range(12)))
def test_order_and_shifts_of_the_judge_change_nothing(gold, judged, rest, order):
    found = ppi_tuned(gold, judged, rest)
    moved = ppi_tuned(gold[order], judged[order] + 3, rest[order] + 3)
    assert moved.value == pytest.approx(found.value, abs=1e-6)
    assert moved.variance == pytest.approx(found.variance, abs=1e-6)
    assert 0 <= found.weight <= 1


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_many_draws_at_once_equal_one_by_one(seed):
    rng = np.random.default_rng(seed)
    gold, judged = confusion_judge(rng, (3, 90), 0.7, 0.8, 0.6)
    for n in (30, 60):
        together = ppi_tuned(gold[:, :n], judged[:, :n], judged[:, n:], scale=(0, 1))
        for i in range(3):
            one = ppi_tuned(gold[i, :n], judged[i, :n], judged[i, n:], scale=(0, 1))
            assert (one.value, one.variance) == pytest.approx((together.value[i], together.variance[i]))


def test_a_clean_sample_still_shows_doubt_and_stays_on_the_scale():
    ones = np.ones(20)
    for found in (gold_only(ones, scale=(0, 1)), ppi_tuned(ones, ones, np.ones(200), scale=(0, 1))):
        low, high = found.interval
        assert low < 0.98 and high == 1 == found.value
    assert gold_only(ones).interval == (1, 1)  # without a known scale there is nothing to say


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_bounds_on_rho_hold_for_every_judge_of_two_outcomes(score, tpr, tnr):
    said = score * tpr + (1 - score) * (1 - tnr)
    cov = score * (1 - score) * (tpr + tnr - 1)
    squared = cov**2 / (score * (1 - score) * said * (1 - said))
    balanced, agreed = (tpr + tnr) / 2, score * tpr + (1 - score) * tnr
    if balanced >= 0.5:
        assert squared <= correlation_limit(balanced) + 1e-9
        limit = saving_limit(score, agreed, balanced)
        if limit is not None:
            assert squared <= 1 - 1 / limit + 1e-9 and saving(math.sqrt(squared), 1, 1e12) <= limit + 1e-6 <= 2 + 1e-6


def test_the_bound_is_met_by_the_extremal_judge():
    score = 0.8
    tpr, tnr = 2 - 1 / score, 1.0
    assert score * tpr + (1 - score) * tnr == pytest.approx(score)  # it agrees as often as the model is right
    rho_squared = (score * (1 - score) * (tpr + tnr - 1)) ** 2 / (score * (1 - score) * score * tpr * (1 - score * tpr))
    assert rho_squared == pytest.approx(0.375)
    assert saving_limit(score, score, (tpr + tnr) / 2) == pytest.approx(1 / (1 - rho_squared))
    assert saving_limit(0.8, 0.9, 0.9) is None and saving_limit(0.8, 0.1, 0.1) is None


def test_agreement_of_a_table():
    found = agreement([1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1])
    assert found == pytest.approx((4 / 6, 0.75, 0.5, 0.625))
    assert agreement([1, 1], [1, 0]).balanced is None


def test_fishers_interval():
    ends = (math.tanh(math.atanh(0.5) - 0.196), math.tanh(math.atanh(0.5) + 0.196))
    assert correlation_interval(0.5, 103) == pytest.approx(ends, abs=1e-4)
    assert correlation_interval(0.5, 3) is None and correlation_interval(1.0, 10) is not None


@settings(deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.1, 2), st.floats(0, 0.99), st.integers(0, 100_000))
def test_a_plan_is_the_fewest_labels_that_do(half_width, sd, rho, more):
    found = plan(half_width, sd, rho, more, 0.95)

    def reached(n):
        return 1.959964 * sd * math.sqrt((1 - rho**2 * more / (more + n)) / n) if n else math.inf

    assert reached(found.labels) <= half_width * (1 + 1e-6)
    assert found.labels == 3 or reached(found.labels - 1) > half_width * (1 - 1e-6)
    assert found.labels <= found.without_judge == plan(half_width, sd, 0.0, more, 0.95).labels
    assert plan(half_width, sd, rho, math.inf, 0.95).labels <= found.labels


def test_a_plan_without_a_limit_of_judge_scores():
    found = plan(0.05, 0.5, math.sqrt(0.5), math.inf)
    assert found == (193, 385, pytest.approx(2.0))
