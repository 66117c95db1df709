"""Quotas of an iteration: their arithmetic, and which pairs fill them."""

from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import Pair
from pipelines.steps.quotas import even, in_ratio, kept_pairs, take, together
from tests.pipelines.planted import group

RATIO = {"judge": 70, "verdict": 15, "deduction": 15}
counts_of = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 400), min_size=1)


def pair(name: str) -> Pair:
    return cast(Pair, {"pair_id": name})


def offers(counts: dict[str, int], per_group: int = 3) -> list[Any]:
    """Groups that offer up to `per_group` pairs of each class."""
    groups: list[Any] = []
    for kind, n in counts.items():
        for i in range(n):
            while len(groups) <= i // per_group:
                groups.append([])
            groups[i // per_group].append((kind, pair(f"{kind}{i}")))
    return groups


def test_r13_mixture_fixture() -> None:
    assert in_ratio(RATIO)({"judge": 5000, "verdict": 150, "deduction": 400}) == {
        "judge": 700, "verdict": 150, "deduction": 150
    }
    kept = kept_pairs(offers({"judge": 5000, "verdict": 150, "deduction": 400}), in_ratio(RATIO), 0)
    assert Counter(name.rstrip("0123456789") for name in kept) == {"judge": 700, "verdict": 150, "deduction": 150}


def test_a_ratio_rounds_up_and_goes_on_without_a_class_that_has_none() -> None:
    assert in_ratio(RATIO)({"judge": 2, "verdict": 1, "deduction": 1}) == {"judge": 2, "verdict": 1, "deduction": 1}
    assert in_ratio(RATIO)({"judge": 700, "verdict": 100}) == {"judge": 467, "verdict": 100}
    assert in_ratio({"judge": 1, "verdict": 0})({"judge": 3, "verdict": 9}) == {"judge": 3, "verdict": 0}
    assert in_ratio(RATIO)({}) == {}


def test_even_classes_follow_the_rarest_one() -> None:
    assert even(1)({1.0: 2, 4.0: 9}) == {1.0: 2, 4.0: 2}
    assert even(1.5)({1.0: 2, 4.0: 9, None: 50}) == {1.0: 2, 4.0: 3, None: 50}
    assert even(None)({1.0: 2, 4.0: 9}) == {1.0: 2, 4.0: 9}
    assert even(1)({}) == {} and even(1)({None: 3}) == {None: 3}


@given(counts_of, st.integers(0, 3))
def test_quotas_are_filled_and_never_exceeded(counts: dict[str, int], seed: int) -> None:
    for quotas in (even(1), even(2.5), even(None), in_ratio({"a": 7, "b": 2, "c": 1})):
        kept = kept_pairs(offers(counts), quotas, seed)
        assert Counter(name[0] for name in kept) == +Counter(quotas(counts))
        assert all(n <= counts[name] for name, n in quotas(counts).items())


@given(counts_of, st.randoms())
def test_the_order_of_groups_changes_nothing(counts: dict[str, int], rng: Any) -> None:
    groups = offers(counts)
    shuffled = rng.sample(groups, len(groups))
    assert kept_pairs(groups, even(1), 5) == kept_pairs(shuffled, even(1), 5)


@given(counts_of)
def test_ratios_hold_within_one_pair(counts: dict[str, int]) -> None:
    ratio = {"a": 7, "b": 2, "c": 1, "d": 3}
    quota = in_ratio(ratio)(counts)
    whole = min(n / ratio[name] for name, n in counts.items())
    assert all(abs(n - whole * ratio[str(name)]) < 1 + 1e-9 for name, n in quota.items())


def test_first_pairs_of_prompts_go_before_second_ones() -> None:
    groups: list[Any] = [[("a", pair(f"{g}-{i}")) for i in range(3)] for g in range(4)]
    kept = kept_pairs([*groups, [("b", pair(f"b{i}")) for i in range(4)]], even(1), 0)
    assert {name for name in kept if name[0] != "b"} == {f"{g}-0" for g in range(4)}


def test_offers_of_a_group_are_put_together_or_say_why_there_is_none() -> None:
    made = [("a", pair("1"))]
    assert together(["no_majority", made, "tied"], "nothing") == made
    assert together([[], "tied"], "nothing") == "tied"
    assert together([], "nothing") == "nothing"


@pytest.mark.parametrize(
    ("offered", "reason", "taken"),
    [("tied", "tied", []), ([("a", pair("1"))], "over_quota", []), ([("a", pair("2"))], None, ["2"])],
)
def test_what_is_taken(offered: Any, reason: str | None, taken: list[str]) -> None:
    selected, pairs = take(group("p"), offered, frozenset(["2"]))
    assert (selected["dropped"], [p["pair_id"] for p in pairs]) == (reason, taken)
