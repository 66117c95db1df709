"""From votes to one verdict, and what votes add up to. Pure: the endpoint and evaluations use the same rules.

An unreadable vote is an abstention: it changes no mean, no majority and no confidence, only its count. The majority of
each order counts once, whatever the other order said; how orders that disagree are settled is the caller's policy.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

from actors.protocols import PROTOCOLS
from actors.verdicts import as_listed
from actors.weighed_verdicts import EVEN, preference
from pipelines.records import Judgement, Status
from pipelines.steps.aggregate import mean, variance

Measure = Literal["confidence", "score"]  # what a gate reads of votes
Disagreement = Literal["tie", "abstain", "first"]  # what two orders that disagree are: a tie, nothing, the first's word


class Vote(NamedTuple):
    """One judgement of a question about one response, or about two."""

    order: int  # 1: the two were shown swapped
    status: Status
    verdict: str | None = None  # "A", "B" or "tie", about the two as listed
    score: float | None = None
    place: int = 0  # of the response that the score is about, as listed
    probability: float | None = None  # that A as listed is the better one, of a weighed comparison


class Decision(NamedTuple):
    """What the votes on two responses come to. `winner` is None when abstained, and `reason` says why."""

    winner: str | None  # "A", "B" or "tie"
    confidence: float | None = None
    reason: str | None = None


def votes_of(judgements: Iterable[Judgement], protocol: str, sample_ids: Sequence[str]) -> list[Vote]:
    """Records as votes on the samples as listed in `sample_ids`."""
    known = PROTOCOLS[protocol]
    found = []
    for j in judgements:
        place = sample_ids.index(j["sample_ids"][0])
        if known.responses == 1:
            found.append(Vote(0, j["status"], score=j.get("value"), place=place))
            continue
        order = j["order"] ^ place  # a record that lists them the other way round is turned
        shown = preference(j["text"]) if known.weighed else None
        probability = None if shown is None else 1 - shown if order else shown
        found.append(Vote(order, j["status"], as_listed(j.get("verdict"), place), probability=probability))
    return found


def majority(verdicts: Iterable[str | None]) -> str | None:
    """The most frequent readable verdict, a tie where two are equally frequent; None without any."""
    ranked = Counter(verdict for verdict in verdicts if verdict is not None).most_common()
    if not ranked:
        return None
    return "tie" if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def decide(votes: Sequence[Vote], both_orders: bool, disagreement: Disagreement = "tie") -> Decision:
    """The verdict on two responses. Abstains when an order that was asked for has no readable vote.

    The majorities of both orders must agree, otherwise it is position bias and `disagreement` says what becomes of it.
    Confidence is the share of readable votes for the verdict. Weighed votes are probabilities: they are averaged in
    each order and then over both, the likelier side wins, and confidence is its probability.
    """
    orders = (0, 1) if both_orders else (0,)
    for order in orders:
        if not any(v.order == order and v.verdict is not None for v in votes):
            return Decision(None, None, f"no readable vote in order {order}")
    readable = [v for v in votes if v.verdict is not None and v.order in orders]
    by_order = [[v for v in readable if v.order == order] for order in orders]
    if all(v.probability is not None for v in readable):
        p = _support(readable, "A")
        return Decision("tie" if abs(p - 0.5) <= EVEN else "A" if p > 0.5 else "B", max(p, 1 - p))
    majorities = [majority(v.verdict for v in some) for some in by_order]
    verdict = majorities[0]
    if len(set(majorities)) > 1:
        if disagreement == "abstain":
            return Decision(None, None, "the orders disagree")
        verdict = "tie" if disagreement == "tie" else verdict
    return Decision(verdict, _support(readable, verdict))


def decide_scores(votes: Sequence[Vote], count: int = 2) -> Decision:
    """The verdict that scores of two responses, or of `count`, amount to, with the confidence of `strength`.

    The winner of two is "A", "B" or "tie", of more its place as text.
    """
    winner = best(mean_scores(votes, count))
    if winner is None:
        return Decision(None, None, "no readable score of some response")
    name = "AB"[winner] if isinstance(winner, int) and count == 2 else str(winner)
    return Decision(name, strength(votes, winner, "confidence", count)[0])


def strength(
    votes: Sequence[Vote], winner: int | Literal["tie"], measure: Measure, count: int = 2
) -> tuple[float | None, float | None]:
    """How strongly votes speak for the response at place `winner` of `count`, and their spread (standard deviation).

    `score`: its mean score. `confidence`: of comparisons the share of readable votes that say so, or their mean
    probability where they are weighed; of scores the chance that one of its scores is above one of the closest other
    response, equal ones counted half. (None, None) where the votes do not say, or an order that was asked is unread.
    """
    scores = _by_place(votes, count)
    if any(scores):
        if winner == "tie" or not scores[winner]:
            return None, None
        own, others = scores[winner], [some for place, some in enumerate(scores) if place != winner]
        if measure == "score":
            return mean(own), math.sqrt(variance(own))
        if not others or not all(others):
            return None, None
        rival = min(others, key=lambda some: (_above(own, some), -variance(some)))
        return _above(own, rival), math.sqrt(variance(own) + variance(rival))
    readable = [v for v in votes if v.verdict is not None]
    if measure == "score" or {v.order for v in readable} != {v.order for v in votes} or not readable:
        return None, None
    verdict = winner if winner == "tie" else "AB"[winner]
    return _support(readable, verdict), math.sqrt(variance([_said(v, verdict) for v in readable]))


def _said(vote: Vote, verdict: str) -> float:
    """How much a readable comparison speaks for a verdict: 1 or 0, or its probability where it is weighed."""
    if vote.probability is None or verdict == "tie":
        return float(vote.verdict == verdict)
    return vote.probability if verdict == "A" else 1 - vote.probability


def _support(readable: Sequence[Vote], verdict: str | None) -> float:
    """The share of readable comparisons for a verdict; of weighed ones each order counts the same."""
    said = [[_said(v, verdict or "tie") for v in readable if v.order == order] for order in (0, 1)]
    if all(v.probability is not None for v in readable):
        said = [[math.fsum(some) / len(some)] for some in said if some]
    every = [value for some in said for value in some]
    return math.fsum(every) / len(every)


def _above(own: Sequence[float], other: Sequence[float]) -> float:
    """P(a score of `own` is above one of `other`), equal ones counted half."""
    return sum((a > b) + (a == b) / 2 for a in own for b in other) / (len(own) * len(other))


def mean_scores(votes: Iterable[Vote], count: int) -> list[float | None]:
    """The mean readable score of each of `count` responses, as listed; None where there is none."""
    return [mean(some) for some in _by_place(votes, count)]


def _by_place(votes: Iterable[Vote], count: int) -> list[list[float]]:
    """The readable scores of each of `count` responses."""
    scores: list[list[float]] = [[] for _ in range(count)]
    for vote in votes:
        if vote.score is not None:
            scores[vote.place].append(vote.score)
    return scores


def best(scores: Sequence[float | None]) -> int | Literal["tie"] | None:
    """The place of the single best score, "tie" where several are; None where one is missing."""
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    places = [place for place, score in enumerate(scores) if score == max(known)]
    return places[0] if len(places) == 1 else "tie"


def preferred(first: float | None, second: float | None) -> str | None:
    """The verdict that two scores amount to; None if one of them is unreadable."""
    return {0: "A", 1: "B", "tie": "tie", None: None}[best((first, second))]


def rates(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """What judgements add up to: total, counts and rates by status, and of comparisons ties, first places and flips.

    `tied` is the share of readable comparisons that are ties, `first_position_rate` the share of decided ones that name
    what was shown first, `flipped` the share of pairs with a readable majority in both orders whose majorities differ.
    Rates of nothing are None.
    """
    judgements = list(judgements)
    compared = [j for j in judgements if j["status"] == "ok" and len(j["sample_ids"]) == 2]
    where = positions([(j.get("verdict"), j["order"]) for j in compared])
    both = majorities(compared)
    flips = sum(first != second for first, second in both)
    return {
        **statuses([j["status"] for j in judgements]),
        **where,
        "tied": where["ties"] / len(compared) if compared else None,
        "flips": flips,
        "flipped": flips / len(both) if both else None,
    }


def majorities(judgements: Iterable[Judgement]) -> list[tuple[str, str]]:
    """The majorities of both orders, as listed by id, of every two samples compared readably in both."""
    by_pair: dict[tuple[str, ...], list[Vote]] = {}
    for j in judgements:
        if j["status"] == "ok" and len(j["sample_ids"]) == 2:
            ids = tuple(sorted(j["sample_ids"]))
            swapped = ids != tuple(j["sample_ids"])
            vote = Vote(j["order"] ^ swapped, "ok", as_listed(j.get("verdict"), swapped))
            by_pair.setdefault(ids, []).append(vote)
    found = []
    for votes in by_pair.values():
        first, second = (majority(v.verdict for v in votes if v.order == order) for order in (0, 1))
        if first is not None and second is not None:
            found.append((first, second))
    return found


def statuses(found: Sequence[Status]) -> dict[str, Any]:
    """total, counts {status: n} and rates {status: share} of statuses; rates of nothing are None."""
    counts = {status: found.count(status) for status in get_args(Status)}
    total = len(found)
    return {
        "total": total,
        "counts": counts,
        "rates": {status: count / total if total else None for status, count in counts.items()},
    }


def positions(verdicts: Sequence[tuple[str | None, int]]) -> dict[str, Any]:
    """Ties, and how often the one shown first won, from (winner as listed, order)."""
    first = [(winner == "B") == bool(order) for winner, order in verdicts if winner in ("A", "B")]
    return {
        "ties": sum(winner == "tie" for winner, _ in verdicts),
        "first_position_rate": math.fsum(first) / len(first) if first else None,
    }
