"""Cuts are the best there are: the fixture of R17, brute force, and no gain from noise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.estimates.boundary import (
    SLACK,
    best_cuts,
    fit_cuts,
    fit_isotonic,
    fit_single,
    quantile_edges,
)
from pipelines.evaluation.estimates.uncertainty_boundary import recall_gain

POSITIVES = [[10, 8, 5, 5], [10, 9, 1, 0], [9, 4, 3, 2]]
TENS = [[10] * 4] * 3


def brute_force(positives, items, precision):
    """Most positives over all cuts at the precision."""
    found = []
    for cuts in itertools.product(*(range(len(row) + 1) for row in items)):
        right = sum(sum(row[:cut]) for row, cut in zip(positives, cuts, strict=True))
        taken = sum(sum(row[:cut]) for row, cut in zip(items, cuts, strict=True))
        if right >= precision * taken - SLACK:
            found.append((right, -taken))
    return max(found)


@pytest.mark.parametrize(
    ("precision", "cuts", "positives"), [(0.9, (2, 2, 1), 46), (0.8, (4, 2, 1), 56), (0.7, (4, 2, 3), 63)]
)
def test_the_fixture_of_the_recipe(precision, cuts, positives):
    found = best_cuts(POSITIVES, TENS, precision)
    assert (found.cuts, found.positives) == (cuts, positives)
    assert (found.positives, -found.accepted) == brute_force(POSITIVES, TENS, precision)


BINS = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)).map(lambda b: (b[0], min(b))), min_size=1, max_size=4),
    min_size=1, max_size=3,
)


@settings(deadline=None)
@given(BINS, st.floats(0.05, 1))
def test_cuts_equal_brute_force_for_bins_of_any_weight(bins, precision):
    items, positives = ([[b[i] for b in row] for row in bins] for i in (0, 1))
    found = best_cuts(positives, items, precision)
    assert (found.positives, -found.accepted) == brute_force(positives, items, precision)
    assert found.positives == sum(sum(row[:cut]) for row, cut in zip(positives, found.cuts, strict=True))
    assert found.accepted == sum(sum(row[:cut]) for row, cut in zip(items, found.cuts, strict=True))


def test_equal_edges_merge_and_no_bin_is_empty():
    assert quantile_edges([1.0] * 9, 5) == ()
    assert quantile_edges([0, 0, 0, 0, 0, 0, 1, 2], 4) == (0.0,)
    assert quantile_edges(range(10), 5) == (1, 3, 5, 7)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 8))
def test_every_bin_holds_something(values, bins):
    edges = quantile_edges(values, bins)
    assert set(np.searchsorted(edges, values, side="left")) == set(range(len(edges) + 1))


ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=60)


@settings(deadline=None)
@given(ROWS, st.floats(0.05, 0.99))
def test_every_rule_holds_its_precision_where_it_was_fitted(rows, precision):
    scores, uncertainties, correct = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    plane = [fitted(scores, uncertainties, correct, precision) for fitted in (fit_cuts, fit_isotonic)]
    for rule in (fit_single(scores, correct, precision), *plane):
        accepted = rule.accepts(scores, uncertainties)
        assert correct[accepted].sum() >= precision * accepted.sum() - SLACK


@settings(deadline=None)
@given(ROWS, st.floats(0.05, 0.99))
def test_cuts_of_one_level_with_a_bin_for_each_score_are_one_threshold(rows, precision):
    scores, _, correct = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    cuts, single = fit_cuts(scores, scores * 0, correct, precision, 1, 60), fit_single(scores, correct, precision)
    assert correct[cuts.accepts(scores)].sum() == correct[single.accepts(scores)].sum()


def test_the_isotonic_rule_is_one_threshold_on_the_chance_of_each_level():
    scores = [1, 2, 3, 4] * 10
    uncertainties = [0.0] * 20 + [1.0] * 20
    correct = [0, 1, 1, 1] * 5 + [0, 0, 0, 1] * 5
    assert fit_isotonic(scores, uncertainties, correct, 0.9, 2).thresholds == (2, 4)
    assert fit_isotonic(scores, uncertainties, [0] * 40, 0.9, 2).thresholds == (math.inf, math.inf)


def drawn(seed, n, depends):
    """Scores, uncertainties and labels; the score is worth less the more uncertain it is, or not."""
    rng = np.random.default_rng(seed)
    scores, uncertainties = rng.random(n), rng.random(n)
    chance = np.where(depends, scores ** (0.15 + 6 * uncertainties), scores)
    return scores, uncertainties, rng.random(n) < chance


def gains(depends, precision=0.85):
    """Mean gain in recall at equal precision on new items, of cuts and of the isotonic rule, over 20 draws."""
    found = []
    for seed in range(20):
        fit, (scores, uncertainties, correct) = drawn(seed, 2000, depends), drawn(seed + 1000, 4000, depends)
        rules = [fitted(*fit, precision=precision) for fitted in (fit_cuts, fit_isotonic)]
        found.append([recall_gain(scores, correct, rule.accepts(scores, uncertainties)) for rule in rules])
    return np.mean(found, 0)


def test_where_uncertainty_says_nothing_there_is_no_gain():
    assert (gains(depends=False) <= 0).all()


def test_where_scores_are_worth_less_when_uncertain_the_plane_gains():
    assert (gains(depends=True) > 0.05).all()
