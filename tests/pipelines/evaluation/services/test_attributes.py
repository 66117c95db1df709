"""Items assigned to attributes by an integer program: R18's numbers, brute force, and what follows for new data."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation.services.attributes import (
    assign,
    distinct_names,
    divergence,
    priors,
    proficiency,
    targeted,
    top_attributes,
    weakness_weights,
)

R18 = np.array([[5, 4], [5, 1], [5, 4], [5, 2]])
HALF = np.array([0.5, 0.5])


def test_r18_fixture() -> None:
    found = assign(R18, HALF, per_item=1, slack=0)
    assert found.objective == 18 and found.slack == 0
    assert found.chosen.tolist() == [[False, True], [True, False], [False, True], [True, False]]
    assert R18.max(axis=1).sum() == 20  # the greedy choice, all four on the first attribute, breaks the shares


def best_of_all(a: np.ndarray, per_item: int, low: np.ndarray, high: np.ndarray) -> float | None:
    """The most affinity over all assignments that fit, by trying each."""
    best = None
    for bits in product([0, 1], repeat=a.size):
        x = np.array(bits).reshape(a.shape)
        count = x.sum(axis=0)
        if (x.sum(axis=1) <= per_item).all() and (count >= low).all() and (count <= high).all():
            best = max(best if best is not None else -np.inf, float((x * a).sum()))
    return best


@settings(max_examples=25, deadline=None)
@given(arrays(int, st.tuples(st.integers(1, 4), st.integers(1, 3)), elements=st.integers(1, 5)), st.integers(1, 2),
       st.sampled_from([0.0, 0.1, 0.5]))  # fmt: skip
def test_no_assignment_within_the_shares_is_better(a: np.ndarray, per_item: int, slack: float) -> None:
    prior = priors(a)
    found = assign(a, prior, per_item, slack)
    wanted = per_item * len(a) * prior
    low, high = (1 - found.slack) * wanted - 1e-9, (1 + found.slack) * wanted + 1e-9
    assert found.objective == best_of_all(a, per_item, np.maximum(low, 0), high)
    count = found.chosen.sum(axis=0)
    assert (found.chosen.sum(axis=1) <= per_item).all() and (count >= low).all() and (count <= high).all()
    assert found.slack >= slack


def test_the_slack_is_widened_in_steps_until_the_shares_fit() -> None:
    found = assign(np.full((3, 2), 3), HALF, per_item=1, slack=0)  # one and a half items each
    assert found.slack == pytest.approx(0.4) and sorted(found.chosen.sum(axis=0)) == [1, 2]
    one = assign(np.array([[5, 5]]), HALF, per_item=1, slack=0)
    assert one.slack == 1.0 and one.objective == 5


@pytest.mark.parametrize(
    ("a", "prior", "options"),
    [(R18, np.array([1.0]), {}), (R18, np.array([0.7, 0.7]), {}), (R18, HALF, {"slack": -1}),
     (np.empty((0, 2)), HALF, {}), (R18.astype(float) * np.nan, HALF, {}), (R18, HALF, {"per_item": 0})],
)  # fmt: skip
def test_what_makes_no_program_is_refused(a: np.ndarray, prior: np.ndarray, options: dict) -> None:
    with pytest.raises(ValueError):
        assign(a, prior, **options)


def test_priors_and_the_most_common_attributes() -> None:
    assert priors(np.array([[1, 3], [3, 5]])).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert top_attributes(np.array([[1, 5, 4], [2, 5, 4]]), 2) == [1, 2] and top_attributes(R18, 9) == [0, 1]


def test_scores_by_attribute_have_intervals_and_the_weakest_comes_first() -> None:
    chosen = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=bool)
    rows = proficiency(["a", "b", "c"], chosen, [1.0, 1.0, 0.0, None])
    assert [(r["attribute"], r["items"], r["scored"], r["score"]) for r in rows] == [
        ("b", 3, 2, 0.5), ("a", 2, 2, 1.0), ("c", 0, 0, None)]  # fmt: skip
    assert rows[0]["low"] == pytest.approx(0.0945, abs=1e-4) and rows[0]["high"] == pytest.approx(0.9055, abs=1e-4)
    (graded,) = proficiency(["a"], np.ones((3, 1), dtype=bool), [2.0, 3.0, 4.0])
    assert (graded["low"], graded["high"]) == pytest.approx((0.516, 5.484), abs=1e-3)  # Student's, with two degrees


def test_divergence_is_the_share_of_items_two_apart() -> None:
    assert divergence(np.array([[5, 1], [3, 3]]), np.array([[3, 2], [3, 1]])).tolist() == [0.5, 0.5]


def test_weak_attributes_weigh_by_their_distance_to_the_best() -> None:
    assert weakness_weights([0.9, 0.6, 0.3, None]) == pytest.approx([0.0, 1 / 3, 2 / 3, 0.0])
    assert weakness_weights([0.5, 0.5, None]) == [0.5, 0.5, 0.0] and weakness_weights([None]) == [0.0]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=6))
def test_weights_are_shares(scores: list[float | None]) -> None:
    weights = weakness_weights(scores)
    assert all(w >= 0 for w in weights) and sum(weights) == pytest.approx(float(any(s is not None for s in scores)))


def test_prompts_are_drawn_in_proportion_each_once() -> None:
    chosen = np.zeros((20, 3), dtype=bool)
    chosen[:10, 0] = chosen[5:15, 1] = chosen[10:, 2] = True
    drawn = targeted(chosen, [0.0, 0.25, 0.75], 8, seed=1)
    assert [j for _, j in drawn] == [2] * 6 + [1] * 2 and len({i for i, _ in drawn}) == 8
    assert all(chosen[i, j] for i, j in drawn)
    assert targeted(chosen, [0.0, 0.25, 0.75], 8, seed=1) == drawn != targeted(chosen, [0.0, 0.25, 0.75], 8, seed=2)
    assert len(targeted(chosen, [0.0, 1.0, 0.0], 50, seed=1)) == 10  # no more than there are
    assert targeted(chosen, [0.0, 0.0, 0.0], 5, seed=1) == []


def test_names_that_say_the_same_are_one() -> None:
    names = ["solving linear equations", "Solving linear equations", "solving of linear equations", "geometry"]
    assert distinct_names(names) == ["solving linear equations", "geometry"]
