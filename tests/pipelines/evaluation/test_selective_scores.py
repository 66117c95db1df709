"""Which answer is given and how sure: the fixtures of R16, orders, spellings, floors and abstentions."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.weighed_verdicts import log_sum_exp, parse_top_logps, parse_weights, read_logps
from pipelines.evaluation.selective_scores import (
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


def test_spellings_are_added_and_words_read_in_any_case():
    top = {"A": math.log(0.2), " A": math.log(0.1), "(A": math.log(0.1), " B": math.log(0.4), "a": math.log(0.2)}
    found = parse_top_logps(top, "AB")
    assert found.status == "ok" and found.value == pytest.approx({"A": 0.5, "B": 0.5})
    said = parse_top_logps({" yes": math.log(0.5), "YES.": math.log(0.25), "No": math.log(0.25)}, ("Yes", "No")).value
    assert said == pytest.approx({"Yes": 0.75, "No": 0.25})


def test_a_letter_that_was_not_returned_gets_at_most_what_it_can_have():
    top = {"A": math.log(0.6), "B": math.log(0.2), "The": math.log(0.1)}
    assert parse_top_logps(top, "ABC").value == pytest.approx({"A": 0.6 / 0.9, "B": 0.2 / 0.9, "C": 0.1 / 0.9})
    nearly_all = {"A": math.log(0.7), "B": math.log(0.29)}
    assert parse_top_logps(nearly_all, "ABC").value == pytest.approx({"A": 0.7, "B": 0.29, "C": 0.01})


def test_without_any_letter_there_is_no_reading():
    assert parse_top_logps({"The": -0.1}, "AB") == (None, "missing") == parse_top_logps({}, "AB")
    assert parse_top_logps({"A": 0.5}, "AB") == (None, "out_of_range")
    assert parse_top_logps({"A": math.nan}, "AB") == (None, "missing")


def test_weights_of_a_whole_vocabulary():
    said = json.dumps({"A": math.log(0.3), "B": math.log(0.1), "C": None, "D": -1.0})
    assert parse_weights(said, "ABC").value == pytest.approx({"A": 0.75, "B": 0.25, "C": 0})
    assert parse_weights('{"A": null}', "A") == (None, "missing")
    for text, status in (("[1]", "missing"), ("x", "missing"), ('{"A": "1"}', "missing"), ('{"A": 1}', "out_of_range")):
        assert read_logps(text, "A").status == parse_weights(text, "A").status == status


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("ABCDE"), st.floats(-800, 0), min_size=1))
def test_probabilities_sum_to_1_and_keep_the_order(logps):
    found = parse_weights(json.dumps(logps), "ABCDE").value or {}
    assert math.fsum(found.values()) == pytest.approx(1)
    assert max(logps, key=lambda k: logps[k]) in [k for k in found if found[k] == max(found.values())]


def test_log_sum_exp():
    assert log_sum_exp([math.log(0.2), math.log(0.3)]) == pytest.approx(math.log(0.5))
    assert log_sum_exp([]) == log_sum_exp([-math.inf]) == -math.inf
    assert log_sum_exp([-2000.0, -2000.0]) == pytest.approx(-2000 + math.log(2))
