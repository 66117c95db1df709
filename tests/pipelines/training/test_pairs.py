"""Pairs as a table: rows, lengths and keys are those of the pairs themselves, whatever was left out before."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import PAIRS, Pair, pairs_table
from pipelines.training.pairs import PairSet
from tests.pipelines.training.tiny import scored, tiny_lm, tiny_pairs

ids = st.lists(st.integers(0, 3), max_size=4)


def made(rows: list[tuple[list[int], list[int], list[int]]]) -> list[Pair]:
    base = tiny_pairs(1)[0]
    return [
        {**base, "pair_id": f"p{i}", "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for i, (prompt, chosen, rejected) in enumerate(rows)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=8), st.integers(1, 3), st.data())
def test_lengths_sizes_and_keys_are_those_of_the_pairs(rows, chunks, data):
    pairs = made(rows)
    table = pa.concat_tables([pairs_table(pairs[i::chunks]) for i in range(chunks)])
    pairs = [pair for i in range(chunks) for pair in pairs[i::chunks]]
    kept = data.draw(st.lists(st.sampled_from(range(len(pairs))), unique=True))
    for found, expected in ((PairSet(table), pairs), (PairSet(table).keep(kept), [pairs[i] for i in kept])):
        assert len(found) == len(expected)
        assert found.ids() == [pair["pair_id"] for pair in expected]
        lengths = [[len(p["prompt_ids"]), len(p["chosen_ids"]), len(p["rejected_ids"])] for p in expected]
        sides = [found.lengths(side).tolist() for side in ("prompt", "chosen", "rejected")]
        assert [list(of_pair) for of_pair in zip(*sides, strict=True)] == lengths
        assert found.sizes() == [sum(of_pair) for of_pair in lengths]
        keys = found.keys()
        same = [[a == b for b in keys] for a in keys]
        assert same == [[a["prompt_ids"] == b["prompt_ids"] for b in expected] for a in expected]


def test_rows_come_in_the_order_asked_for_and_whole():
    pairs: list[Pair] = [{**pair, "weight": float(i)} for i, pair in enumerate(scored(tiny_pairs(), tiny_lm()))]
    table = PairSet(pairs_table(pairs))
    expected: Any = pairs
    assert table.rows([4, 0, 4]) == [expected[4], expected[0], expected[4]]
    assert table.keep([5, 2]).rows([0, 1]) == [expected[5], expected[2]]
    assert table.rows([]) == []


def test_keys_are_the_same_in_every_process_and_for_every_part_of_a_table():
    table = pairs_table(made([([1, 2], [3], []), ([1], [3], []), ([1, 2], [4], [5])]))
    whole = PairSet(table).keys()
    assert whole[0] == whole[2] != whole[1]
    assert PairSet(table.slice(1)).keys() == whole[1:]
    assert whole[1].hex()[:16] == "67abdd721024f0ff"


@pytest.mark.parametrize("table", [PAIRS.empty_table(), pairs_table([])])
def test_no_pairs_at_all(table):
    nothing = PairSet(table)
    assert (len(nothing), nothing.ids(), nothing.sizes(), nothing.keys()) == (0, [], [], [])
    assert nothing.lengths("chosen").tolist() == []


def test_a_missing_side_has_no_tokens():
    table = pairs_table([{**tiny_pairs(1)[0], "rejected_ids": None}])  # ty: ignore[invalid-argument-type]
    assert PairSet(table).lengths("rejected").tolist() == [0]
