"""Preference data from anywhere as pairs: the formats that TRL and the common preference sets have.

    prompt, chosen, rejected       text, or messages: the prompt's conversation and one assistant message a side
    chosen, rejected               whole conversations that differ in their last message alone; also as text, in turns
                                   that "Human:" and "Assistant:" begin
    prompt, completion | messages  the chosen side alone, for losses that need no other
    pairs of a run                 with their ids and reference log-probabilities

Each may have `weight`, `chosen_score` and `rejected_score`. Other columns are not used.
"""

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from actors.chat import ChatFormat, ChatFormatError
from pipelines.records import PAIRS, Message, Pair, digest, prompt_identity
from pipelines.steps.rows import BadRow, Problem, check_messages, check_text, kind, read_rows

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_OWN_MARKS = {"pair_id", "chosen_ids", "rejected_ids"}


@dataclass(frozen=True)
class FoundPairs:
    """The pairs in source order, and the rows that were left out of them."""

    pairs: list[Pair]
    bad_rows: list[BadRow]


def read_pairs(
    source: str,
    chat: ChatFormat,
    needs_pairs: bool = True,
    context_tokens: int | None = None,
    on_bad_rows: Literal["fail", "quarantine"] = "fail",
) -> FoundPairs:
    """Pairs of iteration 0, one a row, from everything that `read_rows` reads, tokenised by `chat`.

    A side is what the assistant says and the token that ends its turn. Ids are hashes of content, and equal rows are
    told apart by occurrence; rows of one prompt share its id. Unless `needs_pairs`, rows may lack the rejected side,
    which is empty then. A prompt and a side together have at most `context_tokens`. Raises InputError as `read_rows`
    does.
    """
    reader = _Reader(chat, needs_pairs, context_tokens or sys.maxsize)
    return FoundPairs(*read_rows(source, reader.pair, on_bad_rows=on_bad_rows))


