"""Which pairs an optimizer step takes, and how a step is cut into forward passes and workers.

All of it follows from the pairs and the seed alone, so that every worker, and every worker after a restart, derives the
same plan without asking anyone. Pure Python: no torch here.
"""

import random
from collections.abc import Hashable, Sequence

from pipelines.records import Pair
from pipelines.training.config import TrainingConfig
from pipelines.training.packing import Prompted, fill, packed_length, spread


def epoch_order(keys: Sequence[Hashable], seed: int, epoch: int, together: int) -> list[int]:
    """A seeded permutation of the pairs; up to `together` pairs with the same key (prompt) stay side by side."""
    rng = random.Random(f"{seed}-{epoch}")
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    runs = []
    for group in groups.values():
        rng.shuffle(group)
        runs += [group[i : i + together] for i in range(0, len(group), together)]
    rng.shuffle(runs)
    return [i for run in runs for i in run]


def optimizer_steps(
    keys: Sequence[Hashable], sizes: Sequence[int], config: TrainingConfig, seed: int
) -> list[list[int]]:
    """Indices of each step's pairs, all epochs; a step ends at `batch_pairs`, or before `batch_tokens` is exceeded."""
    steps: list[list[int]] = []
    for epoch in range(config.epochs):
        step: list[int] = []
        tokens = 0
        for i in epoch_order(keys, seed, epoch, config.pairs_together):
            full = len(step) == config.batch_pairs
            if step and (full or (config.batch_tokens is not None and tokens + sizes[i] > config.batch_tokens)):
                steps.append(step)
                step, tokens = [], 0
            step.append(i)
            tokens += sizes[i]
        if step:
            steps.append(step)
    return steps[: config.max_steps]


def held_out(keys: Sequence[Hashable], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Training and validation pairs: whole prompts are held out until `count` pairs are; at least one prompt trains."""
    prompts = list(dict.fromkeys(keys))
    random.Random(f"{seed}-validation").shuffle(prompts)
    sizes: dict[Hashable, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    chosen: set[Hashable] = set()
    for prompt in prompts[:-1]:
        if count <= sum(sizes[p] for p in chosen):
            break
        chosen.add(prompt)
    rest = [i for i, key in enumerate(keys) if key not in chosen]
    return rest, [i for i, key in enumerate(keys) if key in chosen]


def step_plan(
    keys: Sequence[Hashable], sizes: Sequence[int], config: TrainingConfig, seed: int
) -> tuple[list[list[int]], list[int]]:
    """Indices of each step's pairs, and those held out for validation, of pairs with these keys and sizes in tokens."""
    training, validation = held_out(keys, config.validation_pairs, seed)
    steps = optimizer_steps([keys[i] for i in training], [sizes[i] for i in training], config, seed)
    return [[training[i] for i in step] for step in steps], validation


def sequences(pair: Pair) -> list[Prompted]:
    """The sides of a pair: chosen, and rejected where there is one."""
    sides = (pair["chosen_ids"], pair["rejected_ids"])
    return [(pair["prompt_ids"], side) for side in sides if side]


def views(pair: Pair) -> list[Prompted]:
    """What losses of two views read besides: chosen under the student's prompt, then each digit under either prompt.

    Digits are tokens that are only ever predicted, so the student's prompt is all that this adds to a pack.
    """
    student, digits = pair.get("student_ids") or [], [[digit] for digit in pair.get("digit_ids") or []]
    return [(student, pair["chosen_ids"]), *((prompt, d) for prompt in (pair["prompt_ids"], student) for d in digits)]


def read_of(pair: Pair, config: TrainingConfig) -> list[Prompted]:
    """All that the model reads of a pair: its sides, and its second view where a loss asks for it."""
    return sequences(pair) + (views(pair) if config.needs_views else [])


def forward_passes(pairs: Sequence[Pair], config: TrainingConfig, workers: int) -> list[list[list[int]]]:
    """For each worker the pairs (indices into `pairs`) of each of its forward passes.

    Pairs of one prompt stay together, unless they are more than `tokens_per_forward`, which packs are filled up to.
    """
    trees: dict[Hashable, list[int]] = {}
    for i, pair in enumerate(pairs):
        key = tuple(pair["prompt_ids"]) if config.shared_prompt else i
        trees.setdefault(key, []).append(i)
    items: list[list[int]] = []
    sizes: list[int] = []
    for tree in trees.values():
        for part, size in _split(tree, pairs, config):
            items.append(part)
            sizes.append(size)
    passes = []
    for share in spread(sizes, workers):
        bins = fill([sizes[i] for i in share], config.tokens_per_forward)
        passes.append([[pair for b in items_of for pair in items[share[b]]] for items_of in bins])
    return passes


def _split(
    tree: list[int], pairs: Sequence[Pair], config: TrainingConfig
) -> list[tuple[list[int], int]]:
    """The pairs of one prompt, cut where the budget of a forward pass asks for it, with their packed lengths."""

    def size(part: list[int]) -> int:
        return packed_length([s for i in part for s in read_of(pairs[i], config)], share=config.shared_prompt)

    whole = size(tree)
    if whole <= config.tokens_per_forward or len(tree) == 1:
        return [(tree, whole)]
    middle = len(tree) // 2
    return _split(tree[:middle], pairs, config) + _split(tree[middle:], pairs, config)
