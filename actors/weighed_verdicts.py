"""Verdicts that are weighed, not written: what the probabilities of a judge's first token say.

A weighed judgement's text is a JSON object of natural log-probabilities by choice (actors.speaker.Speaker.weigh), null
for what cannot come. Only the choices asked for count, normalised over themselves. `truncated` says nothing here: the
one token that was asked for always reaches the limit. Pure.
"""

import json
import math
from collections.abc import Collection, Mapping

from actors.verdicts import Reading

YES, NO = ("yes", "Yes"), ("no", "No")  # a model answers with either
ROUNDING = 1e-6  # a log-probability this much above 0 is 0
AROUND = " \t\n▁Ġ.,:;)(]['\"*"  # what a token may have beside the letter: "A", " A", "(A", "A."
EVEN = 1e-9  # probabilities nearer to one half than this name no winner: rounding, not preference


def parse_digits(text: str, truncated: bool = False, low: int = 0, high: int = 9) -> Reading[float]:
    """The expected digit between `low` and `high`, as Self-J scores (2409.00935)."""
    reading = _logps(text, [str(digit) for digit in range(low, high + 1)])
    return Reading(None, reading.status) if reading.value is None else Reading(expected_digit(reading.value), "ok")


def parse_yes_probability(text: str, truncated: bool = False) -> Reading[float]:
    """P(yes) / (P(yes) + P(no)), each written with a small or a capital letter."""
    reading = _logps(text, (*YES, *NO))
    return Reading(None, reading.status) if reading.value is None else Reading(_share(reading.value, YES), "ok")


def parse_preference(text: str, truncated: bool = False) -> Reading[str]:
    """The likelier of "A" and "B", as shown; a tie only where both are equally likely."""
    probability = preference(text)
    if probability is None:
        return Reading(None, _logps(text, "AB").status)
    return Reading("tie" if abs(probability - 0.5) <= EVEN else "A" if probability > 0.5 else "B", "ok")


def preference(text: str) -> float | None:
    """P(A) / (P(A) + P(B)) of a weighed comparison, A being what was shown first; None where it cannot be read."""
    logps = _logps(text, "AB").value
    return None if logps is None else _share(logps, "A")


def parse_weights(text: str, choices: Collection[str]) -> Reading[dict[str, float]]:
    """Probabilities of the choices, together 1, from the JSON object of a whole vocabulary: null is probability 0."""
    reading = _logps(text, choices)
    if reading.value is None:
        return reading
    return Reading(_normalised({choice: reading.value.get(choice, -math.inf) for choice in choices}), "ok")


def parse_top_logps(top: Mapping[str, float], choices: Collection[str]) -> Reading[dict[str, float]]:
    """Probabilities of the choices, together 1, from the log-probabilities of only the most likely tokens.

    All spellings of a choice are added by log-sum-exp: " A", "(A", "A."; words in any case too, but a letter only as it
    is. A choice that is absent gets what it can have at most: the smallest of the returned log-probabilities, or what
    all of them leave over where that is less. Nothing of the choices is returned: missing.
    """
    if any(not isinstance(logp, (int, float)) or math.isnan(logp) for logp in top.values()):
        return Reading(None, "missing")
    if any(logp > ROUNDING for logp in top.values()):
        return Reading(None, "out_of_range")
    found: dict[str, list[float]] = {choice: [] for choice in choices}
    names = {choice if len(choice) == 1 else choice.lower(): choice for choice in choices}
    for token, logp in top.items():
        choice = names.get(_bare(token))
        if choice is not None:
            found[choice].append(logp)
    if not any(found.values()):
        return Reading(None, "missing")
    over = 1 - math.fsum(math.exp(logp) for logp in top.values())
    floor = min([*top.values(), math.log(over) if over > 0 else -math.inf])
    said = {choice: log_sum_exp(some) if some else floor for choice, some in found.items()}
    return Reading(None, "missing") if max(said.values()) == -math.inf else Reading(_normalised(said), "ok")


def expected_digit(logps: Mapping[str, float]) -> float | None:
    """sum v p_v / sum p_v over the digits v given; None when they have no probability at all (R14, section 3)."""
    if max(logps.values(), default=-math.inf) == -math.inf:
        return None
    return math.fsum(int(digit) * probability for digit, probability in _normalised(logps).items())


def names_letter(token: str, letter: str) -> bool:
    """Whether a token is a spelling of `letter`."""
    return _bare(token) == letter


def _bare(token: str) -> str:
    """A token without what may stand beside a choice; words in lower case, for they are known in any."""
    bare = token.strip(AROUND)
    return bare if len(bare) == 1 else bare.lower()


def log_sum_exp(logps: Collection[float]) -> float:
    """log sum exp, exactly rounded sums; minus infinity for nothing."""
    most = max(logps, default=-math.inf)
    return most if most == -math.inf else most + math.log(math.fsum(math.exp(logp - most) for logp in logps))


def _share(logps: Mapping[str, float], of: Collection[str]) -> float:
    """The probability of the choices `of` among all."""
    return math.fsum(probability for choice, probability in _normalised(logps).items() if choice in of)


def _normalised(logps: Mapping[str, float]) -> dict[str, float]:
    """Probabilities, together 1, of choices of which one has some."""
    total = log_sum_exp(list(logps.values()))
    return {choice: math.exp(logp - total) for choice, logp in logps.items()}


def _logps(text: str, choices: Collection[str]) -> Reading[dict[str, float]]:
    """The log-probabilities of the choices that have one; missing where none has."""
    try:
        found = json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return Reading(None, "missing")
    if not isinstance(found, dict):
        return Reading(None, "missing")
    logps = {choice: found[choice] for choice in choices if found.get(choice) is not None}
    if not all(isinstance(logp, float) and not math.isnan(logp) for logp in logps.values()):
        return Reading(None, "missing")
    if any(logp > ROUNDING for logp in logps.values()):
        return Reading(None, "out_of_range")  # no log-probability
    if max(logps.values(), default=-math.inf) == -math.inf:
        return Reading(None, "missing")
    return Reading(logps, "ok")
