"""Which of several answers to give, and how sure to be of it, from probabilities of single tokens (R16, 2312.09300).

Pure. "How good is this free answer" becomes a question with a one-token reply, which models answer in a better
calibrated way than their own likelihood does. A score of None is an abstention.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

PERMUTED = 4  # candidates of which all orders are shown; of more, a Latin square
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Selected(NamedTuple):
    """The answer that is given, by its place among the candidates, and its score. Both None: nothing could be read."""

    index: int | None
    score: float | None


class Shown(NamedTuple):
    """One reading of the letters: `order[i]` is the candidate behind letter i, `probabilities` are by letter."""

    order: Sequence[int]
    probabilities: Mapping[str, float]


class Letters(NamedTuple):
    """Probabilities of the candidates, and of "none of the above" where it was offered; together 1."""

    candidates: tuple[float, ...]
    nota: float | None


NOTHING = Selected(None, None)


def orders(candidates: int, permuted: int = PERMUTED) -> list[tuple[int, ...]]:
    """Orders to show: all permutations of up to `permuted` candidates, else a Latin square: each once in each place."""
    places = range(candidates)
    if candidates <= permuted:
        return list(itertools.permutations(places))
    return [tuple((start + place) % candidates for place in places) for start in places]


def debiased(shown: Sequence[Shown]) -> Letters | None:
    """Mean probability of every candidate over the orders shown, so that no place is preferred; None without any.

    Candidate c has the letter of its place, and none of the above the letter after the last candidate's.
    """
    if not shown:
        return None
    n = len(shown[0].order)
    totals = [math.fsum(one.probabilities[LETTERS[list(one.order).index(c)]] for one in shown) for c in range(n)]
    nota = [one.probabilities[LETTERS[n]] for one in shown if LETTERS[n] in one.probabilities]
    return Letters(tuple(total / len(shown) for total in totals), math.fsum(nota) / len(nota) if nota else None)


def by_likelihood(logps: Sequence[Sequence[float]], per_token: bool) -> Selected:
    """The candidate of the highest log-probability, summed or `per_token`, which is also its score: the baselines."""
    scores = [math.fsum(tokens) / (len(tokens) if per_token else 1) for tokens in logps]
    return _best(scores)


def sample_and_select(letters: Letters | None) -> Selected:
    """The most probable letter among real candidates; scored by its probability, with none of the above by -p(nota)."""
    if letters is None:
        return NOTHING
    index, score = _best(letters.candidates)
    return Selected(index, score if letters.nota is None else -letters.nota)


def sample_and_eval(yes: Sequence[float | None]) -> Selected:
    """The candidate with the highest p(Yes) to "is it right?", which is its score; unread ones cannot be chosen."""
    return _best(yes)


def hybrid(letters: Letters | None, yes: Sequence[float | None]) -> Selected:
    """The most probable letter's candidate, scored by its p(Yes), less p(nota) where none of the above was offered."""
    if letters is None:
        return NOTHING
    index, _ = _best(letters.candidates)
    said = None if index is None else yes[index]
    return NOTHING if said is None else Selected(index, said - (letters.nota or 0.0))


def _best(scores: Sequence[float | None]) -> Selected:
    known = [(score, -index) for index, score in enumerate(scores) if score is not None]
    if not known:
        return NOTHING
    score, index = max(known)
    return Selected(-index, score)
