"""The kinds of judgement: how each is asked for, how it ends, and how its text is read. Pure."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from actors.choice_verdicts import parse_boxed, parse_decision, parse_yes_no
from actors.claims import parse_claim
from actors.verdicts import Reading, parse_pairwise, parse_rating, parse_score
from actors.weighed_verdicts import NO, YES, parse_digits, parse_preference, parse_yes_probability


@dataclass(frozen=True)
class VerdictForm:
    """How a judgement ends: a lead such as "Score: " and one of a few choices, and how its text is read."""

    lead: str
    choices: tuple[str, ...]
    parse: Callable[[str, bool], Reading[Any]]


@dataclass(frozen=True)
class Protocol:
    """One kind of judgement."""

    template: str
    responses: int  # how many responses one judgement reads
    verdict: VerdictForm
    weighed: bool = False  # no reply is written: the choices' probabilities as its first token are what it says
    scale: tuple[int, int] | None = None  # lowest and highest value of a judgement of one response
    fast: str | None = None  # the weighed protocol that asks for the same without reasons

    def read(self, text: str, truncated: bool) -> Reading[Any]:
        """What a judge's text says: a number about one response; "A", "B" or "tie", as shown, about two."""
        return self.verdict.parse(text, truncated)

    @property
    def variables(self) -> dict[str, int]:
        """What the template shows of the protocol itself: `low` and `high` of its scale."""
        return dict(zip(("low", "high"), self.scale, strict=True)) if self.scale else {}


def _digits(low: int, high: int) -> tuple[str, ...]:
    return tuple(str(value) for value in range(low, high + 1))


SCORE = VerdictForm("Score: ", _digits(0, 5), lambda text, cut: parse_score(text, 0, 5, cut))
LIKERT = VerdictForm("Score: ", _digits(1, 5), lambda text, cut: parse_score(text, 1, 5, cut, whole=True))
RATING = VerdictForm(
    "Rating: ", tuple(f"[[{value}]]" for value in _digits(1, 10)), lambda text, cut: parse_rating(text, 1, 10, cut)
)
WINNER = VerdictForm("Winner: ", ("A", "B", "tie"), parse_pairwise)
BOXED = VerdictForm("Verdict: ", ("[[A]]", "[[B]]", "[[C]]"), parse_boxed)
DECISION = VerdictForm("So, the final decision is ", ("Response 1", "Response 2", "Tie"), parse_decision)
YES_NO = VerdictForm("Verdict: ", ("yes", "no"), parse_yes_no)
CLAIM = VerdictForm("The claim is ", ("true", "false"), parse_claim)
DIGITS = VerdictForm("", _digits(0, 9), parse_digits)
PROBABILITY = VerdictForm("", (*YES, *NO), parse_yes_probability)
PREFERENCE = VerdictForm("", ("A", "B"), parse_preference)


@cache
def _rubric(low: int, high: int) -> Protocol:
    """A grade by any criteria on any scale of whole numbers."""
    form = VerdictForm("Score: ", _digits(low, high), lambda text, cut: parse_score(text, low, high, cut, whole=True))
    fast = f"fast_score:{low}-{high}" if low >= 0 and high <= 9 else None
    return Protocol("judge_rubric", 1, form, scale=(low, high), fast=fast)


@cache
def _fast_score(low: int, high: int) -> Protocol:
    """The expected grade from the probabilities of a scale's digits; raises ValueError where a grade has two."""
    if low < 0 or high > 9:
        raise ValueError(f"fast_score:{low}-{high}: a grade that is weighed is one token; use a scale within 0-9")
    form = VerdictForm("", _digits(low, high), partial(parse_digits, low=low, high=high))
    return Protocol("fast_score", 1, form, weighed=True, scale=(low, high))


_SCALED = {"rubric": _rubric, "fast_score": _fast_score}
_NAME = re.compile(r"(?P<kind>[a-z_]+):(?P<low>-?[0-9]{1,3})-(?P<high>-?[0-9]{1,3})", re.A)


class Protocols(dict[str, Protocol]):
    """Protocols by name. `rubric` and `fast_score` take a scale in their name: `rubric:0-10`, `fast_score:0-9`."""

    def __missing__(self, name: str) -> Protocol:
        found = _NAME.fullmatch(name)
        if found is None or found["kind"] not in _SCALED:
            raise KeyError(name)
        low, high = int(found["low"]), int(found["high"])
        if low >= high:
            raise ValueError(f"{name}: a scale goes from a lower to a higher number")
        return _SCALED[found["kind"]](low, high)


PROTOCOLS = Protocols({
    "additive": Protocol("judge_additive", 1, SCORE, scale=(0, 5), fast="fast_score:0-5"),
    "likert": Protocol("judge_likert", 1, LIKERT, scale=(1, 5), fast="fast_score:1-5"),
    "rubric": _rubric(1, 5),
    "single": Protocol("judge_single", 1, RATING, scale=(1, 10)),
    "classify": Protocol("judge_classify", 1, YES_NO, scale=(0, 1), fast="yes_no"),
    "claim": Protocol("claim_precision", 1, CLAIM, scale=(0, 1)),
    "yes_no": Protocol("fast_yes_no", 1, PROBABILITY, weighed=True, scale=(0, 1)),
    "digits": Protocol("judge_digits", 1, DIGITS, weighed=True, scale=(0, 9)),
    "fast_score": _fast_score(1, 5),
    "pairwise": Protocol("judge_pairwise", 2, WINNER, fast="fast_pairwise"),
    "boxed": Protocol("self_taught_evaluator_judge", 2, BOXED, fast="fast_pairwise"),
    "decision": Protocol("judge_decision", 2, DECISION, fast="fast_pairwise"),
    "fast_pairwise": Protocol("fast_pairwise", 2, PREFERENCE, weighed=True),
})


def protocol_named(name: str) -> Protocol:
    """The protocol called `name`; raises ValueError that names the nearest one, or what is wrong with the scale."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(PROTOCOLS)}, and rubric:LOW-HIGH"
        raise ValueError(f"{name!r} is no protocol, {hint}") from None
