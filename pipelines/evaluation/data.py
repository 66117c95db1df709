"""Rows of an evaluation's data file, checked before anybody is asked."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.manifest import source_hash
from pipelines.steps.rows import InputError, Problem, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (lambda v: isinstance(v, str), "text"),  # empty text is data: a model may say nothing
    "number": (_is_number, "a number"),
    "flag": (lambda v: isinstance(v, bool) or v in (0, 1), "true or false"),
    "label": (lambda v: isinstance(v, (str, int)) and not isinstance(v, bool), "text or a whole number"),
    "texts": (lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v), "a list of texts"),
    "table": (
        lambda v: isinstance(v, list) and all(isinstance(r, list) and all(isinstance(c, str) for c in r) for r in v),
        "a list of rows, each a list of texts",
    ),
    "flags": (lambda v: isinstance(v, list) and all(isinstance(item, bool) for item in v), "a list of true or false"),
    "numbers": (lambda v: isinstance(v, list) and all(_is_number(item) for item in v), "a list of numbers"),
    "verdicts": (
        lambda v: isinstance(v, list) and all(item is None or isinstance(item, bool) for item in v),
        "a list of true, false, or null where a verdict cannot be read",
    ),
}


def read_columns(
    data: str, needed: dict[str, str], optional: dict[str, str] | None = None, limit: int | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows as dictionaries of the columns named, whose kinds are those of `_KINDS` above.

    An optional column that a row lacks is not in its dictionary. `check` raises Problem for columns that do not fit
    each other. Raises InputError that names file, row and field.
    """

    def convert(row: dict[str, Any], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, wanted in {**needed, **(optional or {})}.items():
            if name not in row:
                if name in needed:
                    raise Problem(name, f"is missing; the row has {', '.join(sorted(row)) or 'nothing'}")
                continue
            fits, what = _KINDS[wanted]
            if not fits(row[name]):
                raise Problem(name, f"is {kind(row[name])}; use {what}")
            found[name] = row[name]
        if check is not None:
            check(found)
        return found

    return read_rows(data, convert, limit)[0]


def read_text(path: str) -> str:
    """The text of a file; raises InputError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from None


def write_text(path: str, text: str) -> None:
    """Write a file that the next command reads."""
    Path(path).write_text(text, encoding="utf-8")


def write_rows(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSONL, one object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def about(
    evaluation: str, data: str, judge: "Judging | None", settings: Strict, weight_version: str | None = None
) -> dict[str, Any]:
    """What every Result says beside its numbers: the data, who was asked, and how.

    `weight_version` is that of the replies, where they may be of other weights than the judge had when it was opened.
    """
    return {
        "evaluation": evaluation, "data": name_of(data), "data_hash": source_hash(data),
        "judge": judge.name if judge else None,
        "weight_version": weight_version or (judge.weight_version if judge else None),
        "settings": settings.model_dump(mode="json"),
    }


def name_of(data: str) -> str:
    """How a result names its data: folder and file, without where they lie."""
    path = Path(data)
    return "/".join(path.parts[-2:])
