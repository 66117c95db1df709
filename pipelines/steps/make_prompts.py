"""First step: rows of a file, a folder or a Hugging Face data set become groups, checked before any actor starts.

A row has `prompt` (text) or `messages` (a list of {role, content} that ends with the user), and may have `gold` (the
known answer) and `id`. Every other column is kept in the group's `meta`, where recipes find e.g. `gold_chain`.
"""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.records import Group, Message, digest, new_group, prompt_identity
from pipelines.storage import absolute, filesystem

ROLES = ("system", "user", "assistant")
PROBLEMS_SHOWN = 5
_SUFFIX = re.compile(r"\.(jsonl|ndjson|json|parquet)(\.gz|\.bz2|\.zst)?$", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. `row` counts from 1 (the line in JSONL); no `field` when the row itself is bad."""

    file: str
    row: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.field + ': ' if self.field else ''}{self.reason}"


class InputError(ValueError):
    """Prompts or recorded groups cannot be used; the message names file, row and field of the first problems."""

    def __init__(self, message: str, bad_rows: tuple[BadRow, ...] = ()):
        super().__init__("\n  ".join([message, *map(str, bad_rows)]))
        self.bad_rows = bad_rows


class _Problem(ValueError):
    """What is wrong with one row."""

    def __init__(self, where: str, reason: str):
        super().__init__(reason)
        self.field, self.reason = where, reason


@dataclass(frozen=True)
class PromptSet:
    """The prompts in source order, and the rows that were left out of them."""

    groups: list[Group]
    bad_rows: list[BadRow] = field(default_factory=list)


def read_prompts(
    source: str, limit: int | None = None, on_bad_rows: Literal["fail", "quarantine"] = "fail"
) -> PromptSet:
    """Groups of iteration 0, one a row, from JSONL, JSON, Parquet, a data set folder or a hub data set.

    Reading stops after `limit` good rows. Rows with equal messages get distinct prompt ids by occurrence. A folder
    that has files named after a train split is read for those alone. Raises InputError when the source cannot be
    read, holds no good row, or has bad rows and `on_bad_rows` is "fail" (up to five are named).
    """
    groups: list[Group] = []
    bad_rows: list[BadRow] = []
    occurrences: Counter[str] = Counter()
    for file, number, row in _rows(source):
        try:
            messages, gold, meta = check_row(row)
        except _Problem as problem:
            bad_rows.append(BadRow(file, number, problem.field, problem.reason))
            if on_bad_rows == "fail" and len(bad_rows) == PROBLEMS_SHOWN:
                break
            continue
        identity = prompt_identity(messages)
        groups.append(new_group(messages, gold=gold, meta=meta, occurrence=occurrences[identity]))
        occurrences[identity] += 1
        if len(groups) == limit:
            break
    shown = tuple(bad_rows[:PROBLEMS_SHOWN])
    if bad_rows and on_bad_rows == "fail":
        raise InputError(f"{source}: rows that cannot be used; correct them or set on_bad_rows=quarantine", shown)
    if not groups:
        raise InputError(f"{source}: no row that can be used ({len(bad_rows)} bad rows)", shown)
    return PromptSet(groups, bad_rows)


def prompts_for_iteration(
    groups: list[Group], iteration: int, limit: int | None, reuse: bool, seed: int
) -> list[Group]:
    """The prompts of one iteration, stamped with it: `limit` of them (all when None or more than there are).

    Prompts are put in one order drawn from `seed`, whatever order they came in. With `reuse` every iteration takes
    the first `limit`; without, iteration t takes the t-th slice, and the order starts again where it is exhausted.
    """
    order = sorted(groups, key=lambda group: digest("prompt order", seed, group["prompt_id"]))
    size = min(limit or len(order), len(order))
    start = 0 if reuse else iteration * size
    chosen = [order[(start + offset) % len(order)] for offset in range(size)]
    return [Group(**{**deepcopy(group), "iteration": iteration}) for group in chosen]


def check_row(row: Any) -> tuple[list[Message], str | None, dict[str, Any]]:
    """Messages, gold and meta of one raw row. Null and NaN columns count as absent, as Parquet has every column."""
    if isinstance(row, _Problem):
        raise row
    if not isinstance(row, dict):
        raise _Problem("", f"is {_kind(row)}; a row is an object with prompt or messages")
    row = {str(key): value for key, value in row.items() if value is not None and not _is_nan(value)}
    if "prompt" in row and "messages" in row:
        raise _Problem("prompt", "is there and so is messages; keep one of them")
    if "messages" in row:
        messages = _messages(row.pop("messages"))
    elif "prompt" in row:
        messages = [Message(role="user", content=_text(row.pop("prompt"), "prompt"))]
    else:
        raise _Problem("prompt", f"is missing and so is messages; the row has {', '.join(row) or 'nothing'}"[:200])
    gold = row.pop("gold", None)
    meta = {key: _meta(value, key) for key, value in row.items()}
    if not isinstance(meta.get("id", ""), (str, int)) or isinstance(meta.get("id"), bool):
        raise _Problem("id", f"is {_kind(meta['id'])}; use text or a whole number")
    return messages, None if gold is None else _gold(gold), meta


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise _Problem("messages", f"is {_kind(value)}; use a list of {{role, content}}")
    if not value:
        raise _Problem("messages", "is empty; it needs a user message")
    messages: list[Message] = []
    for index, item in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(item, dict):
            raise _Problem(where, f"is {_kind(item)}; use {{role, content}}")
        extra = [key for key, other in item.items() if key not in ("role", "content") and other is not None]
        if extra:
            raise _Problem(f"{where}.{extra[0]}", "is not used; a message has role and content alone")
        if item.get("role") not in ROLES:
            raise _Problem(f"{where}.role", f"is {item.get('role')!r:.40}; use {', '.join(ROLES)}")
        messages.append(Message(role=item["role"], content=_text(item.get("content"), f"{where}.content")))
    if messages[-1]["role"] != "user":
        raise _Problem(f"messages[{len(messages) - 1}].role", "is not user; the last message must be the user's")
    return messages


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Problem(where, f"is {_kind(value)}; use text")
    if not value.strip():
        raise _Problem(where, "is empty; write it or leave the row out")
    found = _NOT_TEXT.search(value)
    if found:
        what = "a NUL character" if found[0] == "\x00" else f"half of a character (U+{ord(found[0]):04X})"
        raise _Problem(where, f"has {what} at position {found.start() + 1}; remove it")
    return value


def _gold(value: Any) -> str:
    """Numbers become their text; whole ones without a fraction, as 42 reads back as 42.0 from a column with nulls."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return str(value)
    return _text(value, "gold")


def _meta(value: Any, where: str) -> Any:
    """The value as plain JSON; dates and decimals become their text."""

    def plain(item: Any) -> str:
        if isinstance(item, (date, time, timedelta, Decimal, UUID)):
            return str(item)
        raise TypeError(f"has {_kind(item)}")

    try:
        text = json.dumps({where: value}, ensure_ascii=False, default=plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _Problem(where, f"cannot be kept as JSON ({error}); change the column or remove it") from None
    if _NOT_TEXT.search(text):
        raise _Problem(where, "has half of a character (a lone surrogate); remove it")
    return json.loads(text)[where]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _kind(value: Any) -> str:
    names = {type(None): "missing", dict: "an object", list: "a list", str: "text", bool: "true or false",
             int: "a number", float: "a number", bytes: "bytes"}
    return names.get(type(value), f"of type {type(value).__name__}")


# Readers yield file, row (from 1) and the raw row, or a _Problem in its place.
_Rows = Iterator[tuple[str, int, Any]]


def _rows(source: str) -> _Rows:
    try:
        fs, path = filesystem(absolute(source))
    except pa.ArrowException as error:
        raise InputError(f"{source}: not a path that can be read ({error})") from error
    info = fs.get_file_info(path)
    if info.is_file:
        yield from _file_rows(fs, path, source)
    elif info.type == pafs.FileType.Directory:
        yield from _folder_rows(fs, path, source)
    elif _HUB_NAME.fullmatch(source) and not _SUFFIX.search(source):
        yield from _hub_rows(source)
    else:
        raise InputError(f"{source}: no such file or folder; give JSONL, JSON, Parquet or a Hugging Face data set")


def _file_rows(fs: pafs.FileSystem, path: str, shown: str) -> _Rows:
    suffix = _SUFFIX.search(path)
    if not suffix:
        raise InputError(f"{shown}: unknown format; use a name that ends in .jsonl, .json or .parquet")
    try:
        if suffix[1].lower() == "parquet":
            with fs.open_input_file(path) as file:
                rows = (row for batch in pq.ParquetFile(file).iter_batches(1024) for row in batch.to_pylist())
                yield from ((shown, number, row) for number, row in enumerate(rows, 1))
            return
        with fs.open_input_stream(path) as stream:
            lines = io.BufferedReader(stream)
            array = suffix[1].lower() == "json" and lines.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
            rows = _array(lines.read(), shown) if array else map(_parse, lines)
            for number, row in enumerate(rows, 1):
                if row is not None:
                    yield shown, number, row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _array(data: bytes, shown: str) -> list[Any]:
    rows = _parse(data)
    if isinstance(rows, _Problem):
        raise InputError(f"{shown}: {rows.reason}")
    return [_Problem("", "is missing; a row is an object") if row is None else row for row in rows]


def _parse(line: bytes) -> Any:
    """The JSON value of a line, None for a blank one, a _Problem when it is not JSON."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a JSON value")

    try:
        text = line.decode("utf-8-sig").strip()
        if not text:
            return None
        value = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        return _Problem("", f"is not UTF-8 ({error.reason} at byte {error.start + 1})")
    except (ValueError, RecursionError) as error:
        return _Problem("", f"is not JSON ({error})")
    return _Problem("", "is null; a row is an object with prompt or messages") if value is None else value


def _folder_rows(fs: pafs.FileSystem, path: str, source: str) -> _Rows:
    entries = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    if {"state.json", "dataset_dict.json"} & {entry.path.removeprefix(path).strip("/") for entry in entries}:
        from datasets import load_from_disk

        data = _load(lambda: load_from_disk(absolute(source)), source, "save it again with save_to_disk")
        yield from _data_set_rows(data, source)
        return
    names = sorted(entry.path.removeprefix(path).strip("/") for entry in entries if entry.is_file)
    names = [name for name in names if _SUFFIX.search(name) and not re.search(r"(^|/)[._]", name)]
    train = [name for name in names if "train" in re.split(r"[^a-z]+", name.lower())]
    if not names:
        raise InputError(f"{source}: no .jsonl, .json or .parquet file in this folder")
    for name in train or names:
        yield from _file_rows(fs, f"{path.rstrip('/')}/{name}", f"{source.rstrip('/')}/{name}")


def _hub_rows(name: str) -> _Rows:
    from datasets import load_dataset

    hint = "no such file or folder is here either; check the name and the network, or give a local file"
    yield from _data_set_rows(_load(lambda: load_dataset(name, split="train"), name, hint), name)


def _load(loader: Callable[[], Any], source: str, hint: str) -> Any:
    try:
        return loader()
    except Exception as error:  # every layer below has its own errors for what is one problem to the user
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: cannot be loaded as a Hugging Face data set ({reason}); {hint}") from error


def _data_set_rows(data: Any, source: str) -> _Rows:
    if isinstance(data, dict):  # splits by name
        if "train" not in data and len(data) != 1:
            raise InputError(f"{source}: has no train split; give the folder of one of {', '.join(data)}")
        data = data["train"] if "train" in data else next(iter(data.values()))
    yield from ((source, number, row) for number, row in enumerate(data, 1))
