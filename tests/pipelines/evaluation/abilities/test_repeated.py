from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.abilities.repeated import majority_right, pass_at_k


def test_pass_at_k_fixtures() -> None:
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of 6 pairs hold the right one
    assert pass_at_k(8, 2, 4) == pytest.approx(1 - 15 / 70)
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 3, 4) == 1.0  # only two are wrong


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(right: list[bool], data) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = list(combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_that_is_not_defined(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(n, right, k)


def test_majority_fixtures() -> None:
    # R1 section 7: [12, 12, 12, 15, 12, 7, 15, 12] with gold 12
    answers = ["12", "12", "12", "15", "12", "7", "15", "12"]
    assert majority_right(answers, [a == "12" for a in answers]) == 1.0
    assert majority_right(answers, [a == "15" for a in answers]) == 0.0
    assert majority_right(["1", "2", "2", "1", None], [True, False, False, True, False]) == 0.5
    assert majority_right(["1", "2", "3"], [False, True, False]) == pytest.approx(1 / 3)
    assert majority_right([None, None, "1"], [False, False, True]) == 1.0  # who says nothing does not vote
    assert majority_right([None], [False]) == 0.0
    assert majority_right([], []) == 0.0


def test_majority_of_8_is_what_the_binomial_says() -> None:
    # two answers, right with probability .6: more than half right .594, tied .232
    from math import comb

    expected = 0.0
    for right in range(9):
        flags = [True] * right + [False] * (8 - right)
        expected += comb(8, right) * 0.6**right * 0.4 ** (8 - right) * majority_right(list(map(str, flags)), flags)
    assert expected == pytest.approx(0.594 + 0.232 / 2, abs=5e-4)


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=9))
def test_majority_does_not_depend_on_the_order(answers: list[str | None]) -> None:
    right = [answer == "a" for answer in answers]
    assert majority_right(answers, right) == majority_right(answers[::-1], right[::-1])
