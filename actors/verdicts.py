"""Reading a judgement: here and in actors/{choice,weighed}_verdicts.py alone a text becomes a score or a winner.

The contract avoids the failures seen in public code (Self-Rewarding 2401.10020, Meta-Rewarding 2407.19594): the last
verdict counts, a text without a readable verdict is an abstention and never a number, and a verdict that the judge only
quotes (quotation marks, backticks, code fences, `> ` lines) is not its own. Everything here is pure and linear in the
length of the text: anchors are found in one pass, and each is read in a window of bounded size.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from pipelines.records import Status

Value = TypeVar("Value")
WINDOW = 400  # characters after an anchor that can belong to its verdict


class Reading(NamedTuple, Generic[Value]):
    """What a judgement says. `value` is None unless `status` is "ok"."""

    value: Value | None
    status: Status


class Found(NamedTuple, Generic[Value]):
    """One verdict: what it says, where its value ends in the text, and what its line says after that."""

    reading: Reading[Value]
    end: int
    tail: str


START = r"(?<![^\W_])(?<![^\W_]_)(?<!-)"  # "_Score_" is markdown, "under_score" and "z-score" are other words
END = r"(?![^\W_])"
_WHOSE = START + r"(?P<whose>(?:total|final|overall|my)[ \t]{1,3})?"
_SCORE = re.compile(_WHOSE + "score" + END, re.I)
_RATING = re.compile(_WHOSE + "rating" + END, re.I)
_SCORE_SEP = re.compile(
    r"[\"”]?[*_ \t]{0,6}(?:\([^()\n]{0,40}\)[*_ \t]{0,6})?(?P<sep>[:：=]|is" + END + r"[ \t]*:?)[*_ \t]*", re.I  # noqa: RUF001
)
_WINNER = re.compile(
    START + r"(?:winner|better|best|verdict|preferred|preference|decision)" + END
    + r"|\[\[[ \t]{0,3}(?P<box>A|B|C|tie)[ \t]{0,3}\]\]",
    re.I,
)
_WINNER_SEP = re.compile(
    r"[\"”]?[*_ \t]{0,6}(?:(?:one|response|answer|reply|judge?ment|evaluation|assistant)[*_ \t]{0,6})?"
    r"(?:[:：=]|is" + END + r"[ \t]*:?)[*_ \t]*",  # noqa: RUF001
    re.I,
)
_LABEL = re.compile(
    r"(?:the[ \t]+)?(?:response|answer|assistant|judge?ment|option|candidate|model|evaluation|reply)"
    r"[ \t]*[#:]?[ \t*_<\[(\"'`]+",
    re.I,
)
TIE = re.compile(r"(?:it(?:'s| is)[ \t]+)?(?:an?[ \t]+)?(?:tie|tied|draw|equal|neither|both)" + END, re.I)
_LETTER = re.compile(r"([A-Za-z])(?!\w)")
# "A" before a lower-case word is the article, unless the word goes on with a verdict
_ARTICLE = re.compile(r"A[ \t]+(?!(?:because|since|as|is|was|wins|won|over|by|for|due|and|or|but|with|than)\b)[a-z]")
_OR_TIE = re.compile(r"[\W_]*(?:(?:or|and)[ \t]+)?(?:an?[ \t]+)?(?:tie|draw)" + END, re.I)
_LETTERS = re.compile(START + r"[AB](?!\w)")

BRACKETED = re.compile(r"[<\[({]+([^<>\[\](){}\n]{0,80})[>\])}]+")
OPENING = " \t*_\"'`“‘$<[({"  # noqa: RUF001
CLOSING = " \t*_\"'`”’$>])}"  # noqa: RUF001
_NUMBER = re.compile(r"[-−+]?(?:[0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})")  # noqa: RUF001
_HEDGE = re.compile(r"(?:(?:about|around|approximately|roughly|between|maybe|perhaps|either|possibly)\b|[~≈-])", re.I)
_SCALE = re.compile(
    r"(?:/|out[ \t]+of\b|of\b)[ \t]*(?:(?:an?|the|possible|maximum|max|total|of)\b[ \t]*){0,4}(?P<top>[0-9.]{1,12})?",
    re.I,
)
_SECOND = re.compile(
    r"(?:(?:->|=>|→|[-–—−~+x×,&|/]|(?:to|or|and|through)\b)[ \t]*[\[<*]{0,4})?[ \t]*"  # noqa: RUF001
    r"(?:(?:maybe|perhaps|possibly|even|almost)[ \t]+)?[-+]?\.?[0-9]",
    re.I,
)
_UNIT = re.compile(r"(?:points?|pts?|stars?)" + END, re.I)
_BLANK = re.compile(r"\s*")


def parse_score(
    text: str, low: float = 0, high: float = 5, truncated: bool = False, whole: bool = False
) -> Reading[float]:
    """The last `Score: N` of a judgement with low <= N <= high (the additive judge prompt of 2401.10020, figure 2).

    `truncated` says that the engine stopped at its length limit: then only a verdict that ends the text counts. On a
    scale of `whole` numbers every other number is out of range.
    """
    return _scored(_SCORE, text, low, high, truncated, whole)


def parse_rating(text: str, low: float = 1, high: float = 10, truncated: bool = False) -> Reading[float]:
    """The last `Rating: [[N]]`, with or without brackets (Auto-J, 2310.05470: single responses, 1 to 10)."""
    return _scored(_RATING, text, low, high, truncated)


def _scored(
    anchors: re.Pattern[str], text: str, low: float, high: float, truncated: bool, whole: bool = False
) -> Reading[float]:
    def read(text: str, anchor: re.Match[str]) -> Found[float] | None:
        sep = _SCORE_SEP.match(text, anchor.end(), anchor.end() + WINDOW)
        if sep is None or (sep["sep"][0] in "iI" and not anchor["whose"]):
            return None  # "the highest score is 5" explains, "my final score is 4" decides
        start, end = sep.end(), line_end(text, sep.end())
        if text[start:end].strip(OPENING):
            return _number(text, start, end, low, high)
        start = _end_of(_BLANK, text, end, end + WINDOW)
        found = _number(text, start, line_end(text, start), low, high)
        return found if found and not found.tail.strip(CLOSING + ".") else None  # a numbered list is no score

    reading = last_verdict(text, truncated, anchors, read)
    fraction = whole and reading.value is not None and reading.value % 1 != 0
    return Reading(None, "out_of_range") if fraction else reading


def parse_pairwise(text: str, truncated: bool = False) -> Reading[str]:
    """The last `Winner: A` of a comparison: "A", "B" or "tie", named as the judge was shown the two.

    Two different winners on the line of the last verdict are ambiguous; another single letter is out of range.
    """

    def read(text: str, anchor: re.Match[str]) -> Found[str] | None:
        end = line_end(text, anchor.end())
        if anchor["box"]:
            value = anchor["box"].upper()
            return _winner(value if value in "AB" else "tie", text, anchor.end(), end)
        sep = _WINNER_SEP.match(text, anchor.end(), end)
        return _letter(text, sep.end(), end) if sep else None

    return last_verdict(text, truncated, _WINNER, read, agree=True)


def as_listed(shown: str | None, order: int) -> str | None:
    """The winner among the two as recorded, from the winner as shown; `order` 1 means that they were shown swapped."""
    return {"A": "B", "B": "A"}.get(shown, shown) if order and shown else shown


def last_verdict(
    text: str,
    truncated: bool,
    anchors: re.Pattern[str],
    read: Callable[[str, re.Match[str]], Found[Value] | None],
    agree: bool = False,
) -> Reading[Value]:
    """The last verdict that is the judge's own; with `agree`, the other verdicts on its line must say the same."""
    text = one_newline(text)
    quoted = quotations(text)
    last: Found[Value] | None = None
    line_start = 0
    for anchor in reversed([m for m in anchors.finditer(text) if m[0].isascii()]):
        if last and (not agree or anchor.start() < line_start):
            break
        found = read(text, anchor)
        if found is None or quoted(anchor.start(), found.end):
            continue
        if last is None:
            last, line_start = found, _line_start(text, anchor.start())
            if truncated and not _complete(text, line_start, found):
                return Reading(None, "truncated")
        elif last.reading.status == "ok" and found.reading != last.reading:
            return Reading(None, "ambiguous")
    if last is None:
        return Reading(None, "truncated" if truncated else "missing")
    return last.reading


