"""The kinds of judgement: how each is asked for, how it ends, and how its text is read. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors.choice_verdicts import parse_boxed, parse_decision, parse_digits, parse_yes_no
from actors.claims import parse_claim
from actors.verdicts import Reading, parse_pairwise, parse_rating, parse_score


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

    def read(self, text: str, truncated: bool) -> Reading[Any]:
        """What a judge's text says: a number about one response; "A", "B" or "tie", as shown, about two."""
        return self.verdict.parse(text, truncated)


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

PROTOCOLS = {
    "additive": Protocol("judge_additive", 1, SCORE),
    "likert": Protocol("judge_likert", 1, LIKERT),
    "single": Protocol("judge_single", 1, RATING),
    "classify": Protocol("judge_classify", 1, YES_NO),
    "claim": Protocol("claim_precision", 1, CLAIM),
    "digits": Protocol("judge_digits", 1, DIGITS, weighed=True),
    "pairwise": Protocol("judge_pairwise", 2, WINNER),
    "boxed": Protocol("self_taught_evaluator_judge", 2, BOXED),
    "decision": Protocol("judge_decision", 2, DECISION),
}
