"""The plan of a training follows from pairs and seed: which pairs a step takes, and who computes which of them."""

from itertools import groupby
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import Pair
from pipelines.training.batching import epoch_order, forward_passes, held_out, optimizer_steps, sequences
from pipelines.training.config import TrainingConfig
from pipelines.training.packing import packed_length

some_keys = st.lists(st.integers(0, 5), min_size=1, max_size=30)
seeds = st.integers(0, 99)
sides = st.lists(st.integers(0, 2), max_size=6)


def pair(prompt: list[int], chosen: list[int], rejected: list[int] | None = None) -> Pair:
    return cast(Pair, {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected or []})


some_pairs = st.lists(
    st.builds(pair, st.lists(st.integers(0, 1), min_size=1, max_size=3), sides.map(lambda ids: [*ids, 9]), sides),
    min_size=1, max_size=12,
)


# ---- which pairs a step takes


@given(some_keys, seeds, st.integers(1, 5))
def test_an_epoch_takes_every_pair_once_and_keeps_pairs_of_a_prompt_together(keys, seed, together):
    order = epoch_order(keys, seed, 0, together)
    assert sorted(order) == list(range(len(keys)))
    assert order == epoch_order(keys, seed, 0, together)
    blocks = [(key, len(list(block))) for key, block in groupby(order, lambda i: keys[i])]
    for key in set(keys):
        # Runs are full but for one of each prompt; two of the same prompt may come next to each other.
        rest = keys.count(key) % together
        assert [length % together for k, length in blocks if k == key and length % together] == [rest] * (rest > 0)


def test_the_order_is_pinned():
    """A training that goes on must see the batches of the first start, on every machine."""
    assert epoch_order(range(8), 7, 0, 4) == [7, 1, 4, 3, 0, 6, 2, 5]
    assert epoch_order(["a", "b", "a", "b", "a", "c", "a", "a"], 7, 0, 2) == [7, 0, 6, 5, 2, 4, 3, 1]
    orders = {tuple(epoch_order(range(8), seed, epoch, 4)) for seed in (7, 8) for epoch in (0, 1)}
    assert len(orders) == 4
    keys = ["a", "b"] * 8
    assert epoch_order(keys, 0, 0, 1) != epoch_order(keys, 0, 0, 2)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), min_size=1, max_size=30), seeds, st.integers(1, 6),
    st.none() | st.integers(1, 60), st.integers(1, 3), st.integers(1, 4),
)
def test_a_step_ends_at_its_pairs_or_before_its_tokens(items, seed, batch_pairs, batch_tokens, epochs, together):
    keys, sizes = [key for key, _ in items], [size for _, size in items]
    config = TrainingConfig(
        batch_pairs=batch_pairs, batch_tokens=batch_tokens, epochs=epochs, pairs_together=together
    )
    steps = optimizer_steps(keys, sizes, config, seed)
    orders = [epoch_order(keys, seed, epoch, together) for epoch in range(epochs)]
    assert [i for step in steps for i in step] == [i for order in orders for i in order]
    taken = 0
    for step, following in zip(steps, [*steps[1:], []], strict=True):
        tokens = sum(sizes[i] for i in step)
        assert 1 <= len(step) <= batch_pairs
        assert taken // len(keys) == (taken + len(step) - 1) // len(keys)  # pairs of one epoch alone
        assert batch_tokens is None or tokens <= batch_tokens or len(step) == 1
        taken += len(step)
        full = len(step) == batch_pairs
        over = batch_tokens is not None and following != [] and tokens + sizes[following[0]] > batch_tokens
        assert full or over or taken % len(keys) == 0


def test_steps_stop_at_the_limit():
    config = TrainingConfig(batch_pairs=2, epochs=3)
    plan = optimizer_steps(range(5), [1] * 5, config, 0)
    assert [len(step) for step in plan] == [2, 2, 1] * 3
    assert optimizer_steps(range(5), [1] * 5, config.model_copy(update={"max_steps": 4}), 0) == plan[:4]


@given(some_keys, st.integers(0, 35), seeds)
def test_whole_prompts_are_held_out_until_there_are_enough_pairs(keys, count, seed):
    training, validation = held_out(keys, count, seed)
    assert (training, validation) == held_out(keys, count, seed)
    assert training == sorted(training) and validation == sorted(validation)
    assert sorted(training + validation) == list(range(len(keys)))
    trained, held = {keys[i] for i in training}, {keys[i] for i in validation}
    assert trained and trained.isdisjoint(held)
    assert len(validation) >= count or len(trained) == 1
    assert not held or min(len(validation) - keys.count(key) for key in held) < count  # no prompt more than needed


def test_what_is_held_out_is_seeded():
    keys = list(range(20))
    assert held_out(keys, 0, 0) == (keys, [])
    assert len({tuple(held_out(keys, 5, seed)[1]) for seed in range(5)}) == 5
    assert held_out(["a"] * 3, 2, 0) == ([0, 1, 2], [])  # one prompt must train


# ---- who computes what


def test_the_sequences_of_a_pair_are_its_sides():
    assert sequences(pair([1, 2], [3], [4, 5])) == [([1, 2], [3]), ([1, 2], [4, 5])]
    assert sequences(pair([1, 2], [3])) == [([1, 2], [3])]


@settings(max_examples=150)
@given(some_pairs, st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_all_workers_together_pass_over_every_pair_once_within_the_budget(pairs, budget, workers, share):
    config = TrainingConfig(tokens_per_forward=budget, shared_prompt=share)
    passes = forward_passes(pairs, config, workers)
    assert passes == forward_passes(pairs, config, workers)
    assert len(passes) == workers
    parts = [part for own in passes for part in own]
    assert sorted(i for part in parts for i in part) == list(range(len(pairs)))
    for part in parts:
        size = packed_length([s for i in part for s in sequences(pairs[i])], share=share)
        assert 0 < size <= budget or len(part) == 1
    if share:
        prompts = {tuple(p["prompt_ids"]) for p in pairs}
        for prompt in prompts:
            of_prompt = {i for i, p in enumerate(pairs) if tuple(p["prompt_ids"]) == prompt}
            size = packed_length([s for i in of_prompt for s in sequences(pairs[i])])
            assert size > budget or any(of_prompt <= set(part) for part in parts)


def test_passes_by_hand():
    """Prompt 1 2 with its three responses takes 8 tokens; that of one pair is cut off where 7 are allowed."""
    pairs = [pair([1, 2], [3, 4, 5], [6, 6, 6]), pair([7], [8, 8, 8, 8], [9]), pair([1, 2], [3, 4, 5], [5, 5, 5])]

    def cut(workers: int, **changes: Any) -> list[list[list[int]]]:
        return forward_passes(pairs, TrainingConfig(**changes), workers)

    assert cut(1) == [[[0, 2, 1]]]
    assert cut(1, tokens_per_forward=8) == [[[0, 2], [1]]]
    assert cut(1, tokens_per_forward=7) == [[[0], [2], [1]]]
    assert cut(2) == [[[0, 2]], [[1]]]
    assert cut(4) == [[[0, 2]], [[1]], [], []]
    assert cut(3, shared_prompt=False) == [[[0]], [[2]], [[1]]]


@pytest.mark.parametrize("share", [True, False])
def test_a_pair_over_the_budget_has_a_pass_of_its_own(share):
    pairs = [pair([1], [2]), pair([3] * 50, [4]), pair([5], [6])]
    config = TrainingConfig(tokens_per_forward=10, shared_prompt=share)
    assert forward_passes(pairs, config, 1) == [[[1], [0, 2]]]
