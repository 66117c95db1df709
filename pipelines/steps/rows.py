"""Rows of a file, a folder or a Hugging Face data set, checked one by one before any actor starts.

A row that cannot be used is named by file, row and field; it fails the whole reading, or is left out and counted.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.records import Message
from pipelines.storage import absolute, filesystem

ROLES = ("system", "user", "assistant")
PROBLEMS_SHOWN = 5
NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
_SUFFIX = re.compile(r"\.(jsonl|ndjson|json|parquet)(\.gz|\.bz2|\.zst)?$", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
Made = TypeVar("Made")


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
    """Prompts, pairs or recorded groups cannot be used; the message names file, row and field of the first problems."""

    def __init__(self, message: str, bad_rows: tuple[BadRow, ...] = ()):
        super().__init__("\n  ".join([message, *map(str, bad_rows)]))
        self.bad_rows = bad_rows


class Problem(ValueError):
    """What is wrong with one row."""

    def __init__(self, where: str, reason: str):
        super().__init__(reason)
        self.field, self.reason = where, reason


def read_rows(
    source: str,
    convert: Callable[[dict[str, Any], str], Made],
    limit: int | None = None,
    on_bad_rows: Literal["fail", "quarantine"] = "fail",
) -> tuple[list[Made], list[BadRow]]:
    """`convert(row, "file:row")` of the rows of JSONL, JSON, Parquet, a data set folder or a hub data set, in order.

    `convert` raises Problem for a row it cannot use, and is given no null, as Parquet has every column in every row.
    Reading stops after `limit` good rows. A folder that has files named after a train split is read for those alone.
    Raises InputError when the source cannot be read, holds no good row, or has bad rows and `on_bad_rows` is "fail" (up
    to five are named).
    """
    made: list[Made] = []
    bad_rows: list[BadRow] = []
    for file, number, row in _rows(source):
        try:
            made.append(convert(_present(row), f"{file}:{number}"))
        except Problem as problem:
            bad_rows.append(BadRow(file, number, problem.field, problem.reason))
            if on_bad_rows == "fail" and len(bad_rows) == PROBLEMS_SHOWN:
                break
            continue
        if len(made) == limit:
            break
    shown = tuple(bad_rows[:PROBLEMS_SHOWN])
    if bad_rows and on_bad_rows == "fail":
        raise InputError(f"{source}: rows that cannot be used; correct them or set on_bad_rows=quarantine", shown)
    if not made:
        raise InputError(f"{source}: no row that can be used ({len(bad_rows)} bad rows)", shown)
    return made, bad_rows


def _present(row: Any) -> dict[str, Any]:
    if isinstance(row, Problem):
        raise row
    if not isinstance(row, dict):
        raise Problem("", f"is {kind(row)}; a row is an object")
    return {str(key): value for key, value in row.items() if value is not None}


def check_messages(value: Any, where: str, last: Literal["user", "assistant"]) -> list[Message]:
    """A conversation that ends with a message of `last`; raises Problem."""
    if not isinstance(value, list):
        raise Problem(where, f"is {kind(value)}; use a list of {{role, content}}")
    if not value:
        raise Problem(where, f"is empty; it needs a message of the {last}")
    messages: list[Message] = []
    for index, item in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(item, dict):
            raise Problem(place, f"is {kind(item)}; use {{role, content}}")
        extra = [key for key, other in item.items() if key not in ("role", "content") and other is not None]
        if extra:
            raise Problem(f"{place}.{extra[0]}", "is not used; a message has role and content alone")
        if item.get("role") not in ROLES:
            raise Problem(f"{place}.role", f"is {item.get('role')!r:.40}; use {', '.join(ROLES)}")
        messages.append(Message(role=item["role"], content=check_text(item.get("content"), f"{place}.content")))
    if messages[-1]["role"] != last:
        raise Problem(f"{where}[{len(messages) - 1}].role", f"is not {last}; the last message must be the {last}'s")
    return messages


def check_text(value: Any, where: str) -> str:
    """Text that is not blank and that Parquet and tokenizers can hold; raises Problem."""
    if not isinstance(value, str):
        raise Problem(where, f"is {kind(value)}; use text")
    if not value.strip():
        raise Problem(where, "is empty; write it or leave the row out")
    found = NOT_TEXT.search(value)
    if found:
        what = "a NUL character" if found[0] == "\x00" else f"half of a character (U+{ord(found[0]):04X})"
        raise Problem(where, f"has {what} at position {found.start() + 1}; remove it")
    return value


def kind(value: Any) -> str:
    """What a value is, for messages."""
    names = {type(None): "missing", dict: "an object", list: "a list", str: "text", bool: "true or false",
             int: "a number", float: "a number", bytes: "bytes"}
    return names.get(type(value), f"of type {type(value).__name__}")


# Readers yield file, row (from 1) and the raw row, or a Problem in its place.
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
    if isinstance(rows, Problem):
        raise InputError(f"{shown}: {rows.reason}")
    return [Problem("", "is missing; a row is an object") if row is None else row for row in rows]


def _parse(line: bytes) -> Any:
    """The JSON value of a line, None for a blank one, a Problem when it is not JSON."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a JSON value")

    try:
        text = line.decode("utf-8-sig").strip()
        if not text:
            return None
        value = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        return Problem("", f"is not UTF-8 ({error.reason} at byte {error.start + 1})")
    except (ValueError, RecursionError) as error:
        return Problem("", f"is not JSON ({error})")
    return Problem("", "is null; a row is an object") if value is None else value


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
