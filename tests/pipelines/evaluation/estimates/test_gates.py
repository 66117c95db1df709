"""Curves, areas, calibration and gates: fixtures of R14 and R16, and promises kept on new draws."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gates import Gate
from actors.weighed_verdicts import expected_digit, parse_digits
from pipelines.evaluation.estimates.gates import (
    Boundary,
    auc_interval,
    aurc,
    brier,
    calibration_auc,
    calibration_error,
    calibration_error_by_chance,
    choose_gate,
    choose_threshold,
    coverage_curve,
    items_needed,
    precision_bound,
    reliability,
    selective_auc,
)

ITEMS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30)


def columns(items: Any) -> Any:
    """Scores and labels of items."""
    return [np.array(column, dtype=float) for column in zip(*items, strict=True)]


def test_the_selective_area_of_the_published_fixture():
    scores, correct = [0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]
    assert coverage_curve(scores, correct) == pytest.approx([1, 1, 2 / 3, 0.75])
    assert selective_auc(scores, correct) == pytest.approx(0.854, abs=5e-4)
    assert aurc(scores, correct) == pytest.approx(1 - 0.854, abs=5e-4)


def test_calibration_area_is_1_for_a_perfect_scorer_and_half_for_a_constant_one():
    assert calibration_auc([0.9, 0.8, 0.2], [1, 1, 0]) == 1
    assert calibration_auc([0.5, 0.5, 0.5], [1, 1, 0]) == 0.5
    assert calibration_auc([0.1, 0.9], [1, 0]) == 0
    assert calibration_auc([0.1, 0.9], [1, 1]) is None


def test_a_perfect_score_answers_the_better_half_first_and_a_random_one_is_flat():
    rng = np.random.default_rng(0)
    correct = rng.random(4000) < 0.6
    perfect = coverage_curve(correct + rng.random(4000) / 2, correct)
    flat = coverage_curve(rng.random(4000), correct)
    assert perfect[1999] == 1 and perfect[-1] == pytest.approx(correct.mean())
    assert np.abs(flat[1000:] - correct.mean()).max() < 0.04


@settings(deadline=None)
@given(ITEMS, st.randoms(use_true_random=False))
def test_areas_do_not_depend_on_the_order_of_items(items, random):
    mixed = random.sample(items, len(items))
    (scores, correct), other = columns(items), columns(mixed)
    assert selective_auc(scores, correct) == pytest.approx(selective_auc(*other))
    assert calibration_auc(scores, correct) == pytest.approx(calibration_auc(*other))


@settings(deadline=None)
@given(ITEMS)
def test_the_area_counts_pairs(items):
    right = [score for score, correct in items if correct]
    wrong = [score for score, correct in items if not correct]
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    found = calibration_auc(*columns(items))
    assert found == (pytest.approx(np.mean(pairs)) if pairs else None)


@settings(deadline=None)
@given(st.lists(ITEMS.filter(lambda items: len(items) >= 3), min_size=1, max_size=4))
def test_many_draws_at_once_equal_one_by_one(draws):
    scores, correct = (np.array([[item[i] for item in items[:3]] for items in draws], dtype=float) for i in (0, 1))
    for area in (selective_auc, aurc, coverage_curve):
        one_by_one = np.array([area(*draw) for draw in zip(scores, correct, strict=True)])
        assert area(scores, correct, axis=-1) == pytest.approx(one_by_one)


@pytest.mark.parametrize(("right", "wrong", "skill"), [(60, 40, 1.0), (20, 20, 0.5), (90, 10, 2.0)])
def test_intervals_of_the_area_cover(right, wrong, skill):
    rng, truth, hits = np.random.default_rng(0), 0.5 * math.erfc(-skill / 2), 0
    labels = np.repeat([1, 0], [right, wrong])
    for _ in range(1000):
        area = calibration_auc(rng.normal(skill * labels, 1), labels) or 0.0
        low, high = auc_interval(area, right, wrong, 0.9)
        assert 0 <= low < area <= high <= 1 and low < high
        hits += low <= truth <= high
    assert 0.87 <= hits / 1000 <= 0.97


def test_a_perfect_area_of_few_items_is_not_sure():
    low, high = auc_interval(1.0, 5, 5)
    assert low < 0.8 and high == 1


def test_reliability_error_and_brier_of_a_worked_example():
    confidences, correct = [0.1, 0.1, 0.9, 0.9, 1.0], [0, 1, 1, 1, 0]
    table = reliability(confidences, correct, bins=2)
    assert [(row.low, row.high, row.n) for row in table] == [(0, 0.5, 2), (0.5, 1, 3)]
    assert table[0].accuracy == 0.5 and table[1].confidence == pytest.approx(2.8 / 3)
    assert calibration_error(confidences, correct, bins=2) == pytest.approx((2 * 0.4 + 3 * (2.8 / 3 - 2 / 3)) / 5)
    assert brier(confidences, correct) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01 + 1) / 5)
    with pytest.raises(ValueError, match="0 to 1"):
        reliability([1.2], [1])


def test_the_error_of_calibrated_scores_is_the_one_expected_by_chance():
    rng = np.random.default_rng(1)
    confidences = rng.random(400)
    found = [calibration_error(confidences, rng.random(400) < confidences) for _ in range(200)]
    assert np.mean(found) == pytest.approx(calibration_error_by_chance(confidences), rel=0.05)


def test_the_bound_is_that_of_clopper_and_pearson():
    assert precision_bound(59, 59) == pytest.approx(0.05 ** (1 / 59))
    assert precision_bound(0, 5) == 0
    assert items_needed(0.95) == 59
    assert precision_bound(items_needed(0.9), items_needed(0.9)) >= 0.9


def test_a_threshold_keeps_its_promise_on_new_items():
    rng, broken, chosen = np.random.default_rng(2), 0, 0
    for _ in range(400):
        scores = rng.random(1000)
        found = choose_threshold(scores, rng.random(1000) < scores, 0.8, level=0.9)
        if found is not None:
            chosen += 1
            broken += (1 + found) / 2 < 0.8  # the mean of what is accepted from here on
    assert chosen > 300 and broken <= 0.1 * 400


def test_a_lucky_share_without_enough_items_is_no_promise():
    assert choose_threshold([0.9] * 10, [1] * 10, 0.9) is None
    assert choose_threshold(np.linspace(0, 1, 200), np.ones(200), 0.9) is not None


def test_a_boundary_accepts_by_level_of_uncertainty():
    boundary = Boundary((0.8, math.inf), edges=(0.1,))
    assert list(boundary.accepts([0.85, 0.85], [0.05, 0.2])) == [True, False]
    assert boundary.floors() == (0.8, None)
    with pytest.raises(ValueError, match="one more threshold"):
        Boundary((0.8,), edges=(0.1,))


@settings(deadline=None)
@given(ITEMS, st.floats(0.05, 0.95), st.floats(0, 1))
def test_a_chosen_gate_never_labels_more_than_it_may_beyond_ties(items, precision, share):
    scores, correct = columns(items)
    gate = choose_gate(scores, correct, precision, label_share=share)
    fates = [gate.decide(score).fate for score in scores]
    labelled = [score for score, fate in zip(scores, fates, strict=True) if fate == "label"]
    assert sum(score > min(labelled) for score in labelled) <= share * len(items) if labelled else True


def test_the_gate_of_self_j_is_a_threshold_on_the_expected_digit():
    logps = {digit: math.log(p) for digit, p in {"5": 0.1, "6": 0.2, "7": 0.4, "8": 0.2}.items()}
    score = expected_digit(logps)
    assert score == pytest.approx(6.7778, abs=1e-4)
    fates = [Gate(method="self_j", thresholds=(threshold,)).decide(score).fate for threshold in (6.5, 7.0)]
    assert fates == ["keep", "abstain"]
    assert Gate(method="self_j", thresholds=(0.0,)).decide(parse_digits("{}").value).fate == "abstain"


@settings(deadline=None)
@given(ITEMS, st.floats(0.01, 1))
def test_a_coverage_is_kept_and_no_more_than_ties_add(items, coverage):
    scores, correct = columns(items)
    gate = choose_gate(scores, correct, 0.9, coverage=coverage)
    kept = [score for score in scores if gate.decide(score).fate == "keep"]
    assert len(kept) >= coverage * len(items) - 1e-9
    assert sum(score > min(kept) for score in kept) < coverage * len(items) + 1e-9
    assert not gate.promised and gate.required_coverage == coverage and gate.method == "coverage"