def one_newline(text: str) -> str:
    """The text with every line end written as a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _complete(text: str, line_start: int, found: Found) -> bool:
    """Whether a text that was cut off ends with this verdict, nothing of it missing."""
    after = text[found.end + len(found.tail):]
    tail = found.tail.lstrip(CLOSING)
    unit = _UNIT.match(tail)
    tail = tail[unit.end():] if unit else tail
    line = text[line_start:found.end] + found.tail
    stars = line.count("**"), line.replace("**", "").count("*")
    brackets = [line.count(left) == line.count(right) for left, right in ("<>", "[]", "()", "{}")]
    balanced = all(brackets) and not any(n % 2 for n in stars)
    cut_number = tail.endswith(".") and not after  # "4." may have become "4.5"
    return balanced and not after.strip() and not tail.strip(CLOSING + ".") and not cut_number


def _number(text: str, start: int, end: int, low: float, high: float) -> Found[float] | None:
    """The number that stands at `start`; None where the line names a placeholder (`<total points>`) or only words."""
    bracket = BRACKETED.match(text, skip(text, start, end, " \t*_\"'`"), end)
    if bracket:
        inner = bracket[1].strip().replace(" to ", "-").replace("–", "-").replace(" ", "")  # noqa: RUF001
        if not any(c.isnumeric() for c in inner) or inner in (f"{low:g}-{high:g}", f"1-{high:g}"):
            return None
        start = bracket.start(1)
    start = skip(text, start, end, OPENING)
    if text.startswith("\\boxed{", start):
        start += len("\\boxed{")
    number = _NUMBER.match(text, start, end)
    if number is None:
        if start < end and text[start].isnumeric():
            return Found(Reading(None, "missing"), end, "")  # digits of another script are no score
        hedge = _HEDGE.match(text, start, end)
        if hedge and any("0" <= c <= "9" for c in text[start:min(end, start + 40)]):
            return Found(Reading(None, "ambiguous"), end, "")
        return None
    tail = text[number.end():end]
    if tail[:1].isnumeric():
        return Found(Reading(None, "out_of_range" if tail[0].isascii() else "missing"), number.end(), tail)
    rest = tail.lstrip(CLOSING)
    scale = _SCALE.match(rest)
    if scale and (scale["top"] or rest.startswith("/")):
        top = scale["top"].rstrip(".") if scale["top"] else ""
        if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", top) or float(top) != high:
            return Found(Reading(None, "ambiguous"), number.end(), tail)
        rest = rest[scale.end() - len(scale["top"]) + len(top):]
    glued = re.match(r"\.[0-9]|%|[^\W_]", tail)
    if (glued and not _UNIT.match(tail)) or _SECOND.match(rest.lstrip(CLOSING)):
        return Found(Reading(None, "ambiguous"), number.end(), tail)
    value = float(number[0].replace("−", "-"))  # noqa: RUF001
    kept = len(tail) if rest == tail.lstrip(CLOSING) else len(rest)
    reading = Reading(value, "ok") if low <= value <= high else Reading(None, "out_of_range")
    return Found(reading, end - kept, tail[len(tail) - kept:])


def _letter(text: str, start: int, end: int) -> Found[str] | None:
    """The winner named at `start`; None where the line names a placeholder or goes on in prose."""
    bracket = BRACKETED.match(text, skip(text, start, end, " \t*_\"'`"), end)
    if bracket and len(set(_LETTERS.findall(bracket[1]))) == 2:
        return None
    start = skip(text, start, end, OPENING)
    if tie := TIE.match(text, start, end):
        return _winner("tie", text, tie.end(), end)
    label = _LABEL.match(text, start, end)
    start = label.end() if label else start
    letter = _LETTER.match(text, start, end)
    if letter is None or not letter[0].isascii() or (not label and _ARTICLE.match(text, start, end)):
        return None
    value, alone = letter[1], not text[letter.end():end].strip(CLOSING + ".!")
    if value.islower() and not (label or alone):
        return None
    if value.upper() not in "AB":
        return Found(Reading(None, "out_of_range"), letter.end(), text[letter.end():end]) if alone else None
    return _winner(value.upper(), text, letter.end(), end)


def _winner(value: str, text: str, start: int, end: int) -> Found[str]:
    """The reading of one winner, unless the rest of its line names another one."""
    tail = text[start:end]
    others = {m[0] for m in _LETTERS.finditer(tail) if not _ARTICLE.match(tail, m.start())} - {value}
    unsure = len(others) == 1 or (value != "tie" and _OR_TIE.match(tail))
    return Found(Reading(None, "ambiguous") if unsure else Reading(value, "ok"), start, tail)


def skip(text: str, start: int, end: int, characters: str) -> int:
    while start < end and text[start] in characters:
        start += 1
    return start


def _line_start(text: str, position: int) -> int:
    """Start of the line, or of the window where the line is longer."""
    limit = max(0, position - WINDOW)
    return max(limit, text.rfind("\n", limit, position) + 1)


def line_end(text: str, start: int) -> int:
    """End of the line, or of the window where the line is longer."""
    limit = min(len(text), start + WINDOW)
    end = text.find("\n", start, limit)
    return limit if end < 0 else end


def _end_of(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    found = pattern.match(text, start, end)
    return found.end() if found else start


_BLOCKQUOTE = re.compile(r"^[ \t]*>.*$", re.M)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.M)
_MARKS = re.compile("`+|[\"“”„«»‘’「」『』']|\n")  # noqa: RUF001
_CLOSERS = {'"': '"', "'": "'", "“": "”", "„": "”“", "«": "»", "‘": "’", "「": "」", "『": "』", "`": "`"}  # noqa: RUF001


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """Sorted, disjoint (start, end) of what stands in quotation marks, backticks, code fences and blockquote lines.

    A mark left open quotes to the end of its line (a fence: to the end of the text); apostrophes are not marks.
    """
    spans = [m.span() for m in _BLOCKQUOTE.finditer(text)]
    fence: int | None = None
    for m in _FENCE.finditer(text):
        if fence is not None:
            spans.append((fence, m.end()))
        fence = m.start() if fence is None else None
    if fence is not None:
        spans.append((fence, len(text)))
    opened: dict[str, int] = {}
    for m in _MARKS.finditer(text):
        mark, before, after = m[0][0], text[m.start() - 1:m.start()], text[m.end():m.end() + 1]
        if mark == "\n":
            opened.pop("'", None)  # apostrophes are too common for a quotation over several lines
            opened.pop("‘", None)  # noqa: RUF001
            continue
        closed = next((o for o in opened if mark in _CLOSERS[o] and _closes(mark, before, after)), None)
        if closed:
            spans.append((opened.pop(closed), m.end()))
        elif mark in _CLOSERS and mark not in opened and _opens(mark, before, after):
            opened[mark] = m.start()
    for start in opened.values():
        end = text.find("\n", start)
        spans.append((start, len(text) if end < 0 else end))
    return _disjoint(spans)


def quotations(text: str) -> Callable[[int, int], bool]:
    """A function that says whether what stands from one position to another is within one quotation."""
    spans = quoted_spans(text)
    starts = [start for start, _ in spans]

    def quoted(start: int, end: int) -> bool:
        inside = bisect_right(starts, start) - 1
        return inside >= 0 and end <= spans[inside][1]

    return quoted


def _opens(mark: str, before: str, after: str) -> bool:
    return mark not in "\"'" or ((not before or not before.isalnum()) and bool(after.strip()))


def _closes(mark: str, before: str, after: str) -> bool:
    if mark == '"':
        return bool(before.strip()) and before not in "([{"
    return mark not in "'’" or (bool(before.strip()) and not after.isalnum())  # noqa: RUF001


def _disjoint(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
