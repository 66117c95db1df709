"""Reading judgements whose verdict is one of a few words or a boxed letter.

The same contract as in actors/verdicts.py, pure and linear too.
"""

import re

from actors.verdicts import (
    BRACKETED,
    CLOSING,
    END,
    OPENING,
    START,
    TIE,
    Found,
    Reading,
    last_verdict,
    line_end,
    one_newline,
    quotations,
    skip,
)

_DECISION = re.compile(
    START + r"final[*_ \t]{1,4}decision[*_ \t]{0,4}(?:is" + END + r"[ \t]*[:：]?|[:：=])", re.I  # noqa: RUF001
)
_NUMBERED = re.compile(r"(?:the[ \t]+)?(?:response|answer)[ \t]?[#:]?[*_ \t\[(<\"'`]{0,6}(\w{1,12})(?![.,]?\w)", re.I)
_OPTION = re.compile(r"(?:response|answer)[ \t#]{0,3}(1|2)" + END + "|(tie)" + END, re.I)
_OTHER_DECISION = re.compile(
    r"[*_\"'`\])> \t]{0,6}(?:[/|]|->|,?[ \t]{0,3}(?:or|and)\b)[*_\"'`\[(< \t]{0,6}"
    r"(?:(?:an?|the)[ \t])?(?:" + _OPTION.pattern + r"|[12](?![.,]?\w))",
    re.I,
)
_NUMBERS = {"1": "A", "2": "B"}
_VERDICT = re.compile(START + "verdict" + END, re.I)
_VERDICT_SEP = re.compile(r"[\"”]?[*_ \t]{0,6}(?:[:：=]|is" + END + r"[ \t]*:?)[*_ \t]*", re.I)  # noqa: RUF001
# "No errors" and "no doubt" praise, "no because" and "no, ..." decide.
_YES_NO = re.compile(
    r"(yes|no(?![ \t]+(?!(?:because|since|as|for|due|it|the|this|that)\b)[a-z]))(?![^\W_]|['’-]\w)", re.I  # noqa: RUF001
)
_OTHER_WORD = re.compile(
    r"[*_\"'`\])> \t]{0,6}(?:[/|,]|->|,?[ \t]{0,3}(?:or|and)\b)[*_\"'`\[(< \t]{0,6}(yes|no)(?![^\W_]|[ \t]\w)", re.I
)
_BOX = re.compile(r"\[\[[ \t]{0,3}([A-Z]|tie)[ \t]{0,3}\]\]")
_BOXES = {"A": "A", "B": "B", "C": "tie", "tie": "tie"}


def parse_decision(text: str, truncated: bool = False) -> Reading[str]:
    """The last "final decision is Response 1 / Response 2 / Tie" as "A", "B" or "tie" (Auto-J, 2310.05470).

    Two responses as one decision are ambiguous, a response of another number is out of range.
    """

    def read(text: str, anchor: re.Match[str]) -> Found[str] | None:
        end = line_end(text, anchor.end())
        bracket = BRACKETED.match(text, skip(text, anchor.end(), end, " \t*_\"'`"), end)
        if bracket and len(set(_OPTION.findall(bracket[1]))) > 1:
            return None  # a placeholder
        start = skip(text, anchor.end(), end, OPENING)
        if tie := TIE.match(text, start, end):
            return _decided("tie", text, tie.end(), end)
        numbered = _NUMBERED.match(text, start, end)
        if numbered is None or not numbered[1][0].isnumeric():
            return None
        stop = numbered.end()
        if not numbered[1].isascii():
            return Found(Reading(None, "missing"), stop, text[stop:end])  # digits of another script are none
        value = _NUMBERS.get(numbered[1])
        if value is None:
            return Found(Reading(None, "out_of_range"), stop, text[stop:end])
        return _decided(value, text, stop, end)

    return last_verdict(text, truncated, _DECISION, read, agree=True)


def parse_yes_no(text: str, truncated: bool = False) -> Reading[float]:
    """The last `Verdict: yes` or `Verdict: no` as 1.0 or 0.0; both at once are ambiguous."""

    def read(text: str, anchor: re.Match[str]) -> Found[float] | None:
        end = line_end(text, anchor.end())
        sep = _VERDICT_SEP.match(text, anchor.end(), end)
        if sep is None:
            return None
        bracket = BRACKETED.match(text, skip(text, sep.end(), end, " \t*_\"'`"), end)
        if bracket and bracket[1].strip().lower() not in ("yes", "no"):
            return None
        word = _YES_NO.match(text, skip(text, sep.end(), end, OPENING), end)
        if word is None or not word[0].isascii():
            return None
        value, other = word[1].lower(), _OTHER_WORD.match(text, word.end(), end)
        unsure = other is not None and other[1].lower() != value
        reading = Reading(None, "ambiguous") if unsure else Reading(float(value == "yes"), "ok")
        return Found(reading, word.end(), text[word.end():end])

    return last_verdict(text, truncated, _VERDICT, read, agree=True)


def parse_boxed(text: str, truncated: bool = False) -> Reading[str]:
    """The one boxed letter of a comparison: [[A]], [[B]], or [[C]] for a tie (Self-Taught Evaluators, 2408.02666).

    Two different ones anywhere are ambiguous, as the paper's code has it; another letter is out of range.
    """
    text = one_newline(text)
    quoted = quotations(text)
    boxes = [m for m in _BOX.finditer(text) if not quoted(m.start(), m.end())]
    if not boxes:
        return Reading(None, "truncated" if truncated else "missing")
    if truncated and text[boxes[-1].end():].strip().strip(CLOSING + "."):
        return Reading(None, "truncated")
    said = {_BOXES.get(m[1], m[1]) for m in boxes}
    if len(said) > 1:
        return Reading(None, "ambiguous")
    (value,) = said
    return Reading(value, "ok") if value in _BOXES.values() else Reading(None, "out_of_range")


def _decided(value: str, text: str, start: int, end: int) -> Found[str] | None:
    """The reading of one decision, unless its line goes on with another one; None where it lists all three."""
    tail = text[start:end]
    if _OTHER_DECISION.match(tail) is None:
        return Found(Reading(value, "ok"), start, tail)
    listed = {_NUMBERS.get(m[1], "tie") for m in _OPTION.finditer(tail)} | {value}
    return None if len(listed) == 3 else Found(Reading(None, "ambiguous"), start, tail)
