"""Strengths against scikit-learn's logistic regression, closed forms and the recipes' own fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.annotations.bradley_terry import (
    ELO,
    RIDGE,
    Battles,
    fit,
    islands,
    make_battles,
    one_sided,
    ratings,
    relative_difference,
    resampled_fits,
)
from pipelines.steps.aggregate import Battle as Fought
from pipelines.steps.aggregate import battle_matrix, elo


def planted(n: int, players: int, effects: list[float], seed: int) -> tuple[Battles, np.ndarray]:
    """Battles of players with known strengths and effects, a quarter of them ties, with uneven weights."""
    rng = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, players)
    first = rng.integers(players, size=n)
    second = (first + rng.integers(1, players, size=n)) % players
    controls = rng.normal(size=(n, len(effects)))
    won = rng.random(n) < 1 / (1 + np.exp(-(strength[first] - strength[second] + controls @ np.array(effects))))
    share = np.where(rng.random(n) < 0.25, 0.5, won)
    names = [(f"p{a}", f"p{b}") for a, b in zip(first, second, strict=True)]
    return make_battles(names, share, rng.integers(1, 4, size=n), controls), strength


def reference(battles: Battles) -> tuple[np.ndarray, np.ndarray]:
    """Strengths (mean 0) and effects of scikit-learn, every battle as a weighted win and a weighted loss."""
    from sklearn.linear_model import LogisticRegression

    n, rows = len(battles.players), np.arange(len(battles.first))
    design = np.zeros((len(rows), n))
    design[rows, battles.first] = 1
    design[rows, battles.second] = -1
    design = np.hstack([design[:, 1:], battles.controls])  # the first player is at 0
    weight = np.concatenate([battles.weight * battles.share, battles.weight * (1 - battles.share)])
    outcome = np.repeat([1, 0], len(rows))
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=2000)
    found = model.fit(np.vstack([design, design]), outcome, sample_weight=weight).coef_[0]
    strength = np.concatenate([[0], found[: n - 1]])
    return strength - strength.mean(), found[n - 1 :]


@pytest.mark.parametrize("effects", [[], [0.8], [0.8, -0.3]])
def test_strengths_and_effects_are_those_of_scikit_learn(effects) -> None:
    battles, _ = planted(1500, 6, effects, seed=len(effects))
    assert one_sided(battles) == []
    found, (expected, effect) = fit(battles), reference(battles)
    assert found.ridge == 0
    np.testing.assert_allclose(found.strength, expected, atol=1e-4)
    np.testing.assert_allclose(found.effect, effect, atol=1e-4)
    np.testing.assert_allclose(found.effect, np.array(effects) * 0.75, atol=0.25)  # ties draw effects towards 0


def test_two_players_are_the_odds() -> None:
    battles = make_battles([("a", "b")] * 3 + [("b", "a")], [1, 1, 1, 1])
    assert fit(battles).strength == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    with_tie = make_battles([("a", "b")] * 4, [1, 1, 0.5, 0.5])
    assert fit(with_tie).strength == pytest.approx([np.log(3) / 2, -np.log(3) / 2])


def test_with_a_ridge_it_is_the_fit_of_the_recipes() -> None:
    rng = np.random.default_rng(5)
    fought = [Fought(str(a), str(b), int(r)) for a, b, r in rng.integers([0, 0, 0], [5, 5, 2], (200, 3)) if a != b]
    fought = [battle._replace(result=battle.result or -1) for battle in fought]
    battles = make_battles([(str(b.first), str(b.second)) for b in fought], [float(b.result > 0) for b in fought])
    expected = elo(battle_matrix([str(i) for i in range(5)], fought), l2=0.01)
    np.testing.assert_allclose(fit(battles, ridge=0.01).strength, expected, atol=1e-7)


def test_an_undefeated_player_is_named_and_gets_a_finite_strength() -> None:
    battles = make_battles([("a", "b"), ("b", "a"), ("top", "a"), ("top", "b")] * 5, [1, 1, 1, 1] * 5)
    assert one_sided(battles) == ["top"]
    found = fit(battles)
    assert found.ridge == RIDGE and 2 < found.strength[2] < 20
    assert one_sided(make_battles([("a", "b")], [0.5])) == []
    assert one_sided(make_battles([("a", "b")] * 2, [1, 0], weight=[1, 0])) == ["b"]


def test_groups_that_never_met() -> None:
    battles = make_battles([("a", "b"), ("c", "d"), ("d", "e")], [1, 1, 0])
    assert islands(battles) == [["c", "d", "e"], ["a", "b"]]


def test_controls_that_cannot_be_told_apart_or_decide_everything_are_refused() -> None:
    battles, _ = planted(300, 4, [0.5], seed=9)
    twice = make_battles(
        [(battles.players[a], battles.players[b]) for a, b in zip(battles.first, battles.second, strict=True)],
        battles.share, controls=np.hstack([battles.controls, 2 * battles.controls]),
    )
    with pytest.raises(ValueError, match="does not vary apart"):
        fit(twice)
    decided = make_battles([("a", "b"), ("b", "a")] * 20, np.ones(40), controls=np.ones((40, 1)))  # who is first wins
    with pytest.raises(ValueError, match="no finite value"):
        fit(decided)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_swapping_sides_and_mixing_rows_change_nothing(seed: int) -> None:
    battles, _ = planted(120, 4, [0.6], seed)
    rng = np.random.default_rng(seed)
    order, swap = rng.permutation(120), rng.random(120) < 0.5
    first = np.where(swap, battles.second, battles.first)[order]
    second = np.where(swap, battles.first, battles.second)[order]
    share = np.where(swap, 1 - battles.share, battles.share)[order]
    controls = np.where(swap[:, None], -battles.controls, battles.controls)[order]
    found = fit(battles)
    again = fit(Battles(battles.players, first, second, share, battles.weight[order], controls))
    np.testing.assert_allclose(again.strength, found.strength, atol=1e-6)
    np.testing.assert_allclose(again.effect, found.effect, atol=1e-6)
    assert found.strength.sum() == pytest.approx(0, abs=1e-9)


def test_a_weight_of_two_is_the_battle_twice() -> None:
    names = [("a", "b"), ("b", "c"), ("c", "a")]
    weighed = fit(make_battles(names, [0.8, 0.7, 0.1], [2, 1, 1]))
    written = fit(make_battles([*names, names[0]], [0.8, 0.7, 0.1, 0.8]))
    np.testing.assert_allclose(weighed.strength, written.strength, atol=1e-8)


def test_resampled_fits_spread_as_the_information_says() -> None:
    """Two players, n battles at a half: the standard error of their difference is 2 / sqrt(n)."""
    battles = make_battles([("a", "b")] * 400, [1.0, 0.0] * 200)
    found = fit(battles)
    drawn = resampled_fits(battles, found, None, 300, seed=1)
    assert drawn.shape == (300, 2)
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(2 / np.sqrt(400), rel=0.15)
    together = resampled_fits(battles, found, np.repeat(np.arange(200), 2), 50, seed=1)
    np.testing.assert_allclose(together, 0, atol=1e-6)  # each prompt has one win and one loss


def test_ratings() -> None:
    strength = np.log(10) * np.array([0.5, -0.5])
    assert pytest.approx(173.7178) == ELO
    assert ratings(strength) == pytest.approx([1200, 800])
    assert ratings(strength, anchor=1, at=1000) == pytest.approx([1400, 1000])


def test_relative_difference() -> None:
    assert relative_difference([3, 0, 5], [1, 0, 0]).tolist() == [0.5, 0, 1]
