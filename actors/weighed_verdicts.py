"""Reading what a model weighs: log-probabilities of the choices as an answer's first token become probabilities. Pure.

A model without any probability for the choices has said nothing: status missing, an abstention (R16, 2312.09300).
"""

import json
import math
from collections.abc import Collection, Mapping

from actors.verdicts import Reading

ROUNDING = 1e-6  # a log-probability this much above 0 is 0
AROUND = " \t\n▁Ġ.,:;)(]['\"*"  # what a token may have beside the letter: "A", " A", "(A", "A."


def read_logps(text: str, choices: Collection[str]) -> Reading[dict[str, float]]:
    """Log-probabilities by choice from a JSON object (`Speaker.weigh` writes one); choices that are null are left out.

    Missing where the text is no such object, out of range where a number is no log-probability. The dictionary may be
    empty.
    """
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
        return Reading(None, "out_of_range")
    return Reading(logps, "ok")


def parse_weights(text: str, choices: Collection[str]) -> Reading[dict[str, float]]:
    """Probabilities of the choices, together 1, from the JSON object of a whole vocabulary: null is probability 0."""
    reading = read_logps(text, choices)
    if reading.value is None:
        return reading
    return _normalised({choice: reading.value.get(choice, -math.inf) for choice in choices})


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
        bare = token.strip(AROUND)
        choice = names.get(bare if len(bare) == 1 else bare.lower())
        if choice is not None:
            found[choice].append(logp)
    if not any(found.values()):
        return Reading(None, "missing")
    over = 1 - math.fsum(math.exp(logp) for logp in top.values())
    floor = min([*top.values(), math.log(over) if over > 0 else -math.inf])
    return _normalised({choice: log_sum_exp(logps) if logps else floor for choice, logps in found.items()})


def log_sum_exp(logps: Collection[float]) -> float:
    """log sum exp, exactly rounded sums; minus infinity for nothing."""
    most = max(logps, default=-math.inf)
    return most if most == -math.inf else most + math.log(math.fsum(math.exp(logp - most) for logp in logps))


def _normalised(logps: Mapping[str, float]) -> Reading[dict[str, float]]:
    total = log_sum_exp(list(logps.values()))
    if total == -math.inf:
        return Reading(None, "missing")
    return Reading({choice: math.exp(logp - total) for choice, logp in logps.items()}, "ok")
