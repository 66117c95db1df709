import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.lengths import (
    count_words,
    draw_limits,
    given_limit,
    length_adjusted,
    limit_case,
    limited_win_rate,
    violates,
    violation_rate,
    z_scores,
)

SCORES = {"y0": 4.0, "y1": 3.0, "y2": 2.0, "y3": 1.0}
CHARS = {"y0": 400, "y1": 100, "y2": 200, "y3": 300}

words = st.integers(0, 400)
numbers = st.lists(st.floats(-1e6, 1e6), max_size=12)
FLIP_TABLE = [
    (120, 60, 150, "limit_both"),
    (120, 60, 90, "limit_flipped"),
    (120, 60, 40, None),
    (60, 120, 90, "limit_kept"),
    (60, 120, 60, "limit_kept"),  # a text that is as long as its limit keeps to it
    (60, 120, 59, None),
    (60, 120, 120, "limit_both"),
    (120, 60, 60, "limit_flipped"),
]


@pytest.mark.parametrize(("chosen", "rejected", "limit", "case"), FLIP_TABLE)
def test_lift_flip_table_fixture(chosen: int, rejected: int, limit: int, case: str | None) -> None:
    assert limit_case(chosen, rejected, limit) == case
    assert given_limit(chosen, rejected, limit) == ([(limit, case)] if case else [])


@given(words, words, st.integers(0, 500))
def test_the_preferred_side_never_violates_while_the_other_satisfies(chosen: int, rejected: int, limit: int) -> None:
    case = limit_case(chosen, rejected, limit)
    better, worse = (rejected, chosen) if case == "limit_flipped" else (chosen, rejected)
    assert (case is None) == (violates(better, limit) and violates(worse, limit))
    assert case is None or not violates(better, limit)
    assert (case == "limit_both") == (not violates(better, limit) and not violates(worse, limit))


@given(words, words, st.floats(1, 4), st.text(max_size=3))
def test_limits_are_drawn_inside_their_intervals(chosen: int, rejected: int, slack: float, prompt: str) -> None:
    short, long = sorted((chosen, rejected))
    limits = draw_limits(chosen, rejected, slack, 0, prompt)
    assert limits == draw_limits(chosen, rejected, slack, 0, prompt)
    assert len(limits) == (long > 0) + (max(short, 1) < long)
    for place, limit in enumerate(limits):
        assert limit.case == limit_case(chosen, rejected, limit.words) and limit.words >= 1
        assert (limit.case == "limit_both") == (place == 0)
        assert (long <= limit.words <= slack * long) if place == 0 else (short <= limit.words < long)


def test_limits_are_uniform_and_differ_by_place() -> None:
    drawn = [draw_limits(60, 64, 1.0, seed) for seed in range(800)]
    assert {both.words for both, _ in drawn} == {64}
    counts = [sum(between.words == limit for _, between in drawn) for limit in range(60, 64)]
    assert sum(counts) == 800 and all(150 < count < 250 for count in counts)


@pytest.mark.parametrize("limit", [None, "90", 90.5, True, 0, -3, [90]])
def test_what_is_no_limit_is_not_used(limit: object) -> None:
    assert given_limit(120, 60, limit) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("  \n\t ", 0),
        ("one two  three\nfour", 4),
        ("## A title\n\n- first\n- **second**\n* _third_", 5),
        ("1. one\n2) two\n3.5 is a number", 6),
        ("```python\nx = 1\n```\nend", 3),
        ("Use ```code``` here", 3),
        ("See [the page](https://example.org/a_b) now -- really!", 5),
        ("a|b | c |---|", 2),
        ("don't well-known e.g. 3,000", 4),
        ("Zwölf Öfen, größer", 3),
    ],
)
def test_words_are_counted_without_markdown(text: str, count: int) -> None:
    assert count_words(text) == count


@given(st.text(), st.text())
def test_words_of_two_lines_add_up(first: str, second: str) -> None:
    assert count_words(f"{first}\n{second}") == count_words(first) + count_words(second)
    assert 0 <= count_words(first) <= len(first.split())


def test_counting_words_is_linear() -> None:
    for text in ("](" * 200_000, "```" * 100_000, " " * 500_000, "1" * 300_000, "\n" * 500_000, "`~" * 200_000):
        count_words(text)  # a quadratic one takes minutes


