"""Answers that are tables: a logic grid read from JSON, compared cell by cell. Pure.

The grids are those of ZebraLogic (2502.01100): one row a house, one column a feature. The last table of a text counts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

Table = dict[tuple[str, str], str]  # (house, feature) -> value, all in plain form

OBJECTS = 256  # places where an object may begin that are tried; a text with more of them is no answer
_DECODER = json.JSONDecoder()
_HOUSE = re.compile(r"(?:house)?[ _#-]{0,3}(\d{1,3})", re.I)


def read_table(text: str, header: Sequence[str]) -> Table | None:
    """The last JSON object of a text that holds cells of a grid with these columns; None without one.

    `header` names the house's column first. The grid stands in the object or under its key `solution`, as houses by
    name (`{"House 1": {"Name": "Eric"}}`), as a list of rows (`[{"House": "1", "Name": "Eric"}]`), or as `header` and
    `rows`. Cells may be missing; columns that the header lacks are not read, and letter case does not matter.
    """
    features = {_plain(name) for name in header[1:]}
    found = None
    for value in _objects(text):
        named = next((grid for name, grid in value.items() if _plain(name) == "solution"), value)
        table = _cells(named, _plain(header[0]), features)
        found = table or found
    return found


def gold_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The grid of `header` and `rows`, whose first column is the house; raises ValueError where a row has a gap."""
    return {
        (_house(row[0]) or row[0], _plain(feature)): _value(value)
        for row in rows for feature, value in zip(header[1:], row[1:], strict=True)
    }


def cells_right(found: Mapping[tuple[str, str], str] | None, gold: Mapping[tuple[str, str], str]) -> int:
    """How many cells of `gold` a table has right; a cell that it lacks is wrong."""
    return sum((found or {}).get(cell) == value for cell, value in gold.items())


def table_text(table: Mapping[tuple[str, str], str]) -> str:
    """A table as one line of text: equal tables have equal texts, so that whole tables vote (R1, 2411.04109)."""
    return json.dumps(sorted([*cell, value] for cell, value in table.items()), ensure_ascii=False)


def whole_json(text: str) -> bool:
    """Whether a text is one JSON object, or one in a code fence, and nothing else."""
    bare = text.strip()
    if bare.startswith("```") and bare.endswith("```") and "\n" in bare:
        bare = bare[bare.index("\n"):-3]
    try:
        return isinstance(json.loads(bare), dict)
    except (ValueError, RecursionError):
        return False


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that stand in a text, outermost ones, in order."""
    end = 0
    for start in [match.start() for match in re.finditer(r"\{", text)][-OBJECTS:]:
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield value


def _cells(grid: Any, house_column: str, features: Set[str]) -> Table:
    if isinstance(grid, dict) and isinstance(grid.get("header"), list) and isinstance(grid.get("rows"), list):
        named = [str(name) for name in grid["header"]]
        grid = [dict(zip(named, row, strict=False)) for row in grid["rows"] if isinstance(row, list)]
    if isinstance(grid, list):
        rows = [row for row in grid if isinstance(row, dict)]
        houses = [next((v for name, v in row.items() if _plain(name) == house_column), None) for row in rows]
    elif isinstance(grid, dict):
        rows = [row for row in grid.values() if isinstance(row, dict)]
        houses = [name for name, row in grid.items() if isinstance(row, dict)]
    else:
        return {}
    table: Table = {}
    for house, row in zip(houses, rows, strict=True):
        number = _house(house)
        for name, value in row.items():
            if number and _plain(name) in features and isinstance(value, (str, int, float)):
                table[number, _plain(name)] = _value(value)
    return table


def _house(name: Any) -> str | None:
    """The number of a house from "House 1" or 1."""
    number = _HOUSE.fullmatch(str(name).strip())
    return str(int(number[1])) if number else None


def _plain(name: Any) -> str:
    """A column's name without case, spaces and underscores; models write "Book Genre" for BookGenre."""
    return re.sub(r"[\s_]+", "", str(name)).casefold()


def _value(value: Any) -> str:
    return " ".join(str(value).casefold().split())
