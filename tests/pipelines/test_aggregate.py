import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.aggregate import Battle, battle_matrix, elo, mean, position_weights, variance

FIXTURE = [Battle(0, 1, 1), Battle(1, 0, 1), Battle(0, 2, 1), Battle(2, 0, -1), Battle(1, 2, 1), Battle(2, 1, 1)]

battles_of_four = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([-1, 0, 1])).filter(lambda b: b[0] != b[1]),
    max_size=40,
).map(lambda found: [Battle(*b) for b in found])


def test_mean_of_readable_scores_and_none_without_any() -> None:
    assert mean([4, 5]) == 4.5
    assert mean([]) is None
    assert mean([0.1] * 10) == 0.1


def test_variance_is_the_population_variance() -> None:
    assert variance([1, 3]) == 1.0
    assert variance([2]) == 0.0
    with pytest.raises(ValueError, match="no values"):
        variance([])


@given(st.lists(st.floats(0, 5), min_size=1), st.randoms())
def test_mean_and_variance_do_not_depend_on_the_order(values: list[float], random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert mean(shuffled) == mean(values)
    assert variance(shuffled) == variance(values)


def test_r4_position_weights_fixture() -> None:
    assert position_weights(FIXTURE) == (1 / 6, 5 / 6)
    matrix = battle_matrix([0, 1, 2], FIXTURE, (1 / 6, 5 / 6))
    np.testing.assert_allclose(matrix, [[0, 1 / 6, 1], [1 / 6, 0, 1 / 6], [0, 1 / 6, 0]])
    assert elo(matrix, l2=0.01) == pytest.approx([1.079, 0, -1.079], abs=5e-4)


def test_position_weights_need_wins_on_both_sides() -> None:
    always_first = [Battle(m, n, 1) for m in range(3) for n in range(3) if m != n]
    assert position_weights(always_first) is None
    assert position_weights([b._replace(result=-1) for b in always_first]) is None
    assert position_weights([b._replace(result=0) for b in always_first]) is None
    assert position_weights([]) is None


def test_always_first_gives_equal_elo_under_any_weights() -> None:
    always_first = [Battle(m, n, 1) for m in range(4) for n in range(4) if m != n]
    assert elo(battle_matrix(range(4), always_first, (0.3, 0.7))) == [0.0] * 4


def test_battles_of_strangers_and_ties_leave_the_matrix_alone() -> None:
    assert not battle_matrix(["a", "b"], [Battle("a", "x", 1), Battle("a", "b", 0)]).any()


def test_elo_order_is_win_order_when_every_pair_fought_equally() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        wins = np.triu(rng.integers(0, 11, (6, 6)), 1)
        matrix = wins + np.tril(10 - wins.T, -1)
        scores, totals = elo(matrix), matrix.sum(1)
        for m in range(6):
            for n in range(6):
                assert (scores[m] > scores[n]) == (totals[m] > totals[n])


def test_elo_is_the_maximum_of_the_ridged_likelihood() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.integers(0, 50, (7, 7)) * rng.random((7, 7))
    np.fill_diagonal(matrix, 0)
    e = np.array(elo(matrix))
    win = 1 / (1 + np.exp(e[None, :] - e[:, None]))
    gradient = (matrix * (1 - win)).sum(1) - (matrix.T * (1 - win.T)).sum(1) - 0.02 * e
    assert np.abs(gradient).max() < 1e-5


def test_elo_is_finite_for_an_item_that_always_wins() -> None:
    scores = elo(np.array([[0, 1e6], [0, 0]]))
    assert np.isfinite(scores).all() and scores[0] == -scores[1] > 5
    with pytest.raises(ValueError, match="l2"):
        elo(np.zeros((2, 2)), l2=0)
    assert elo(np.zeros((0, 0))) == []


@given(battles_of_four, st.permutations(range(4)), st.randoms())
def test_elo_follows_a_permutation_of_items_and_ignores_the_order_of_battles(found, order, random) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    scores = elo(battle_matrix(range(4), found, (0.25, 0.75)))
    permuted = elo(battle_matrix(order, shuffled, (0.25, 0.75)))
    assert permuted == pytest.approx([scores[i] for i in order], abs=2e-9)
    assert elo(battle_matrix(range(4), shuffled, (0.25, 0.75))) == scores
    assert sum(scores) == pytest.approx(0, abs=1e-8)
