"""Labelled pairs of responses from a file of either shape, in an order that says nothing about the label."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

from actors.verdicts import as_listed
from pipelines.steps.rows import Problem, check_text, kind, read_rows

LABELS = {"a": "A", "b": "B", "tie": "tie"}
SCORES = {"score_a", "score_b"}
Verdicts = tuple[str | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Two responses to a prompt and which is better. `row` counts from 0; one row may make several comparisons.

    Comparisons of one prompt are not independent, whatever row they are in: `cluster` is the first row with the prompt.
    """

    row: int
    prompt: str
    response_a: str
    response_b: str
    label: str  # "A", "B" or "tie"
    subset: str = ""
    section: str = ""
    meta: dict[str, str] = field(default_factory=dict)  # what a judge may be shown: reference, criteria, scenario
    authors: tuple[str, str] | None = None
    styles: tuple[int, int] | None = None  # of the better and of the worse response, where a row has several styles
    verdicts: Verdicts | None = None  # recorded, about the two as listed: in both orders, or in one
    votes: Verdicts = ()  # recorded repetitions of the first order
    scores: tuple[float | None, float | None] | None = None  # recorded, of A and of B
    cluster: int = 0

    def swapped(self) -> "Comparison":
        """The same with A and B exchanged, and the recorded orders with them."""
        def turn(said: Verdicts) -> Verdicts:
            return tuple(as_listed(verdict, 1) for verdict in said)

        return replace(
            self, response_a=self.response_b, response_b=self.response_a, label=as_listed(self.label, 1) or "tie",
            authors=self.authors and self.authors[::-1], scores=self.scores and self.scores[::-1],
            verdicts=self.verdicts and turn(self.verdicts[::-1]), votes=turn(self.votes),
        )

    @property
    def longer(self) -> int:
        """By how many characters A is longer than B."""
        return len(self.response_a) - len(self.response_b)


def read_comparisons(
    data: str, limit: int | None = None, seed: int = 0, as_shown: bool = False, shuffle: bool = True
) -> list[Comparison]:
    """The comparisons of a file of `prompt, response_a, response_b, label` or of `prompt, chosen, rejected`.

    `label` is A, B or tie; `chosen` and `rejected` are texts, or lists of equal length with one text a style, of which
    each chosen one is compared with each rejected one. Optional columns: `subset`, `section`, `scenario`, `criteria`,
    `reference`, `model_a` and `model_b` (or `chosen_model` and `rejected_model`), and what a judge said before:
    `verdict` (of one order), `verdicts` (of A-B and of B-A), `votes` (the first order repeated), `score_a`, `score_b`.
    Recorded verdicts are about the responses as listed, and A is the chosen one where there are no places; with
    `as_shown` A is what was shown first. `limit` rows are drawn by `seed`, in the order of the file. Where the file
    always lists the better one in one place, `shuffle` puts both in random order by `seed`. Raises InputError.
    """
    rows, _ = read_rows(data, lambda row, where: _comparisons(row, as_shown))
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]
    first: dict[str, int] = {}
    found = [
        replace(made, row=number, cluster=first.setdefault(made.prompt, number))
        for number, several in enumerate(rows) for made in several
    ]
    recorded = any(made.verdicts is not None or made.votes for made in found)
    if recorded:  # a null verdict is an abstention, and a row has no nulls
        orders = max(len(made.verdicts or ()) for made in found) or 1
        found = [
            made if made.verdicts is not None or made.scores else replace(made, verdicts=(None,) * orders)
            for made in found
        ]
    if shuffle and len({made.label for made in found if made.label != "tie"}) == 1:
        chance = random.Random(f"order {seed}")
        found = [made.swapped() if chance.random() < 0.5 else made for made in found]
    return found


def is_recorded(comparisons: list[Comparison]) -> bool:
    """Whether the file says what a judge said, so that nobody need be asked."""
    return any(made.verdicts is not None or made.scores is not None for made in comparisons)


def _comparisons(row: dict[str, Any], as_shown: bool) -> list[Comparison]:
    prompt = check_text(row.get("prompt"), "prompt")
    shared: dict[str, Any] = {
        "row": 0, "prompt": prompt, "subset": _text(row, "subset"), "section": _text(row, "section"),
        "meta": {name: found for name in ("criteria", "reference", "scenario") if (found := _text(row, name))},
        **_recorded(row, as_shown),
    }
    if "chosen" in row or "rejected" in row:
        better, worse = _texts(row, "chosen"), _texts(row, "rejected")
        if len(better) != len(worse):
            raise Problem("rejected", f"has {len(worse)} texts, chosen has {len(better)}; give one of each style")
        several = len(better) > 1
        authors = _authors(row, "chosen_model", "rejected_model")
        return [
            Comparison(response_a=a, response_b=b, label="A", authors=authors, styles=(i, j) if several else None,
                       **shared)
            for i, a in enumerate(better)
            for j, b in enumerate(worse)
        ]
    label = row.get("label")
    if not isinstance(label, str) or label.strip().lower() not in LABELS:
        raise Problem("label", f"is {repr(label)[:40] if 'label' in row else 'missing'}; use A, B or tie")
    a, b = (_response(row, name) for name in ("response_a", "response_b"))
    return [Comparison(response_a=a, response_b=b, label=LABELS[label.strip().lower()],
                       authors=_authors(row, "model_a", "model_b"), **shared)]


def _recorded(row: dict[str, Any], as_shown: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "verdicts" in row:
        said = row["verdicts"]
        if not isinstance(said, list) or len(said) != 2:
            raise Problem("verdicts", "is no list of two; give the verdict of A-B and that of B-A")
        found["verdicts"] = tuple(
            as_listed(_verdict(v, f"verdicts[{i}]"), i if as_shown else 0) for i, v in enumerate(said)
        )
    elif "verdict" in row:
        found["verdicts"] = (_verdict(row["verdict"], "verdict"),)
    if "votes" in row:
        said = row["votes"]
        if not isinstance(said, list) or not said:
            raise Problem("votes", "is no list of verdicts")
        found["votes"] = tuple(_verdict(v, f"votes[{i}]") for i, v in enumerate(said))
        found.setdefault("verdicts", found["votes"][:1])
    if row.keys() & SCORES:
        found["scores"] = tuple(_number(row, name) for name in ("score_a", "score_b"))
    return found


def _verdict(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.strip().lower() not in LABELS:
        raise Problem(where, f"is {value!r:.40}; use A, B, tie, or null where the judge could not be read")
    return LABELS[value.strip().lower()]


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise Problem(name, f"is {kind(value)}; use a number")
    return None if value is None else float(value)


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name, "")
    if not isinstance(value, str):
        raise Problem(name, f"is {kind(value)}; use text")
    return value


def _response(row: dict[str, Any], name: str) -> str:
    if not isinstance(row.get(name), str):  # an empty response is data: a model said nothing
        raise Problem(name, f"is {kind(row.get(name))}; use text")
    return row[name]


def _texts(row: dict[str, Any], name: str) -> list[str]:
    value = row.get(name)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise Problem(name, f"is {kind(value)}; use a text, or a list of texts, one a style")
    return value


def _authors(row: dict[str, Any], a: str, b: str) -> tuple[str, str] | None:
    return (_text(row, a), _text(row, b)) if a in row and b in row else None