class _Reader:
    """Rows to pairs; remembers what it has seen, to tell equal rows apart."""

    def __init__(self, chat: ChatFormat, needs_pairs: bool, context_tokens: int):
        self._chat, self._needs_pairs, self._context_tokens = chat, needs_pairs, context_tokens
        self._vocabulary = len(chat.tokenizer)
        self._occurrences: Counter[str] = Counter()
        self._own: dict[str, str] = {}  # pair id -> where it was found

    def pair(self, row: dict[str, Any], where: str) -> Pair:
        """The pair of one row; raises Problem."""
        pair = self._own_pair(row, where) if row.keys() >= _OWN_MARKS else self._new_pair(row, where)
        if not pair["rejected_ids"] and self._needs_pairs:
            raise Problem("rejected", "is missing, and the loss compares two sides; add it, or train with loss=sft")
        if pair["chosen_ids"] == pair["rejected_ids"]:
            raise Problem("rejected", "has the same tokens as chosen, so neither is preferred; leave the row out")
        for side, ids in (("chosen", pair["chosen_ids"]), ("rejected", pair["rejected_ids"])):
            tokens, limit = len(pair["prompt_ids"]) + len(ids), self._context_tokens
            if tokens > limit:
                raise Problem(side, f"has {tokens} tokens with its prompt, the model takes {limit}; shorten them")
        return pair

    def _new_pair(self, row: dict[str, Any], where: str) -> Pair:
        messages, chosen, rejected = _texts(row)
        identity = digest("pair", prompt_identity(messages), chosen, rejected)
        pair = Pair(
            pair_id=digest(identity, self._occurrences[identity])[:24],
            prompt_id=prompt_identity(messages),
            iteration=0,
            kind="actor",
            messages=messages,
            prompt_ids=self._prompt_ids(messages),
            chosen_ids=self._chat.turn(chosen),
            rejected_ids=[] if rejected is None else self._chat.turn(rejected),
            chosen_text=chosen,
            rejected_text=rejected or "",
            chosen_from=where,
            rejected_from="" if rejected is None else where,
            ref_logp_chosen=None,
            ref_logp_rejected=None,
            ref_version=None,
            template_hash=self._chat.template_hash,
            weight=_weight(row),
            chosen_score=_finite(row, "chosen_score"),
            rejected_score=_finite(row, "rejected_score"),
        )
        self._occurrences[identity] += 1
        return pair

    def _prompt_ids(self, messages: list[Message]) -> list[int]:
        try:
            return self._chat.render(messages)
        except (ChatFormatError, TemplateError) as error:  # some templates refuse a system message, or two of one role
            reason = " ".join(str(error).split())
            raise Problem("prompt", f"cannot be put into the model's chat template: {reason}") from error

    def _own_pair(self, row: dict[str, Any], where: str) -> Pair:
        """A pair that a run made, whose ids are its engine's own; what only the reference pass fills may be absent."""
        pair_id = _text_of_run(row, "pair_id")
        if pair_id in self._own:
            raise Problem("pair_id", f"is also in {self._own[pair_id]}; leave one of them out")
        if row.get("template_hash") not in (None, self._chat.template_hash):
            raise Problem("template_hash", "is another model's, and so are the token ids; give the model of that run")
        messages = _messages_of_run(row, "messages")
        chosen_text, chosen_ids = self._side_of_run(row, "chosen")
        if not chosen_ids:
            raise Problem("chosen_ids", "is empty, and so is chosen_text; leave the row out")
        rejected_text, rejected_ids = self._side_of_run(row, "rejected")
        pair = Pair(
            pair_id=pair_id,
            prompt_id=_text_of_run(row, "prompt_id"),
            iteration=0,
            kind=_text_of_run(row, "kind"),
            messages=messages,
            prompt_ids=self._ids(row, "prompt_ids") or self._prompt_ids(messages),
            chosen_ids=chosen_ids,
            rejected_ids=rejected_ids,
            chosen_text=chosen_text,
            rejected_text=rejected_text,
            chosen_from=str(row.get("chosen_from", where)),
            rejected_from=str(row.get("rejected_from", "")),
            ref_logp_chosen=_finite(row, "ref_logp_chosen"),
            ref_logp_rejected=_finite(row, "ref_logp_rejected"),
            ref_logps_chosen=_log_probabilities(row, "ref_logps_chosen", len(chosen_ids)),
            ref_logps_rejected=_log_probabilities(row, "ref_logps_rejected", len(rejected_ids)),
            ref_version=str(row["ref_version"]) if "ref_version" in row else None,
            template_hash=self._chat.template_hash,
            weight=_weight(row),
            chosen_score=_finite(row, "chosen_score"),
            rejected_score=_finite(row, "rejected_score"),
        )
        if "student_messages" in row:
            student = _messages_of_run(row, "student_messages")
            digits, own = self._ids(row, "digit_ids"), self._ids(row, "student_ids") or self._prompt_ids(student)
            pair = Pair(**{**pair, "student_messages": student, "student_ids": own, "digit_ids": digits})
        self._own[pair_id] = where
        return pair

    def _side_of_run(self, row: dict[str, Any], side: str) -> tuple[str, list[int]]:
        text = row.get(f"{side}_text", "")
        if not isinstance(text, str):
            raise Problem(f"{side}_text", f"is {kind(text)}; use text")
        return text, self._ids(row, f"{side}_ids") or (self._chat.turn(text) if text else [])

    def _ids(self, row: dict[str, Any], field: str) -> list[int]:
        ids = row.get(field, [])
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < self._vocabulary for i in ids):
            raise Problem(field, f"holds what is no token id of the model (whole numbers below {self._vocabulary})")
        return ids


