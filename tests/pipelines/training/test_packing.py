"""Packs are trees of sequences: every sequence can be read back, and nothing is laid out twice."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.packing import (
    MIN_SHARED,
    Pack,
    Prompted,
    Segment,
    fill,
    pack_sequences,
    packed_length,
    spread,
)

# Few different tokens and short texts, so that beginnings are often shared and texts often equal.
texts = st.lists(st.integers(0, 2), min_size=1, max_size=9)
some_sequences = st.lists(st.tuples(texts, texts), min_size=1, max_size=7)
thresholds = st.integers(1, 4)
Rows = set[tuple[int, ...]]


def walk(pack: Pack, place: int) -> list[int]:
    """The places that the token at `place` may see, from the root to itself."""
    own = next(segment for segment in pack.segments if segment.start <= place < segment.end)
    ancestors = [pack.segments[i] for i in own.path[:-1]]
    return [p for segment in ancestors for p in range(segment.start, segment.end)] + list(range(own.start, place + 1))


def laid_out(rows: Rows, threshold: int, start: int = 0) -> int:
    """Tokens that rows take when beginnings of at least `threshold` tokens are shared, group by group."""
    groups: dict[Any, list[tuple[int, ...]]] = {}
    for row in rows:
        beginning = row[start : start + threshold]
        groups.setdefault(beginning if len(beginning) == threshold else (row, "alone"), []).append(row)
    total = 0
    for group in groups.values():
        columns = enumerate(zip(*group, strict=False))
        end = next((i for i, column in columns if len(set(column)) > 1), min(map(len, group)))
        total += end - start + laid_out({row for row in group if len(row) > end}, threshold, end)
    return total


# ---- what a pack holds


@settings(max_examples=150, deadline=None)
@given(some_sequences, thresholds, st.booleans())
def test_every_sequence_is_read_back_along_its_path(sequences, threshold, share):
    pack = pack_sequences(sequences, threshold, share)
    assert len(pack.responses) == len(sequences)
    for (prompt, response), predictions in zip(sequences, pack.responses, strict=True):
        places = [pack.sources[k] for k in predictions]
        path = walk(pack, places[-1])
        assert [pack.token_ids[p] for p in path] == prompt + response[:-1]  # the last token is only predicted
        assert [pack.position_ids[p] for p in path] == list(range(len(path)))
        assert places == path[len(prompt) - 1 :]
        assert [pack.targets[k] for k in predictions] == response


@settings(max_examples=150, deadline=None)
@given(some_sequences, thresholds, st.booleans())
def test_segments_tile_the_pack_and_stand_behind_their_ancestors(sequences, threshold, share):
    pack = pack_sequences(sequences, threshold, share)
    assert [i for s in pack.segments for i in range(s.start, s.end)] == list(range(len(pack.token_ids)))
    for number, segment in enumerate(pack.segments):
        *above, own = segment.path
        assert own == number
        assert segment.length > 0
        parent = pack.segments[above[-1]] if above else None
        assert tuple(above) == (parent.path if parent else ())
        assert all(ancestor < number for ancestor in above)
        assert segment.position == (parent.position + parent.length if parent else 0)
        positions = range(segment.position, segment.position + segment.length)
        assert pack.position_ids[segment.start : segment.end] == list(positions)


@settings(max_examples=150, deadline=None)
@given(some_sequences, thresholds)
def test_exactly_what_begins_alike_is_laid_out_once(sequences, threshold):
    """Prompts form one tree, and the responses of each prompt a tree below it."""
    prompts = {tuple(prompt) for prompt, _ in sequences}
    expected = laid_out(prompts, threshold)
    for prompt in prompts:
        expected += laid_out({tuple(r[:-1]) for p, r in sequences if tuple(p) == prompt} - {()}, threshold)
    assert packed_length(sequences, threshold) == expected
    doubled = pack_sequences(sequences * 2, threshold)
    assert len(doubled.token_ids) == expected  # identical texts are computed once
    assert doubled.responses[: len(sequences)] == doubled.responses[len(sequences) :]


@settings(max_examples=50, deadline=None)
@given(some_sequences)
def test_with_every_beginning_shared_no_two_places_hold_the_same_text(sequences):
    prompts = {tuple(prompt[:n]) for prompt, _ in sequences for n in range(1, len(prompt) + 1)}
    inputs = {(tuple(p), tuple(r[:n])) for p, r in sequences for n in range(1, len(r))}
    assert packed_length(sequences, min_shared=1) == len(prompts) + len(inputs)


@settings(max_examples=50, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=6), thresholds)
def test_one_prompt_is_laid_out_once_however_short_it_is(prompt, responses, threshold):
    pack = pack_sequences([(prompt, response) for response in responses], threshold)
    assert {pack.sources[places[0]] for places in pack.responses} == {len(prompt) - 1}


@settings(max_examples=100, deadline=None)
@given(some_sequences, thresholds, st.booleans())
def test_a_prediction_is_made_once_and_every_prediction_is_used(sequences, threshold, share):
    pack = pack_sequences(sequences, threshold, share)
    made = list(zip(pack.sources, pack.targets, strict=True))
    assert len(set(made)) == len(made)
    assert {k for places in pack.responses for k in places} == set(range(len(made)))


@settings(max_examples=50, deadline=None)
@given(some_sequences)
def test_without_sharing_each_sequence_is_a_tree_of_its_own(sequences):
    pack = pack_sequences(sequences, 1, share=False)
    assert len(pack.token_ids) == sum(len(prompt) + len(response) - 1 for prompt, response in sequences)
    assert len([segment for segment in pack.segments if len(segment.path) == 1]) == len(sequences)
    used = [k for places in pack.responses for k in places]
    assert len(used) == len(set(used))


def test_a_pack_by_hand():
    r"""Prompts 1 2 3 and 1 2 9 share their first two tokens; 4 5 is the input of two responses.

    1 2 -+- 3 --- 4 5
         +- 9
    """
    sequences: list[Prompted] = [([1, 2, 3], [4, 5, 6]), ([1, 2, 9], [4]), ([1, 2, 3], [4, 5, 7]), ([1, 2, 3], [8])]
    assert pack_sequences(sequences, min_shared=2) == Pack(
        token_ids=[1, 2, 3, 9, 4, 5],
        position_ids=[0, 1, 2, 2, 3, 4],
        segments=[
            Segment(0, 2, 0, (0,)), Segment(2, 1, 2, (0, 1)), Segment(3, 1, 2, (0, 2)), Segment(4, 2, 3, (0, 1, 3)),
        ],
        sources=[2, 4, 5, 5, 2, 3],
        targets=[4, 5, 6, 7, 8, 4],
        responses=[[0, 1, 2], [5], [0, 1, 3], [4]],
    )
    alone = pack_sequences(sequences[:1], share=False)
    assert (alone.token_ids, alone.sources, alone.targets) == ([1, 2, 3, 4, 5], [2, 3, 4], [4, 5, 6])
    assert alone.segments == [Segment(0, 3, 0, (0,)), Segment(3, 2, 3, (0, 1))]


def test_a_response_of_one_token_costs_nothing():
    pack = pack_sequences([([1, 2], [3]), ([1, 2], [4])])
    assert (pack.token_ids, pack.sources, pack.targets) == ([1, 2], [1, 1], [3, 4])


@pytest.mark.parametrize("where", ["prompts", "responses"])
def test_a_common_beginning_is_shared_from_sixteen_tokens_on(where):
    assert MIN_SHARED == 16

    def length(common: int) -> int:
        a, b = [*range(common), 100, 101], [*range(common), 200, 201]
        return packed_length([(a, [1]), (b, [1])] if where == "prompts" else [([7], [*a, 1]), ([7], [*b, 1])])

    prompt = where == "responses"
    assert length(15) == prompt + 2 * 17
    assert length(16) == prompt + 16 + 4


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("sequences", [[([], [1])], [([1], [2]), ([1], [])], [((), ())]])
def test_empty_sides_are_refused(sequences, share):
    with pytest.raises(ValueError, match="prompt and response need at least one token each"):
        pack_sequences(sequences, share=share)


# ---- items into passes and over workers


@given(st.lists(st.integers(1, 50), max_size=25), st.integers(1, 60))
def test_bins_keep_every_item_within_the_capacity_and_could_not_be_joined(sizes, capacity):
    bins = fill(sizes, capacity)
    assert sorted(i for items in bins for i in items) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in items) for items in bins]
    assert all(load <= capacity or len(items) == 1 for load, items in zip(loads, bins, strict=True))
    assert all(a + b > capacity for i, a in enumerate(loads) for b in loads[:i])


def test_the_largest_item_is_placed_first():
    assert fill([2, 9, 4, 5, 3, 1], 8) == [[1], [3, 4], [0, 2, 5]]
    assert fill([], 8) == []


@given(st.lists(st.integers(1, 50), max_size=25), st.integers(1, 6))
def test_shares_keep_every_item_and_differ_by_less_than_the_largest(sizes, workers):
    shares = spread(sizes, workers)
    assert len(shares) == workers
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_shares_are_pinned():
    """Every worker derives the same, whatever its machine."""
    assert spread([5, 9, 5, 2, 2], 2) == [[1, 3], [0, 2, 4]]
    assert spread([3, 3], 4) == [[0], [1], [], []]
