"""Which answer is given and how sure: the fixtures of R16, orders and abstentions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.estimates.selective_scores import (
    Letters,
    Shown,
    by_likelihood,
    debiased,
    hybrid,
    orders,
    sample_and_eval,
    sample_and_select,
)

FIXTURE = (0.5, 0.2, 0.1, 0.1)


def test_the_fixture_of_the_recipe():
    yes = [0.7, 0.2, 0.2, 0.2]
    assert hybrid(Letters(FIXTURE, None), yes) == (0, 0.7)
    assert hybrid(Letters(FIXTURE, 0.1), yes) == (0, pytest.approx(0.6))
    rescaled = tuple(p * 0.55 / 0.9 for p in FIXTURE)
    assert hybrid(Letters(rescaled, 0.45), yes).score == pytest.approx(0.6 - 0.35)
    assert sample_and_select(Letters(FIXTURE, None)) == (0, 0.5)
    assert sample_and_select(Letters(FIXTURE, 0.1)) == (0, -0.1)
    assert sample_and_eval([0.3, 0.9, None]) == (1, 0.9)


def test_none_of_the_above_is_never_given_as_an_answer():
    assert sample_and_select(Letters((0.1, 0.2), 0.7)) == (1, -0.7)
    assert hybrid(Letters((0.1, 0.2), 0.7), [0.9, 0.4]) == (1, pytest.approx(-0.3))


def test_nothing_read_is_an_abstention_and_never_a_number():
    assert debiased([]) is None
    assert sample_and_select(None) == hybrid(None, [0.9]) == sample_and_eval([None, None]) == (None, None)
    assert hybrid(Letters((0.9, 0.1), None), [None, 0.9]) == (None, None)


def test_likelihood_by_sum_and_by_token():
    logps = [[-1.0, -1.0, -1.0], [-2.0]]
    assert by_likelihood(logps, per_token=False) == (1, -2.0)
    assert by_likelihood(logps, per_token=True) == (0, -1.0)


@pytest.mark.parametrize(("candidates", "count"), [(1, 1), (3, 6), (4, 24), (5, 5), (9, 9)])
def test_orders_show_every_candidate_equally_often_in_each_place(candidates, count):
    found = orders(candidates)
    assert len(set(found)) == count
    for place in range(candidates):
        shown = [order[place] for order in found]
        assert {shown.count(c) for c in range(candidates)} == {count // candidates}


@settings(deadline=None)
@given(st.integers(2, 5), st.data())
def test_a_preference_for_places_alone_prefers_no_candidate(candidates, data):
    by_place = data.draw(st.lists(st.floats(0.01, 1), min_size=candidates, max_size=candidates))
    shown = [Shown(o, dict(zip("ABCDE", by_place, strict=False))) for o in orders(candidates)]
    found = debiased(shown)
    assert found is not None and found.nota is None
    assert found.candidates == pytest.approx([sum(by_place) / candidates] * candidates)


def test_the_debiased_probability_follows_the_candidate():
    shown = [Shown((0, 1), {"A": 0.6, "B": 0.3, "C": 0.1}), Shown((1, 0), {"A": 0.5, "B": 0.2, "C": 0.3})]
    assert debiased(shown) == (pytest.approx((0.4, 0.4)), pytest.approx(0.2))