@pytest.mark.parametrize(
    ("rho", "adjusted", "best"),
    [(0, [1.342, 0.447, -0.447, -1.342], "y0"), (0.5, [0.671, 1.118, -0.224, -1.565], "y1"),
     (1, [0, 1.789, 0, -1.789], "y1")],
)  # fmt: skip
def test_z_score_fixture(rho: float, adjusted: list[float], best: str) -> None:
    found = length_adjusted(SCORES, CHARS, rho)
    assert list(found.values()) == pytest.approx(adjusted, abs=5e-4)
    assert (max(found, key=found.__getitem__), min(found, key=found.__getitem__)) == (best, "y3")


@given(numbers, st.floats(-100, 100), st.floats(0.01, 100))
def test_z_scores_are_standard_and_ignore_unit_and_origin(values: list[float], shift: float, scale: float) -> None:
    z = z_scores(values)
    assert len(z) == len(values)
    if not any(z):
        assert z == [0.0] * len(values)
        return
    assert math.fsum(z) == pytest.approx(0, abs=1e-3)
    assert math.fsum(x * x for x in z) / len(z) == pytest.approx(1, abs=1e-3)
    if max(values) - min(values) > 1:  # smaller ones drown in the shift's rounding
        assert z_scores([scale * value + shift for value in values]) == pytest.approx(z, abs=1e-4)


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_z_scores_of_equal_values_are_zero(value: float, count: int) -> None:
    assert z_scores([value] * count) == [0.0] * count


@given(st.dictionaries(st.text(max_size=2), st.tuples(st.integers(0, 5), st.integers(0, 900)), max_size=8),
       st.floats(0, 2), st.randoms())  # fmt: skip
def test_adjusted_scores_ignore_arrival(rows: dict[str, tuple[int, int]], rho: float, shuffler: random.Random) -> None:
    scores, lengths = ({i: float(row[k]) for i, row in rows.items()} for k in (0, 1))
    mixed = list(scores)
    shuffler.shuffle(mixed)
    adjusted = length_adjusted(scores, lengths, rho)
    assert length_adjusted({i: scores[i] for i in mixed}, lengths, rho) == adjusted
    assert adjusted.keys() == scores.keys()


def test_of_equal_scores_the_shorter_is_better_and_equal_lengths_change_nothing() -> None:
    same = dict.fromkeys(SCORES, 3.0)
    adjusted = length_adjusted(same, CHARS, 0.3)
    assert max(adjusted, key=adjusted.__getitem__) == "y1"
    assert list(length_adjusted(SCORES, dict.fromkeys(SCORES, 7), 0.5).values()) == z_scores([4.0, 3.0, 2.0, 1.0])
    assert length_adjusted({}, {}, 0.5) == {}


@pytest.mark.parametrize("rho", [-0.1, math.nan])
def test_a_negative_rho_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        length_adjusted(SCORES, CHARS, rho)
    with pytest.raises(KeyError):
        length_adjusted(SCORES, {}, 0.1)


def test_length_instructed_evaluation() -> None:
    limits = [50, 50, 50, 20]
    assert violation_rate([50, 51, 10, 21], limits) == 0.5
    assert limited_win_rate([50, 51, 10, 21], limits, [1.0, 1.0, 0.5, 1.0]) == (1 + 0 + 0.5 + 0) / 4
    assert violation_rate([], []) is None and limited_win_rate([], [], []) is None
    with pytest.raises(ValueError, match="shorter"):
        violation_rate([1, 2], [3])


@given(st.lists(st.tuples(words, words, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_limits_can_only_cost_wins(rows: list[tuple[int, int, float]]) -> None:
    lengths, limits, preferences = (list(column) for column in zip(*rows, strict=True))
    won, violated = limited_win_rate(lengths, limits, preferences), violation_rate(lengths, limits)
    assert won is not None and violated is not None
    assert won <= math.fsum(preferences) / len(rows) + 1e-9
    assert won <= 1 - violated + 1e-9
    assert limited_win_rate(lengths, [400] * len(rows), preferences) == math.fsum(preferences) / len(rows)
