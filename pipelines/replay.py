"""Parse, aggregate and select again from recorded texts, with no model: new thresholds without new samples.

Input is a Parquet file of groups, or a folder of part files. Everything that parsing derives is made again, so derived
columns may be absent, null or stale; what cannot be derived is checked before anything is computed.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import RunConfig, from_layers, parse_assignment
from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, pairs_table
from pipelines.steps.accounting import accounting
from pipelines.steps.make_prompts import InputError
from pipelines.steps.pairs import policys_own

Fields = dict[str, tuple[type, Any]]  # name -> (type, default); NEEDED where there is no default
NEEDED = object()

MESSAGE: Fields = {"role": (str, NEEDED), "content": (str, NEEDED)}
SAMPLE: Fields = {
    "sample_id": (str, NEEDED), "index": (int, 0), "kind": (str, "sample"), "text": (str, NEEDED),
    "thought": (str, None), "answer": (str, None), "token_ids": (list, []), "finish_reason": (str, "stop"),
    "n_chars": (int, 0), "n_words": (int, 0), "n_tokens": (int, 0), "seed": (int, 0), "weight_version": (str, ""),
    "score": (float, None), "votes": (int, None),
}
JUDGEMENT: Fields = {
    "judgement_id": (str, NEEDED), "sample_ids": (list, NEEDED), "order": (int, None), "index": (int, 0),
    "text": (str, NEEDED), "token_ids": (list, []), "value": (float, None), "verdict": (str, None),
    "status": (str, "missing"), "seed": (int, 0), "weight_version": (str, ""), "prompt_hash": (str, ""),
    "elo": (float, None),
}
META_JUDGEMENT: Fields = {
    "meta_id": (str, ""), "judgement_a": (str, NEEDED), "judgement_b": (str, NEEDED), "order": (int, NEEDED),
    "text": (str, NEEDED), "winner": (str, None), "status": (str, "missing"), "seed": (int, 0),
    "weight_version": (str, ""), "prompt_hash": (str, ""),
}
GROUP: Fields = {
    "prompt_id": (str, NEEDED), "iteration": (int, 0), "messages": (list, NEEDED), "gold": (str, None),
    "meta": (str, "{}"), "samples": (list, NEEDED), "judgements": (list, []), "meta_judgements": (list, []),
    "dropped": (str, None),
}
PARTS = {"messages": MESSAGE, "samples": SAMPLE, "judgements": JUDGEMENT, "meta_judgements": META_JUDGEMENT}
DERIVED = ("n_chars", "n_words", "answer", "value", "verdict", "votes", "score", "elo", "winner", "thought")
NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", list: "a list"}


def replay(
    recipe_name: str, groups_path: str | Path, out_path: str | Path, assignments: list[str] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """Write the pairs that `recipe_name` makes of recorded groups, and say what came of them.

    `assignments` are those of `appellate run`; a setting of the method may be named with or without `method.`. The
    same groups give a byte-identical file in any row order. Raises ConfigError or InputError for bad input.
    """
    recipe = get_recipe(recipe_name)
    config = settings(recipe_name, assignments)
    by_iteration: dict[int, list[Group]] = {}
    for group in read_groups(groups_path):
        by_iteration.setdefault(group["iteration"], []).append(group)
    pairs: list[Pair] = []
    selected: list[Group] = []
    iterations: dict[str, Any] = {}
    for iteration in sorted(by_iteration):
        context = Context(config.seed, recipe.name, iteration)
        groups = sorted(by_iteration[iteration], key=lambda group: group["prompt_id"])
        groups = [recipe.read(group, config.method, context) for group in groups]
        statistics = recipe.statistics(groups, config.method, context)
        made = [recipe.select(group, statistics, config.method, context) for group in groups]
        kept, found = [group for group, _ in made], [pair for _, some in made for pair in some]
        found = policys_own(found, kept, None, teaches=True)
        iterations[str(iteration)] = accounting(kept, found)
        selected += kept
        pairs += found
    _write(pairs, Path(out_path))
    total = accounting(selected, pairs)
    return {
        "recipe": recipe.name,
        "groups": len(selected),
        "pairs": total["pairs"],
        "dropped": total["dropped"],
        "out": str(out_path),
        "accounting": total,
        "iterations": iterations,
    }


def settings(recipe_name: str, assignments: list[str] | tuple[str, ...]) -> RunConfig:
    """The run configuration of a replay; no prompts are needed."""
    own = get_recipe(recipe_name).settings.model_fields
    layers: list[dict[str, Any]] = [{"prompts": "-"}]
    for word in assignments:
        layer = parse_assignment(word)
        if any(key in own and key not in RunConfig.model_fields for key in layer):
            layer = {"method": layer}
        layers.append(layer)
    return from_layers(recipe_name, layers)


def read_groups(path: str | Path) -> list[Group]:
    """The groups of a Parquet file or of a folder's `*.parquet`, complete and checked.

    Raises InputError, whose message names file, row (from 0) and field.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no Parquet file in this folder")
    groups: list[Group] = []
    seen: dict[tuple[str, int], str] = {}
    for file in files:
        for row, record in enumerate(_rows(file)):
            where = f"{file} row {row}"
            group = _group(record, where)
            key = (group["prompt_id"], group["iteration"])
            if key in seen:
                raise InputError(f"{where}: prompt_id: {key[0]!r} of iteration {key[1]} is also in {seen[key]}")
            seen[key] = where
            groups.append(group)
    if not groups:
        raise InputError(f"{path}: no groups")
    return groups


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        table = pq.read_table(file, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a Parquet file: {error}") from error
    missing = [name for name, (_, default) in GROUP.items() if default is NEEDED and name not in table.column_names]
    if missing:
        raise InputError(f"{file} row 0: {missing[0]}: needed, columns are {', '.join(table.column_names)}")
    return table.to_pylist()


def _group(record: dict[str, Any], where: str) -> Group:
    group = _fill(record, GROUP, where, "")
    for name, fields in PARTS.items():
        group[name] = [_fill(item, fields, where, f"{name}[{i}]") for i, item in enumerate(group[name])]
    for name, key in (("samples", "sample_id"), ("judgements", "judgement_id")):
        ids = Counter(item[key] for item in group[name])
        if twice := [i for i, n in ids.items() if n > 1]:
            raise InputError(f"{where}: {name}: {key} {twice[0]!r} is there more than once")
    if not group["messages"]:
        raise InputError(f"{where}: messages: needed, the list is empty")
    samples = {s["sample_id"] for s in group["samples"]}
    for i, judgement in enumerate(group["judgements"]):
        field, ids = f"judgements[{i}].sample_ids", judgement["sample_ids"]
        if len(ids) not in (1, 2) or not all(isinstance(item, str) for item in ids):
            raise InputError(f"{where}: {field}: one or two sample ids expected, got {ids!r}"[:300])
        if unknown := [item for item in ids if item not in samples]:
            raise InputError(f"{where}: {field}: there is no sample {unknown[0]!r}")
        if judgement["order"] is None and len(ids) == 2:
            raise InputError(f"{where}: judgements[{i}].order: needed for a comparison, nothing found")
        judgement["order"] = judgement["order"] or 0
    judgements = {j["judgement_id"] for j in group["judgements"]}
    for i, meta in enumerate(group["meta_judgements"]):
        for field in ("judgement_a", "judgement_b"):
            if meta[field] not in judgements:
                raise InputError(f"{where}: meta_judgements[{i}].{field}: there is no judgement {meta[field]!r}")
    for name in ("judgements", "meta_judgements"):
        for i, item in enumerate(group[name]):
            if item["order"] not in (0, 1):
                raise InputError(f"{where}: {name}[{i}].order: 0 or 1 expected, got {item['order']}")
    for name in ("samples", "judgements"):
        for i, item in enumerate(group[name]):
            if not all(isinstance(token, int) for token in item["token_ids"]):
                raise InputError(f"{where}: {name}[{i}].token_ids: whole numbers expected")
    try:
        meta = json.loads(group["meta"])
    except ValueError as error:
        raise InputError(f"{where}: meta: not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise InputError(f"{where}: meta: a JSON object expected, got {group['meta'][:50]!r}")
    return group  # ty: ignore[invalid-explicit-return]


def _fill(record: Any, fields: Fields, where: str, inside: str) -> dict[str, Any]:
    """The record with every field of the schema; derived values are not taken over, they may be stale."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: {inside}: an object expected, got {_show(record)}")
    filled: dict[str, Any] = {}
    for name, (kind, default) in fields.items():
        value = record.get(name)
        if value is None or (name in DERIVED and default is not NEEDED):
            if default is NEEDED:
                raise InputError(f"{where}: {f'{inside}.' if inside else ''}{name}: needed, {_show(value)} found")
            value = list(default) if isinstance(default, list) else default
        elif kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # other tools store whole numbers beside nulls as floats
        elif not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(
                f"{where}: {f'{inside}.' if inside else ''}{name}: {NAMES[kind]} expected, got {_show(value)}"
            )
        filled[name] = value
    return filled


def _show(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _write(pairs: list[Pair], path: Path) -> None:
    """One Parquet file, there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pairs_table(pairs), part, compression="zstd")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
