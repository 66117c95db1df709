from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import Group
from pipelines.steps.comparisons import sample_battles, sample_elo
from pipelines.steps.judgements import read_group
from tests.pipelines.planted import group, judgement, sample

Calls = dict[tuple[str, str, int], str]


def compared(calls: Calls, names: str = "abc", **other: Any) -> Group:
    """A read group whose judge said so of (first listed, second listed, order)."""
    judgements = [
        judgement(f"{a}{b}{order}", a, text, i, sample_ids=[a, b], order=order)
        for i, ((a, b, order), text) in enumerate(calls.items())
    ]
    samples = [sample(name, f"response {name}", i) for i, name in enumerate(names)]
    return read_group(group("p", samples=samples, judgements=judgements, **other))


def every_call(names: str, says: Any) -> Calls:
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {(a, b, o): says(*((b, a) if o else (a, b))) for a, b in pairs for o in (0, 1)}


def test_a_battle_names_what_was_shown_first_first() -> None:
    read = compared({("a", "b", 0): "Winner: A", ("a", "b", 1): "Winner: A", ("b", "c", 0): "Winner: tie"})
    assert [tuple(b) for b in sample_battles(read)] == [("a", "b", 1), ("b", "a", 1), ("b", "c", 0)]


def test_a_consistent_judge_orders_the_samples() -> None:
    calls = every_call("cab", lambda first, second: f"Winner: {'A' if first < second else 'B'}")
    elo = sample_elo(compared(calls))
    assert sorted(elo, key=lambda i: -elo[i]) == ["a", "b", "c"]
    assert elo["a"] == pytest.approx(-elo["c"]) and elo["b"] == pytest.approx(0)


@pytest.mark.parametrize("says", ["Winner: A", "Winner: B", "Winner: tie"])
def test_a_judge_of_positions_makes_all_equal(says: str) -> None:
    assert set(sample_elo(compared(every_call("abcd", lambda *_: says), "abcd")).values()) == {0.0}


def test_a_sample_without_a_readable_comparison_has_no_score() -> None:
    read = compared({("a", "b", 0): "Winner: A", ("b", "c", 0): "no verdict", ("a", "c", 1): "Winner: A or B"})
    assert set(sample_elo(read)) == {"a", "b"}
    assert sample_elo(compared({("a", "b", 0): "?"})) == {}


def test_other_kinds_and_repeated_texts_do_not_compete() -> None:
    read = compared(every_call("abc", lambda first, second: "Winner: A" if first == "c" else "Winner: B"))
    for s in read["samples"]:
        if s["sample_id"] == "c":
            s["kind"] = "sample_unsplit"
    assert set(sample_elo(read)) == {"a", "b"}
    read["samples"][1]["text"] = read["samples"][0]["text"]
    assert sample_elo(read) == {}


@given(st.lists(st.sampled_from(["Winner: A", "Winner: B", "Winner: tie", "?"]), min_size=6, max_size=6), st.randoms())
def test_d3_d4_unreadable_ones_and_the_order_of_arrival_change_nothing(texts: list[str], random: Any) -> None:
    said = iter(texts)
    calls = every_call("abc", lambda *_: next(said))
    elo = sample_elo(compared(calls))
    assert sample_elo(compared({call: text for call, text in calls.items() if text != "?"})) == elo
    mixed = list(calls.items())
    random.shuffle(mixed)
    assert sample_elo(compared(dict(mixed))) == elo
