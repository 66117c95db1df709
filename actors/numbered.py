"""Reading numbered lists that a model wrote: criteria, a verdict on each criterion, a score of each attribute. Pure.

The same contract as in actors/verdicts.py: an item that is not there is missing and never satisfied, the last item of a
number counts, quoted items are not the writer's own, and of a text that was cut off the last item is truncated.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from actors.verdicts import BRACKETED, END, Reading, one_newline, parse_score, quotations

_ITEM = re.compile(r"^(?P<indent>[ \t]*)[*_]{0,2}(?P<number>[0-9]{1,3})[.):][*_]{0,2}(?:[ \t]+(?P<rest>.*))?$", re.M)
_BOLD = re.compile(r"[ \t]*[*_]{2}(?P<name>[^*\n]{1,120}?)[*_]{2}[ \t]*(?P<note>\([^()\n]{0,40}\))?[ \t]*[:：]?[ \t]*")  # noqa: RUF001
_PLAIN = re.compile(r"[ \t]*(?P<name>[^:：*\n]{1,80}?)[ \t]*(?P<note>\([^()\n]{0,40}\))?[ \t]*[:：][ \t]*")  # noqa: RUF001
_MARK = re.compile(
    r"[-–—>*_\"'`<\[( \t]*(?:verdict[*_]{0,2}[ \t]*[:：][*_]{0,2}[ \t]*)?[<\[(*_]*"  # noqa: RUF001
    r"(?P<mark>not[ \t]+(?:violated|satisfied|applicable)|violated|satisfied|n/a)" + END, re.I
)
_LATER = re.compile(r"^[-*• \t]*[*_]{0,2}verdict[*_]{0,2}[ \t]*[:：]", re.I | re.M)  # noqa: RUF001
_AND_OTHER = re.compile(
    r"[*_\"'`)\]> \t]{0,6}(?:[/|,]|(?:or|and)\b)[*_\"'`<\[( \t]{0,6}(?:not[ \t]+)?(?:violated|satisfied)", re.I
)
_MARKS = {
    "violated": "violated", "not satisfied": "violated", "satisfied": "satisfied", "not violated": "satisfied",
    "not applicable": "not applicable", "n/a": "not applicable",
}
_RULE = re.compile(r"\b(?:rule|must|required|mandatory|hard)\b", re.I)


class Item(NamedTuple):
    """One item of a numbered list. `name` is its `**Name**:`, `note` what stands in brackets after it."""

    number: int
    name: str | None
    note: str
    text: str


class Drafted(NamedTuple):
    """A criterion as a model drafted it. `severity` is "rule" where the item says so, else "preference"."""

    name: str
    description: str
    severity: str


def numbered_items(text: str) -> list[Item]:
    """The items of a numbered list in order, each with the lines below it; deeper lists belong to their item."""
    text = one_newline(text)
    quoted = quotations(text)
    starts = [m for m in _ITEM.finditer(text) if not quoted(m.start("number"), m.end("number"))]
    starts = [m for m in starts if len(m["indent"]) <= len(starts[0]["indent"])]
    found = []
    ends = [*(m.start() for m in starts[1:]), len(text)][: len(starts)]
    for start, end in zip(starts, ends, strict=True):
        body = text[start.end("number") + 1 : end].lstrip(".):*_ \t")
        body = f"**{body}" if start[0].lstrip(" \t0123456789.):").startswith("**") else body
        named = _BOLD.match(body) or _PLAIN.match(body)
        name = named["name"].strip(" \t:：*_") if named else None  # noqa: RUF001
        rest = body[named.end():] if named else body
        found.append(Item(int(start["number"]), name or None, (named and named["note"]) or "", rest.strip()))
    return found


def parse_criteria(text: str, truncated: bool = False) -> Reading[list[Drafted]]:
    """The criteria of a draft: numbered `**Name** (rule):` items, then a description or bullets (R7.3, 2403.01069).

    Items without a name are left out, of two with one name the first counts. Missing without any. Of a draft that was
    cut off the last item is left out: a person reads drafts before they judge anything.
    """
    found: dict[str, Drafted] = {}
    items = numbered_items(text)
    for item in items[:-1] if truncated else items:
        if item.name and item.name[0] not in "<[" and any(c.isalpha() for c in item.name):
            severity = "rule" if _RULE.search(item.note) else "preference"
            lines = (line.strip(" \t-*•") for line in item.text.split("\n"))
            found.setdefault(same_name(item.name), Drafted(item.name, " ".join(filter(None, lines)), severity))
    if not found:
        return Reading(None, "truncated" if truncated else "missing")
    return Reading(list(found.values()), "ok")


def parse_marks(text: str, names: Sequence[str], truncated: bool = False) -> list[Reading[str]]:
    """What aspect-wise feedback says of each named criterion: violated, satisfied or not applicable (R7.3, 2403.01069).

    An item belongs to the criterion that it names, or else to that of its number. A criterion without an item is
    missing: not assessed, never satisfied.
    """
    placed = items_of(text, names)
    last = (numbered_items(text) or [None])[-1]
    cut: Reading[str] = Reading(None, "truncated")
    none: Reading[str] = cut if truncated else Reading(None, "missing")
    found = []
    for place in range(len(names)):
        item = placed.get(place)
        found.append(none if item is None else cut if truncated and item == last else _mark(item, names[place]))
    return found


def items_of(text: str, names: Sequence[str]) -> dict[int, Item]:
    """The last item of each named criterion, by its place: of that name, or else of that number."""
    by_name = {same_name(name): place for place, name in enumerate(names)}
    places = ((by_name.get(same_name(item.name or ""), item.number - 1), item) for item in numbered_items(text))
    return {place: item for place, item in places if 0 <= place < len(names)}


def parse_affinities(text: str, count: int, truncated: bool = False) -> list[Reading[float]]:
    """The score from 1 to 5 of each of `count` attributes, by the number of its item (R18.3, QualEval, 2311.02807)."""
    found: list[Reading[float]] = [Reading(None, "truncated" if truncated else "missing")] * count
    items = numbered_items(text)
    for last, item in ((item is items[-1], item) for item in items):
        if 1 <= item.number <= count:
            said = item.text if not item.name else f"{item.name}: {item.text}"
            found[item.number - 1] = parse_score(said, 1, 5, truncated and last, whole=True)
    return found


def same_name(name: str) -> str:
    """A name as it is compared: case, spaces and punctuation aside."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _mark(item: Item, criterion: str) -> Reading[str]:
    later = list(_LATER.finditer(item.text))
    text = item.text[later[-1].start():] if later else item.text
    bracket = BRACKETED.match(text)
    if bracket and " or " in bracket[1]:
        return Reading(None, "missing")  # a placeholder
    said = _MARK.match(text)
    if said is None and item.name and not later and same_name(item.name) != same_name(criterion):
        text = f"{item.name}: {item.text}"  # "3. violated, see line 2: too short" has no name
        said = _MARK.match(text)
    if said is None:
        return Reading(None, "missing")
    if _AND_OTHER.match(text, said.end()):
        return Reading(None, "ambiguous")
    return Reading(_MARKS[" ".join(said["mark"].lower().split())], "ok")
