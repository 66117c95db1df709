"""Records that other tools might make: hand-written rows in Parquet, and the pairs that `replay` makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.replay import replay


def row(name: str, samples: dict[str, Any], judgements: Sequence[Any] = (), **other: Any) -> dict[str, Any]:
    """A record as another tool writes it: no derived fields, and of the others the needed ones only."""
    made = [{"sample_id": f"{name}-{i}", "index": n, **(s if isinstance(s, dict) else {"text": s})}
            for n, (i, s) in enumerate(samples.items())]  # fmt: skip
    said = [
        {"judgement_id": f"{name}-j{n}", "sample_ids": [f"{name}-{i}" for i in ids], "order": order, "index": n,
         "text": text if isinstance(text, str) else text[0], "status": "missing" if isinstance(text, str) else text[1]}
        for n, (ids, order, text) in enumerate(judgements)
    ]  # fmt: skip
    record = {"prompt_id": name, "iteration": 0, "messages": [{"role": "user", "content": f"Question {name}?"}]}
    return {**record, "samples": made, "judgements": said, "meta": "{}", "gold": None, **other}


def pairs_of(
    recipe: str, rows: list[dict[str, Any]], folder: Path, *settings: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """{prompt: (chosen, rejected) without the prompt's name}, with lists where a prompt has several; and all pairs."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "groups.parquet")
    summary = replay(recipe, folder / "groups.parquet", folder / "pairs.parquet", list(settings))
    pairs = pq.read_table(folder / "pairs.parquet").to_pylist()
    assert summary["groups"] == len(rows)
    found: dict[str, Any] = {}
    for pair in pairs:
        name = pair["prompt_id"]
        ends = tuple(pair[side].removeprefix(f"{name}-") for side in ("chosen_from", "rejected_from") if pair[side])
        found.setdefault(name, []).append(ends)
    return {name: ends[0] if len(ends) == 1 else ends for name, ends in found.items()}, pairs
