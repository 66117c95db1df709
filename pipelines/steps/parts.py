"""What of a sample stays hidden and what is shown: thoughts before a response, a changed question before its answer.

A splitter finds the marker between the two. A text without it can be shown to nobody, so it is kept under another kind,
which no judge reads and no pair takes.
"""

import re
from collections.abc import Callable

from pipelines.records import Group, Sample

Parts = tuple[str, str]  # the hidden part with its marker, and the visible one

_MARK = (
    r"(?P<bold>[*_]{0,3})here(?:['’]s|[ \t]{1,3}is)[ \t]{1,3}my[ \t]{1,3}%s"  # noqa: RUF001
    r"(?:(?P=bold)[ \t]{0,3}:|[ \t]{0,3}:(?P=bold))"
)
_THOUGHT = re.compile(_MARK % r"thought[ \t]{1,3}process", re.I)
_RESPONSE = re.compile(_MARK % "response", re.I)
_SPECIFIC = re.compile(r"(?<!\w)<R>")  # "Supplier<R>" is a type
_WORD = re.compile(r"[^\W_]")  # "..." is the form's, not an answer
_QUESTION, _QUESTION_END = re.compile(r"<question>", re.I), re.compile(r"</question>", re.I)
_ANSWER, _ANSWER_END = re.compile(r"<answer>", re.I), re.compile(r"</answer>", re.I)


def after_thought(text: str) -> Parts | None:
    """Thoughts and response at the last `Here is my response:` (or `Here's`), or None without one.

    The last marker counts, and none may begin new thoughts after it: what a thought quotes of the form must not show
    the rest of it to a judge. A text of the other prompt's form, with no such line at all, is split at its `<R>`, so
    that records of both can be read.
    """
    if not _RESPONSE.search(text) and not _THOUGHT.search(text):
        return after_specific_thought(text)
    parts = _cut(text, _last_end(_RESPONSE, text))
    return parts if parts and not _THOUGHT.search(parts[1]) else None


def after_specific_thought(text: str) -> Parts | None:
    """Draft, evaluation and final response at the last `<R>`; None without one."""
    return _cut(text, _last_end(_SPECIFIC, text))


def after_changed_question(text: str) -> Parts | None:
    """A changed question and its answer, both in their tags and in words (R3, 2408.02666); else None."""
    opening = _ANSWER.search(text)
    if opening is None or not changed_question(text[:opening.end()]) or not _ANSWER_END.search(text, opening.end()):
        return None
    parts = _cut(text, opening.end())
    return parts if parts and _WORD.search(parts[1]) else None


def changed_question(hidden: str) -> str | None:
    """The question that a corrupted answer answers, from the hidden part of its text."""
    opening = _QUESTION.search(hidden)
    closing = _QUESTION_END.search(hidden, opening.end()) if opening else None
    if opening is None or closing is None:
        return None
    question = hidden[opening.end():closing.start()].strip()
    return question if _WORD.search(question) else None


SPLITTERS: dict[str, Callable[[str], Parts | None]] = {
    "thought": after_thought,
    "specific_thought": after_specific_thought,
    "corruption": after_changed_question,
}


def visible(sample: Sample) -> str:
    """What a judge reads of a sample, and what its length is counted on: the text without the hidden part."""
    hidden = sample.get("thought")
    return _shown(sample["text"], len(hidden)) if hidden else sample["text"]


def split(sample: Sample, kind: str, splitter: str) -> Sample:
    """The sample as one of `kind` with its hidden part in `thought`, or of `{kind}_unsplit` where it has no marker."""
    parts = SPLITTERS[splitter](sample["text"])
    if parts is None:
        return {**sample, "kind": f"{kind}_unsplit", "thought": None}
    return {**sample, "kind": kind, "thought": parts[0]}


def split_again(group: Group, kind: str, splitter: str) -> Group:
    """The group with every sample of `kind`, split or unsplit when it was recorded, split by its text."""
    kinds = (kind, f"{kind}_unsplit")
    return {**group, "samples": [split(s, kind, splitter) if s["kind"] in kinds else s for s in group["samples"]]}


def _last_end(marker: re.Pattern[str], text: str) -> int | None:
    ends = [match.end() for match in marker.finditer(text)]
    return ends[-1] if ends else None


def _cut(text: str, end: int | None) -> Parts | None:
    if end is None:
        return None
    shown = _shown(text, end)
    return (text[:end], shown) if shown else None


def _shown(text: str, start: int) -> str:
    """What follows a marker; an answer in tags ends where its tag closes, whatever is said about it afterwards."""
    tagged = text[:start].lower().endswith("<answer>")
    closing = _ANSWER_END.search(text, start) if tagged else None
    return text[start:closing.start() if closing else None].strip()
