import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.select import best_worst, max_variance, parallel_walk, tier_pair

RESPONSES = [(4.6, 900), (4.5, 400), (4.2, 300), (3.0, 500), (2.4, 800), (2.2, 200)]
SCORES = {f"y{i}": score for i, (score, _) in enumerate(RESPONSES)}
LENGTHS = {f"y{i}": chars for i, (_, chars) in enumerate(RESPONSES)}

some_scores = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 10).map(lambda i: i / 2))


@pytest.mark.parametrize(("rho", "chosen", "rejected"), [(0, 0, 5), (0.1, 1, 4), (0.32, 2, 4), (0.4, 2, 4)])
def test_r4_tiers_fixture(rho: float, chosen: int, rejected: int) -> None:
    assert tier_pair(SCORES, LENGTHS, rho) == (f"y{chosen}", f"y{rejected}")


@pytest.mark.parametrize("rho", [0.5, 0.9, -0.1, math.nan])
def test_tiers_that_overlap_are_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        tier_pair(SCORES, LENGTHS, rho)


def test_equal_scores_prefer_nothing() -> None:
    assert tier_pair({"a": 3.0, "b": 3.0}, {"a": 1, "b": 9}, 0.4) is None
    assert tier_pair({"a": 3.0}, {"a": 1}, 0) is None
    assert tier_pair({}, {}, 0) is None


def test_a_score_on_the_border_belongs_to_its_tier() -> None:
    scores = {"a": 0.7, "b": 0.7 - 0.1 * 0.6, "c": 0.1}  # b is the border of rho = 0.1 up to rounding
    assert tier_pair(scores, {"a": 9, "b": 1, "c": 5}, 0.1) == ("b", "c")


@given(some_scores, st.floats(0, 0.49), st.randoms(), st.integers(0, 3))
def test_tier_pair_is_ordered_and_ignores_arrival(scores: dict[str, float], rho: float, random, seed: int) -> None:
    lengths = {i: len(i) for i in scores}
    pair = tier_pair(scores, lengths, rho, seed)
    assert (pair is None) == (len(set(scores.values())) < 2)
    if pair:
        assert scores[pair[0]] > scores[pair[1]]
    shuffled = list(scores.items())
    random.shuffle(shuffled)
    assert tier_pair(dict(shuffled), lengths, rho, seed) == pair


def test_ties_go_by_seed_not_by_place() -> None:
    scores, lengths = {f"y{i}": float(i > 0) for i in range(6)}, dict.fromkeys(SCORES, 5)
    chosen = {tier_pair(scores, lengths, 0, seed) for seed in range(40)}
    assert len(chosen) == 5  # each of the five equal ones wins for some seed
    assert tier_pair(dict(reversed(scores.items())), lengths, 0, 3) == tier_pair(scores, lengths, 0, 3)


def test_max_variance_takes_the_most_disputed_response() -> None:
    assert max_variance({"a": [3, 3], "b": [1, 5], "c": [2, 4]}) == "b"
    assert max_variance({}) is None
    tied = {"a": [1, 3], "b": [2, 4], "c": [3, 5]}
    assert {max_variance(tied, seed) for seed in range(30)} == {"a", "b", "c"}
    assert max_variance(dict(reversed(tied.items())), 4) == max_variance(tied, 4)


def test_best_and_worst() -> None:
    assert best_worst({"a": 0.1, "b": 1.0, "c": -1.1}) == ("b", "c")
    assert best_worst({"a": 0.0, "b": 0.0}) is None
    assert best_worst({"a": 1.0}) is None
    assert best_worst({}) is None


def test_r6_parallel_walk_fixture() -> None:
    walk = parallel_walk(["c1", "c2", "c3"], ["w1", "w2"], 5)
    assert walk == [("c1", "w1"), ("c2", "w2"), ("c3", "w1"), ("c1", "w2"), ("c2", "w1")]


def test_r6_parallel_walk_needs_both_sides() -> None:
    assert parallel_walk(["c1"], [], 10) == []
    assert parallel_walk([], ["w1"], 10) == []


def test_r6_one_gold_chain_meets_ten_wrong_ones() -> None:
    walk = parallel_walk(["gold"], [f"w{i}" for i in range(29)], 10)
    assert walk == [("gold", f"w{i}") for i in range(10)]


def test_r6_repeats_are_dropped() -> None:
    assert parallel_walk(["c1", "c2", "c3"], ["w1", "w2"], 100)[5:] == [("c3", "w2")]
    assert parallel_walk(["c", "c"], ["w"], 10) == [("c", "w")]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 40))
def test_parallel_walk_is_distinct_and_bounded(n: int, m: int, k: int) -> None:
    walk = parallel_walk([f"c{i}" for i in range(n)], [f"w{i}" for i in range(m)], k)
    assert len(walk) == len(set(walk)) == (min(k, math.lcm(n, m)) if n and m else 0)
