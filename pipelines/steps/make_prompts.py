"""First step: rows of a file, a folder or a Hugging Face data set become groups, checked before any actor starts.

A row has `prompt` (text) or `messages` (a list of {role, content} that ends with the user), and may have `gold` (the
known answer) and `id`. Responses that exist already come as `responses` (a list of texts) or `response` (one text), or
as a preference, `chosen` and `rejected` (texts); they become samples. Every other column is kept in the group's `meta`,
where recipes find e.g. `gold_chain`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pipelines.records import Group, Message, Sample, digest, new_group, prompt_identity, record_id
from pipelines.steps.lengths import count_words
from pipelines.steps.rows import NOT_TEXT, BadRow, InputError, Problem, check_messages, check_text, kind, read_rows

__all__ = ["BadRow", "InputError", "PromptSet", "prompts_for_iteration", "read_prompts", "with_samples"]


@dataclass(frozen=True)
class PromptSet:
    """The prompts in source order, and the rows that were left out of them."""

    groups: list[Group]
    bad_rows: list[BadRow] = field(default_factory=list)


def read_prompts(
    source: str, limit: int | None = None, on_bad_rows: Literal["fail", "quarantine"] = "fail"
) -> PromptSet:
    """Groups of iteration 0, one a row, as `read_rows` reads them; raises InputError.

    Rows with equal messages get distinct prompt ids by occurrence.
    """
    occurrences: Counter[str] = Counter()

    def group(row: dict[str, Any], where: str) -> Group:
        messages, gold, meta, given = check_row(row)
        identity = prompt_identity(messages)
        made = new_group(messages, gold=gold, meta=meta, occurrence=occurrences[identity])
        occurrences[identity] += 1
        texts = enumerate(given)
        return {**made, "samples": [given_sample(made["prompt_id"], i, kind, text) for i, (kind, text) in texts]}

    return PromptSet(*read_rows(source, group, limit, on_bad_rows))


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


def with_samples(groups: list[Group], earlier: Iterable[Group]) -> list[Group]:
    """The groups with the samples that an earlier iteration had of their prompts, and without its judgements."""
    made = {group["prompt_id"]: group["samples"] for group in earlier}
    return [Group(**{**group, "samples": made.get(group["prompt_id"], group["samples"])}) for group in groups]


def given_sample(prompt_id: str, index: int, kind: str, text: str) -> Sample:
    """A response that no model of the run made; its tokens are the policy's own, made where they are needed."""
    return Sample(
        sample_id=record_id(0, "", 0, prompt_id, kind, index), index=index, kind=kind, text=text, thought=None,
        answer=None, token_ids=[], finish_reason="stop", n_chars=len(text), n_words=count_words(text), n_tokens=0,
        seed=0, weight_version="given", score=None, votes=None,
    )


def check_row(
    row: dict[str, Any],
) -> tuple[list[Message], str | None, dict[str, Any], list[tuple[str, str]]]:
    """Messages, gold, meta and given responses (kind, text) of one raw row.

    NaN counts as absent: it is what pandas writes for it.
    """
    row = {key: value for key, value in row.items() if not (isinstance(value, float) and math.isnan(value))}
    if "prompt" in row and "messages" in row:
        raise Problem("prompt", "is there and so is messages; keep one of them")
    if "messages" in row:
        messages = check_messages(row.pop("messages"), "messages", last="user")
    elif "prompt" in row:
        messages = [Message(role="user", content=check_text(row.pop("prompt"), "prompt"))]
    else:
        raise Problem("prompt", f"is missing and so is messages; the row has {', '.join(row) or 'nothing'}"[:200])
    gold = row.pop("gold", None)
    given = _given(row)
    meta = {key: _meta(value, key) for key, value in row.items()}
    if not isinstance(meta.get("id", ""), (str, int)) or isinstance(meta.get("id"), bool):
        raise Problem("id", f"is {kind(meta['id'])}; use text or a whole number")
    return messages, None if gold is None else _gold(gold), meta, given


def _given(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Takes the responses out of a row."""
    forms = [form for form in (("responses",), ("response",), ("chosen", "rejected")) if any(k in row for k in form)]
    if not forms:
        return []
    names = forms[0]
    if len(forms) > 1:
        raise Problem(names[0], f"is there and so is {' with '.join(forms[1])}; keep one of them")
    if missing := [name for name in names if name not in row]:
        raise Problem(missing[0], f"is missing, and a preference needs both {' and '.join(names)}")
    values = [row.pop(name) for name in names]
    if names == ("chosen", "rejected"):
        chosen, rejected = (check_text(value, name) for name, value in zip(names, values, strict=True))
        if chosen.strip() == rejected.strip():
            raise Problem("rejected", "is the same text as chosen, so neither is preferred; leave the row out")
        return [("chosen", chosen), ("rejected", rejected)]
    if names == ("response",):
        return [("given", check_text(values[0], "response"))]
    if not isinstance(values[0], list) or not values[0]:
        raise Problem("responses", f"is {'empty' if values[0] == [] else kind(values[0])}; use a list of texts")
    return [("given", check_text(text, f"responses[{i}]")) for i, text in enumerate(values[0])]


def _gold(value: Any) -> str:
    """Numbers become their text; whole ones without a fraction, as 42 reads back as 42.0 from a column with nulls."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return str(value)
    return check_text(value, "gold")


def _meta(value: Any, where: str) -> Any:
    """The value as plain JSON; dates and decimals become their text."""

    def plain(item: Any) -> str:
        if isinstance(item, (date, time, timedelta, Decimal, UUID)):
            return str(item)
        raise TypeError(f"has {kind(item)}")

    try:
        text = json.dumps({where: value}, ensure_ascii=False, default=plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Problem(where, f"cannot be kept as JSON ({error}); change the column or remove it") from None
    if NOT_TEXT.search(text):
        raise Problem(where, "has half of a character (a lone surrogate); remove it")
    return json.loads(text)[where]
