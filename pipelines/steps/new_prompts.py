"""New prompts: what the generator is asked, and which of its replies become prompts (Self-Instruct, 2212.10560). Pure.

A request is a group of its own: its conversation shows a few prompts as examples, its one sample is the reply. Requests
are numbered, and replies are read in that order, so what is kept does not depend on who answered first.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.prompts import load
from pipelines.recipes.base import Context, NewPrompts
from pipelines.records import Group, Message, Sample, digest, new_group, record_id
from pipelines.steps.judgements import STAGE_REASONS
from pipelines.steps.render import transcript
from pipelines.steps.rows import NOT_TEXT

MIN_WORDS, MAX_WORDS = 3, 150  # Self-Instruct's bounds
# Scripts without spaces count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_NAME = r"(?:new[ \t]+)?(?:question|problem|task|prompt|instruction|example)"
_LABEL = re.compile(rf"^[ \t]*[*#_]*{_NAME}(?:[ \t]+#?\d{{1,4}})?[*_]*[ \t]*[:：][*_]*", re.I | re.M)  # noqa: RUF001
_ANSWER = re.compile(r"^[ \t]*[*#_]*(?:final[ \t]+)?(?:answer|solution|response)[*_]*[ \t]*[:：]", re.I | re.M)  # noqa: RUF001
_TAG = re.compile(rf"<({_NAME})>", re.I)
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)\n?```$", re.S)


def prompt_requests(
    new: NewPrompts, seeds: Sequence[Group], generated: Sequence[Group], context: Context, numbers: Iterable[int]
) -> list[Group]:
    """The requests with these numbers: every one shows `new.shots` prompts drawn by hash, from few all there are.

    Up to `new.generated_shots` of them are from `generated`, the others from `seeds` (R8, 2401.10020: two of eight).
    """
    ordered, earlier = (sorted(pool, key=lambda group: group["prompt_id"]) for pool in (seeds, generated))
    requests = []
    for number in numbers:
        place = (context.run_seed, context.recipe, context.iteration, "new_prompt", number)
        own = _drawn(earlier, new.generated_shots, *place, "generated")
        shots = _drawn(ordered, new.shots - len(own), *place, "seed") + own
        text = load(new.template).render(examples=[transcript(shot["messages"]) for shot in shots])
        meta = {"number": number, "shots": [shot["prompt_id"] for shot in shots]}
        request = new_group([Message(role="user", content=text)], meta=meta, iteration=context.iteration)
        place_id = record_id(context.run_seed, context.recipe, context.iteration, "", "new_prompt", number)
        requests.append(Group(**{**request, "prompt_id": place_id}))
    return requests


def read_replies(requests: Iterable[Group], known: Iterable[str], new: NewPrompts) -> list[Group]:
    """The answered requests by number, with the prompt that was read as the sample's `answer`, and why it is none.

    `dropped` is a stage's reason, or truncated, no_prompt, unusable_text, too_short, too_long, unwanted_word, repeated
    or too_similar: to one of the `known` texts, or to a prompt that an earlier request gave.
    """
    taken = Known(known)
    read = []
    for request in sorted(requests, key=_number):
        reason, text = request["dropped"] if request["dropped"] in STAGE_REASONS else None, None
        if reason is None:
            text, reason = _readable(request["samples"], new)
            reason = reason or taken.why_not(text or "", new.max_similarity)
            if reason is None and text is not None:
                taken.add(text)
        samples = [Sample(**{**sample, "answer": text}) for sample in request["samples"]]
        read.append(Group(**{**request, "samples": samples, "dropped": reason}))
    return read


def kept_prompts(replies: Iterable[Group]) -> list[Group]:
    """The prompts of `read_replies`, as groups of their iteration to be answered; `meta` names the request of each."""
    kept = []
    for reply in sorted(replies, key=_number):
        text = reply["samples"][0].get("answer") if reply["samples"] and not reply["dropped"] else None
        if text:
            message = Message(role="user", content=text)
            kept.append(new_group([message], meta={"generated": reply["prompt_id"]}, iteration=reply["iteration"]))
    return kept


def generation_report(replies: Iterable[Group]) -> dict[str, Any]:
    """How many prompts were asked for, kept, and dropped by reason."""
    reasons = [reply["dropped"] for reply in replies]
    dropped = Counter(reason for reason in reasons if reason)
    return {"asked": len(reasons), "kept": reasons.count(None), "dropped": dict(sorted(dropped.items()))}


def read_prompt(text: str) -> str | None:
    """The prompt in a generator's reply: what stands in a tag or after a label such as "Question:", without an answer.

    Of several prompts the first counts; None where nothing is left.
    """
    text = text.strip()
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    tag = _TAG.search(text)
    if tag:
        end = re.compile(f"</{re.escape(tag[1])}>", re.I).search(text, tag.end())
        text = text[tag.end() : end.start() if end else None]
    labels = list(_LABEL.finditer(text))
    if labels:
        text = text[labels[0].end() : labels[1].start() if len(labels) > 1 else len(text)]
    answer = _ANSWER.search(text)
    text = (text[: answer.start()] if answer else text).strip()
    if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”")) and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text or None


def words(text: str) -> list[str]:
    """The words that texts are compared by: lower case, without punctuation."""
    return _WORD.findall(text.lower())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of two lists of words; 0 when one is empty (Lin 2004, W04-1013)."""
    return 2 * common_length(_places(a), len(a), b) / (len(a) + len(b)) if a and b else 0.0


