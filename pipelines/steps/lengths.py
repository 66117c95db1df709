"""Lengths: words of a text, word limits and what they do to a preference, and scores with the length taken out. Pure.

A word is what stands between white space and holds a letter or a digit, once markdown is taken off. Scripts written
without spaces count as few long words, so limits in words say little there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipelines.records import digest
from pipelines.steps.aggregate import mean, variance

Case = Literal["limit_both", "limit_kept", "limit_flipped"]

# Fences and list numbers at the start of a line, and where a link leads, are not words of the text.
_MARKDOWN = re.compile(r"^[ \t]*(?:(?:```|~~~)[^\n`]*$|\d{1,9}[.)](?=[ \t]+\S))|(?<=\])\([^()\s]*\)", re.M)
_WORD = re.compile(r"[^\W_]")
FLAT = 1e-12  # a spread below this part of the largest value is rounding


class Limit(NamedTuple):
    """A limit in words and what it does to a preference."""

    words: int
    case: Case


def count_words(text: str) -> int:
    """The words of a text without its markdown (R5 leaves the tokeniser open)."""
    return sum(bool(_WORD.search(word)) for word in _MARKDOWN.sub("", text).split())


def violates(words: int, limit: int) -> bool:
    """Whether a text is longer than its limit; one that is exactly as long is not (R5, 2406.17744)."""
    return words > limit


def limit_case(chosen: int, rejected: int, limit: int) -> Case | None:
    """What a limit does to a preference between texts of so many words (R5, 2406.17744): the flip table.

    "limit_both": both keep to it, "limit_kept": the chosen one alone, "limit_flipped": the rejected one alone, so that
    it is preferred under the limit. None: neither does, and the limit prefers nothing.
    """
    if violates(min(chosen, rejected), limit):
        return None
    if not violates(max(chosen, rejected), limit):
        return "limit_both"
    return "limit_flipped" if violates(chosen, limit) else "limit_kept"


def draw_limits(chosen: int, rejected: int, slack: float, *place: Any) -> list[Limit]:
    """A limit that both texts keep to and one that only the shorter does, uniform in their intervals (R5).

    The first lies between the longer text and `slack` times it, the second from the shorter text to one word less than
    the longer; texts of equal length have only the first. `place` is hashed: equal places give equal limits.
    """
    short, long = sorted((chosen, rejected))
    drawn = [_uniform(long, max(long, int(slack * long)), "both", *place)] if long else []
    if max(short, 1) < long:
        drawn.append(_uniform(max(short, 1), long - 1, "between", *place))
    return [Limit(limit, case) for limit in drawn if (case := limit_case(chosen, rejected, limit))]


def given_limit(chosen: int, rejected: int, limit: Any) -> list[Limit] | None:
    """The limit that a row names, or none where both texts are longer; None for what is no positive whole number."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return None
    case = limit_case(chosen, rejected, limit)
    return [Limit(limit, case)] if case else []


def z_scores(values: Sequence[float]) -> list[float]:
    """(value - mean) / population standard deviation; all 0 where the values do not differ (0.5, 2410.10630)."""
    centre = mean(values)
    if centre is None:
        return []
    deviation = variance(values) ** 0.5
    if deviation <= FLAT * max(abs(value) for value in values):
        return [0.0] * len(values)
    return [(value - centre) / deviation for value in values]


def length_adjusted(scores: Mapping[str, float], lengths: Mapping[str, float], rho: float) -> dict[str, float]:
    """z(score) - rho z(length) by id, both over the scored responses of one prompt (R2, 2410.10630 section 2).

    Raises ValueError for a negative rho, which would reward length, and KeyError for a response without a length.
    """
    if not rho >= 0:
        raise ValueError(f"rho must not be negative, got {rho}")
    ids = sorted(scores)  # sums must not depend on the order of arrival
    quality, length = z_scores([scores[i] for i in ids]), z_scores([lengths[i] for i in ids])
    return {i: q - rho * size for i, q, size in zip(ids, quality, length, strict=True)}


def violation_rate(words: Sequence[int], limits: Sequence[int]) -> float | None:
    """The part of responses that are longer than their limits, None of none (R5, length-instructed evaluation)."""
    return mean(float(violates(n, limit)) for n, limit in zip(words, limits, strict=True))


def limited_win_rate(words: Sequence[int], limits: Sequence[int], preferences: Sequence[float]) -> float | None:
    """Mean preference for the responses over their baselines, where one that is too long has lost (R5).

    `preferences` are a judge's: 1 for a win, 0.5 for a tie, 0 for a loss. None without responses. The baselines keep to
    the limits, which are made of their own lengths.
    """
    rows = zip(words, limits, preferences, strict=True)
    return mean(0.0 if violates(n, limit) else preference for n, limit, preference in rows)


def _uniform(low: int, high: int, *place: Any) -> int:
    return low + int(digest("limit", *place)[:15], 16) % (high - low + 1)
