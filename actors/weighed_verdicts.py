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


def expected_digit(logps: Mapping[str, float]) -> float | None:
    """sum v p_v / sum p_v over the digits v given; None when they have no probability at all (R14, section 3)."""
    most = max(logps.values(), default=-math.inf)
    if most == -math.inf:
        return None
    weights = {int(digit): math.exp(logp - most) for digit, logp in logps.items()}
    return math.fsum(v * w for v, w in weights.items()) / math.fsum(weights.values())


def _share(logps: Mapping[str, float], of: Collection[str]) -> float:
    """The probability of the choices `of` among all."""
    most = max(logps.values())
    weights = {choice: math.exp(logp - most) for choice, logp in logps.items()}
    return math.fsum(weights[choice] for choice in of if choice in weights) / math.fsum(weights.values())


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
    if any(logp > 1e-6 for logp in logps.values()):
        return Reading(None, "out_of_range")  # no log-probability
    if max(logps.values(), default=-math.inf) == -math.inf:
        return Reading(None, "missing")
    return Reading(logps, "ok")