def common_length(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence of `other` and `length` words, given by the bits of their places.

    A row of the table is the bits of one number (Hyyrö 2004): memory is linear, a word of `other` costs two additions.
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return length - row.bit_count()


class Known:
    """Texts that a new prompt must differ from."""

    def __init__(self, texts: Iterable[str] = ()):
        self._texts: set[str] = set()
        self._words: list[tuple[list[str], set[str]]] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """One text more."""
        self._texts.add(text.strip())
        found = words(text)
        self._words.append((found, set(found)))

    def why_not(self, text: str, limit: float) -> str | None:
        """ "repeated", or "too_similar" where ROUGE-L to a text is above `limit`; None for a text that is new."""
        if text.strip() in self._texts:
            return "repeated"
        mine = words(text)
        places, size = _places(mine), len(mine)
        for other, vocabulary in self._words:
            needed = limit * (size + len(other)) / 2  # words in common, which lengths and vocabularies bound
            if min(size, len(other)) <= needed or sum(map(vocabulary.__contains__, mine)) <= needed:
                continue
            if common_length(places, size, other) > needed:
                return "too_similar"
        return None


def _readable(samples: list[Sample], new: NewPrompts) -> tuple[str | None, str | None]:
    """The prompt in the reply, and why it cannot be used."""
    if not samples or samples[0]["finish_reason"] == "length":
        return None, "truncated" if samples else "no_prompt"
    text = read_prompt(samples[0]["text"])
    if text is None:
        return None, "no_prompt"
    found = words(text)
    if NOT_TEXT.search(text):
        return None, "unusable_text"
    if not MIN_WORDS <= len(found) <= MAX_WORDS:
        return text, "too_short" if len(found) < MIN_WORDS else "too_long"
    return text, "unwanted_word" if not {word.lower() for word in new.without_words}.isdisjoint(found) else None


def _places(words: Sequence[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    return places


def _drawn(pool: Sequence[Group], number: int, *place: Any) -> list[Group]:
    """Up to `number` different groups of the pool, the same for the same place."""
    chosen: dict[int, Group] = {}
    draw = 0
    while len(chosen) < min(number, len(pool)):
        index = int(digest("shot", *place, draw)[:15], 16) % len(pool)
        chosen.setdefault(index, pool[index])
        draw += 1
    return list(chosen.values())


def _number(request: Group) -> int:
    return json.loads(request["meta"])["number"]
