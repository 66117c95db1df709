"""Sequences that share a beginning are laid out as a tree, so that nothing is computed twice.

A pack is one row of tokens cut into segments. A segment continues its parent: it sees the segments on its way to the
root and its own earlier tokens, nothing else, and its positions go on where the parent's end. The prompt of a pair is
a segment, its continuations are its children; prompts that begin alike (a judge's rubric) share that beginning too.
Pure Python: no torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MIN_SHARED = 16  # a shorter common run costs more in attention calls than it saves in tokens


@dataclass(frozen=True)
class Segment:
    """A run of tokens of a pack; `path` is the indices of its ancestors from the root on, and its own last."""

    start: int
    length: int
    position: int  # of its first token in each sequence that goes through it
    path: tuple[int, ...]

    @property
    def end(self) -> int:
        """One past the last place."""
        return self.start + self.length


@dataclass
class Pack:
    """One forward pass. Prediction k is `targets[k]` after the token at `sources[k]`.

    `responses[i]` are the predictions that make up sequence i's response, in order; sequences share predictions.
    """

    token_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)


Prompted = tuple[Sequence[int], Sequence[int]]  # prompt and response, at least one token each


def pack_sequences(sequences: Sequence[Prompted], min_shared: int = MIN_SHARED, share: bool = True) -> Pack:
    """Lay sequences out in one pack; with `share` false each is a tree of its own.

    The last token of a sequence is only ever predicted, so it is not laid out.
    """
    if not all(prompt and response for prompt, response in sequences):
        raise ValueError("prompt and response need at least one token each")
    builder = _Builder(min_shared)
    if share:
        responses: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for prompt, response in sequences:
            responses.setdefault(tuple(prompt), {})[tuple(response)] = None
        builder.add_prompts({prompt: list(found) for prompt, found in responses.items()})
        places = [builder.found[tuple(prompt), tuple(response)] for prompt, response in sequences]
    else:
        places = []
        for prompt, response in sequences:
            builder.add_prompts({tuple(prompt): [tuple(response)]})
            places.append(builder.found[tuple(prompt), tuple(response)])
    builder.pack.responses = places
    return builder.pack


def packed_length(sequences: Sequence[Prompted], min_shared: int = MIN_SHARED, share: bool = True) -> int:
    """Tokens that the sequences take in one pack."""
    return len(pack_sequences(sequences, min_shared, share).token_ids)


class _Builder:
    """Builds a pack from the roots on: a segment's ancestors always stand before it."""

    def __init__(self, min_shared: int):
        self.pack = Pack()
        self.found: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        self._min_shared = min_shared
        self._predictions: dict[tuple[int, int], int] = {}

    def add_prompts(self, responses: dict[tuple[int, ...], list[tuple[int, ...]]]) -> None:
        """Lay out the tree of prompts, and below each prompt the tree of its responses."""
        ends = self._tree(sorted(responses), None)
        for prompt, parent in ends.items():
            # A sequence's last token is never an input, so it takes no part in the tree of inputs.
            inputs = sorted({response[:-1] for response in responses[prompt]})
            leaves = self._tree(inputs, parent)
            for response in responses[prompt]:
                self._predict(prompt, response, parent, leaves[response[:-1]])

    def _tree(self, rows: list[tuple[int, ...]], parent: Segment | None) -> dict[tuple[int, ...], Segment | None]:
        """Segments for sorted distinct rows below `parent`; gives the segment at which each row ends."""
        common = [_common_prefix(a, b) for a, b in pairwise(rows)]
        ends: dict[tuple[int, ...], Segment | None] = {}
        todo = [(0, len(rows), 0, parent)]
        while todo:
            low, high, offset, above = todo.pop()
            runs = []
            first = low
            for i in range(low, high):
                if i + 1 == high or common[i] - offset < self._min_shared:
                    runs.append((first, i + 1))
                    first = i + 1
            for first, last in runs:
                length = min(common[first : last - 1], default=len(rows[first]))
                segment = self._add(rows[first][offset:length], above)
                inner = first
                while inner < last and len(rows[inner]) == length:  # sorted: rows that end here come first
                    ends[rows[inner]] = segment
                    inner += 1
                if inner < last:
                    todo.append((inner, last, length, segment))
        return ends

    def _add(self, tokens: tuple[int, ...], parent: Segment | None) -> Segment | None:
        if not tokens:
            return parent
        pack = self.pack
        position = parent.position + parent.length if parent else 0
        path = (*(parent.path if parent else ()), len(pack.segments))
        segment = Segment(len(pack.token_ids), len(tokens), position, path)
        pack.segments.append(segment)
        pack.token_ids += tokens
        pack.position_ids += range(position, position + len(tokens))
        return segment

    def _predict(
        self, prompt: tuple[int, ...], response: tuple[int, ...], end: Segment | None, leaf: Segment | None
    ) -> None:
        assert end is not None
        segments = self.pack.segments
        places = [end.end - 1]
        for i in (leaf or end).path[len(end.path) :]:
            places += range(segments[i].start, segments[i].end)
        found = []
        for place, target in zip(places, response, strict=True):
            key = (place, target)
            if key not in self._predictions:
                self._predictions[key] = len(self.pack.sources)
                self.pack.sources.append(place)
                self.pack.targets.append(target)
            found.append(self._predictions[key])
        self.found[prompt, response] = found


def _common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common beginning, by bisection over slices: prompts are long and comparisons of slices are fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def fill(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing: indices of the items of each bin; an item larger than `capacity` has a bin of its own."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((b for b, free in enumerate(room) if sizes[i] <= free), None)
        if place is None:
            bins.append([i])
            room.append(capacity - sizes[i])
        else:
            bins[place].append(i)
            room[place] -= sizes[i]
    return [sorted(items) for items in bins]


def spread(sizes: Sequence[int], workers: int) -> list[list[int]]:
    """Items over workers, the largest first to whoever has least; every worker derives the same."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += sizes[i]
    return [sorted(share) for share in shares]
