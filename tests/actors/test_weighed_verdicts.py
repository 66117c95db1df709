"""Probabilities of choices from log-probabilities: spellings, floors, and abstentions (R16, section 3)."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.weighed_verdicts import log_sum_exp, parse_top_logps, parse_weights


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
        assert parse_weights(text, "A").status == status


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


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["A", " A", "B", "(B", "C", "x", "y"]), st.floats(-30, -2), max_size=7))
def test_an_absent_letter_never_beats_one_that_was_returned(top):
    found = parse_top_logps(top, "ABC")
    returned = {token.strip(" (") for token in top} & set("ABC")
    assert (found.status == "ok") == bool(returned)
    if found.value is not None:
        assert math.fsum(found.value.values()) == pytest.approx(1)
        absent = [found.value[letter] for letter in "ABC" if letter not in returned]
        assert all(p <= min(found.value[letter] for letter in returned) * (1 + 1e-9) for p in absent)


def test_choices_without_any_probability_say_nothing():
    assert parse_top_logps({"A": -math.inf, "x": -0.1}, "AB") == (None, "missing")
