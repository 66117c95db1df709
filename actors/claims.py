"""Reading what a judge says of claims: whether one is true, and which claims a critique makes (R9, 2401.04518).

The same contract as in actors/verdicts.py, pure and linear too.
"""

import re

from actors.verdicts import BRACKETED, END, OPENING, START, Found, Reading, last_verdict, line_end, one_newline, skip

_CLAIM = re.compile(START + r"claim[*_\"”]{0,3}[ \t]{1,3}is" + END, re.I)
_HEDGES = r"(?:part(?:ial)?ly|mostly|largely|generally|somewhat|likely|probably|possibly|perhaps|maybe|nearly|almost)"
_SURE = r"(?:therefore|thus|hence|indeed|also|clearly|definitely|certainly|actually|simply|completely|entirely|fully)"
_SAID = re.compile(
    rf"[:：]?[*_\"'`“‘<\[(\s]{{0,6}}(?P<not>not[ \t]+)?(?P<hedge>(?:{_HEDGES}|either|both|neither)[ \t]+)?"  # noqa: RUF001
    rf"(?P<sure>{_SURE},?[ \t]+)?(?P<word>true|false)(?![^\W_]|[-'’]\w)",  # noqa: RUF001
    re.I,
)
_AND_OTHER = re.compile(
    r"[*_\"'`”’)\]> \t]{0,6}(?:[/|,]|,?[ \t]{0,3}(?:or|and)\b)[*_\"'`“‘<\[( \t]{0,6}"  # noqa: RUF001
    r"(?:(?:that[ \t]+)?(?:the[ \t]+)?claim[ \t]+is[ \t]+)?[*_\"'`“‘]{0,3}(?:true|false)" + END,  # noqa: RUF001
    re.I,
)
_IN_PART = re.compile(
    r"[*_\"'`”’ \t,]{0,6}(?:only|if|unless|in[ \t]+part|to[ \t]+(?:some|an?)|for[ \t]+the[ \t]+most)\b", re.I  # noqa: RUF001
)
_THE = r"(?:that[ \t]+)?(?:(?:the|this|each|every|a|my)[ \t]+)?[\"“'*_`]{0,3}$"
_ASKED = re.compile(rf"\b(?:whether|if|unless|until|assuming|suppose|supposing|provided)[ \t]+{_THE}", re.I)
_DENIED = re.compile(
    rf"(?:\bnot|n['’]t|\bnever)[ \t]+(?:think|believe|say|claim|agree|accept|mean|the[ \t]+case|clear|certain|sure|"  # noqa: RUF001
    rf"evident|obvious)[ \t]+{_THE}", re.I
)
_OTHER_BEFORE = re.compile(
    rf"(?:true|false)[*_\"'`”’)\]>]{{0,3}}[ \t]{{0,3}}(?:[/|,]|,?[ \t]{{0,3}}(?:or|and))[ \t]*{_THE}", re.I  # noqa: RUF001
)
BEFORE = 60  # characters before an anchor that can turn its verdict

_LEAD = re.compile(
    r"[*_]{0,3}(?:[-*•‣◦–+][ \t]+|\(?[0-9]{1,3}[.):][*_]{0,2}(?:[ \t]+|$)|\(?[a-z]\)[ \t]+|#{1,6}[ \t]+"  # noqa: RUF001
    r"|(?:AIU|ACU|claim|fact|unit|point)[ \t]*#?[0-9]{0,3}[*_]{0,2}[ \t]?[:：][*_]{0,2}[ \t]*)",  # noqa: RUF001
    re.I,
)
_MARKUP = re.compile(r"(?:```|~~~).*|</?[\w ]{1,40}>")
_NOTHING = re.compile(r"\W*(?:none|n/?a|nothing|no[ \t]+(?:claims?|units?|facts?)(?:[ \t]+\w+){0,3})\W*", re.I)
_PAIRS = {"**": "**", "__": "__", '"': '"', "“": "”", "*": "*"}


def parse_claim(text: str, truncated: bool = False) -> Reading[float]:
    """The last `claim is true` or `claim is false` as 1.0 or 0.0 (MetaCritique, 2401.04518; R9.3).

    Both at once and half of one ("mostly true", "true only if") are ambiguous; a question ("whether the claim is true")
    is no verdict. The paper's code takes a text with both endings as true; here the last one counts.
    """

    def read(text: str, anchor: re.Match[str]) -> Found[float] | None:
        end = line_end(text, anchor.end())
        before = text[max(0, anchor.start() - BEFORE):anchor.start()]
        bracket = BRACKETED.match(text, skip(text, anchor.end(), end, " \t*_:\"'`"), end)
        if _ASKED.search(before) or (bracket and bracket[1].strip(OPENING).lower() not in ("true", "false")):
            return None
        said = _SAID.match(text, anchor.end(), end)
        if said is None or not said[0].replace("’", "").replace("“", "").replace("‘", "").isascii():  # noqa: RUF001
            return None
        tail = text[said.end():end]
        negated = bool(said["not"])
        unsure = (
            said["hedge"] or (negated and (said["sure"] or said["word"].lower() == "false")) or _AND_OTHER.match(tail)
            or _IN_PART.match(tail) or _DENIED.search(before) or _OTHER_BEFORE.search(before)
        )
        value = float(said["word"].lower() == "true" and not negated)
        return Found(Reading(None, "ambiguous") if unsure else Reading(value, "ok"), said.end(), tail)

    return last_verdict(text, truncated, _CLAIM, read)


def parse_units(text: str, truncated: bool = False, partly: bool = False) -> Reading[list[str]]:
    """The claims of a list, one a line (MetaCritique's extraction, 2401.04518; R9.3): bullets and numbers stripped.

    Headings (a line that ends in a colon), fences and repeated claims are left out. Without any claim the list is
    missing, never one empty claim; a list that was cut off is truncated, or `partly` read: its complete lines.
    """
    if truncated and not partly:
        return Reading(None, "truncated")
    text = one_newline(text).rpartition("\n")[0] if truncated else text
    found: dict[str, str] = {}
    for line in one_newline(text).split("\n"):
        unit = _unit(line)
        if unit:
            found.setdefault(" ".join(unit.lower().split()), unit)
    units = list(found.values())
    if not units or (len(units) == 1 and _NOTHING.fullmatch(units[0])):
        return Reading(None, "truncated" if truncated else "missing")
    return Reading(units, "ok")


def _unit(line: str) -> str:
    """One line without what only lists it; empty where it makes no claim."""
    line = line.strip()
    if _MARKUP.fullmatch(line):
        return ""
    for _ in range(3):  # "1. - **Claim 2:** ..."
        lead = _LEAD.match(line)
        if lead is None:
            break
        line = line[lead.end():].strip()
    for opened, closed in _PAIRS.items():
        inner = line[len(opened):-len(closed)]
        if line.startswith(opened) and line.endswith(closed) and inner and opened not in inner:
            line = inner.strip()
    heading = line.rstrip("*_ ").endswith((":", "："))  # noqa: RUF001
    return "" if heading or not any(c.isalnum() for c in line) else line
