"""The pairs of one training as a table: rows become Python objects only when a step takes them."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import Pair


class PairSet:
    """Pairs (schema records.PAIRS) by index."""

    def __init__(self, table: pa.Table):
        self.table = table.combine_chunks()

    def __len__(self) -> int:
        return self.table.num_rows

    def rows(self, indices: Sequence[int]) -> list[Pair]:
        """The pairs at `indices`, in that order."""
        return self.table.take(pa.array(indices, pa.int64())).to_pylist()

    def ids(self) -> list[str]:
        """Every pair's id."""
        return self.table["pair_id"].to_pylist()

    def lengths(self, side: str) -> np.ndarray:
        """Tokens of `prompt`, `chosen`, `rejected`, `student` or `digit` of every pair."""
        return pc.call_function("list_value_length", [self.table[f"{side}_ids"]]).fill_null(0).to_numpy()

    def sizes(self) -> list[int]:
        """Tokens of every pair: its prompt once, both sides, and the student's prompt."""
        parts = ("prompt", "chosen", "rejected", "student")
        return np.sum([self.lengths(part) for part in parts], axis=0).tolist()

    def keys(self) -> list[bytes]:
        """A hash of every pair's prompt tokens: pairs of one prompt have the same."""
        column = self.table["prompt_ids"].combine_chunks()
        offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
        return [hashlib.sha256(values[a:b].tobytes()).digest() for a, b in pairwise(offsets)]

    def keep(self, indices: Sequence[int]) -> "PairSet":
        """The pairs at `indices` alone."""
        return PairSet(self.table.take(pa.array(indices, pa.int64())))