def _texts(row: dict[str, Any]) -> tuple[list[Message], str, str | None]:
    """The conversation before the answer, the chosen answer, and the rejected one if there is one."""
    if "chosen" in row or "rejected" in row:
        before, chosen = _side(row, "chosen")
        if "rejected" not in row:
            return before, chosen, None
        other, rejected = _side(row, "rejected")
        if other != before:
            shorter = min(len(before), len(other))
            at = next((i for i in range(shorter) if before[i] != other[i]), shorter)
            raise Problem(f"rejected[{at}]", "is not what chosen has there; only their last messages may differ")
        return before, chosen, rejected
    for field in ("messages", "completion"):
        if field in row:
            if isinstance(row.get("label"), bool):
                raise Problem("label", "marks single answers as good or bad; make pairs of a good and a bad one")
            return *_side(row, field), None
    raise Problem("chosen", f"is missing; the row has {', '.join(row) or 'nothing'}"[:200])


def _side(row: dict[str, Any], field: str) -> tuple[list[Message], str]:
    """The conversation before an answer, and the answer."""
    if field not in row:
        raise Problem(field, f"is missing; the row has {', '.join(row)}"[:200])
    value, prompt = row[field], row.get("prompt")
    before: list[Message] = []
    if isinstance(value, str) and prompt is not None:
        answer = check_text(value, field)
    else:
        turns = _dialogue(check_text(value, field), field) if isinstance(value, str) else value
        *before, last = check_messages(turns, field, last="assistant")
        answer = last["content"]
    if isinstance(prompt, list):
        stated = check_messages(prompt, "prompt", last="user")
        if before and before != stated:
            raise Problem("prompt", f"is not how {field} begins; remove one of them")
        before = stated
    elif prompt is not None:
        stated = Message(role="user", content=check_text(prompt, "prompt"))
        if before and stated not in before:  # many sets repeat the first or the last question beside the conversation
            raise Problem("prompt", f"is no message of {field}; remove one of them")
        before = before or [stated]
    if not before:
        raise Problem("prompt", f"is missing, and {field} is the answer alone")
    if before[-1]["role"] != "user":
        raise Problem(f"{field}[{len(before) - 1}].role", "is not user; an answer must follow the user's message")
    return before, answer


def _dialogue(text: str, field: str) -> list[dict[str, str]]:
    """Messages of a text in turns that "Human:" and "Assistant:" begin, after a blank line each."""
    first, *parts = _HH_TURN.split("\n\n" + text.lstrip())
    if first or not parts:
        raise Problem(
            field, "has no prompt beside it and is no conversation; add prompt, or use a list of {role, content}"
        )
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _HH_ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def _weight(row: dict[str, Any]) -> float:
    weight = _finite(row, "weight")
    if weight is not None and weight <= 0:
        raise Problem("weight", f"is {weight:g}; use more than 0, and leave out rows that shall not count")
    return 1.0 if weight is None else weight


def _finite(row: dict[str, Any], field: str) -> float | None:
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Problem(field, f"is {kind(value)}; use a number")
    if not math.isfinite(value):
        raise Problem(field, f"is {value}; use a finite number or null")
    return float(value)


def _log_probabilities(row: dict[str, Any], field: str, tokens: int) -> list[float] | None:
    values = row.get(field)
    if values is not None and not (
        isinstance(values, list) and len(values) == tokens
        and all(isinstance(value, float) and math.isfinite(value) for value in values)
    ):
        raise Problem(field, f"is no list of {tokens} finite numbers, one a token; remove the column to have it made")
    return values


def _text_of_run(row: dict[str, Any], field: str) -> str:
    if not isinstance(row.get(field), str) or not row[field]:
        raise Problem(field, f"is {kind(row.get(field))}; a run's pairs have {', '.join(PAIRS.names)}")
    return row[field]


def _messages_of_run(row: dict[str, Any], field: str) -> list[Message]:
    """The conversation as the run had it, which may hold text that no new prompt may: a model wrote parts of it."""
    messages = row.get(field)
    if not isinstance(messages, list) or not messages:
        raise Problem(field, f"is {kind(messages)}; use a list of {{role, content}}")
    for index, item in enumerate(messages):
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
            raise Problem(f"{field}[{index}]", "is no {role, content} of text")
    return [Message(role=item["role"], content=item["content"]) for item in messages]
