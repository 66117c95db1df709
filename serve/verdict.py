"""From votes to one reply: pure functions."""

from collections import Counter
from statistics import fmean
from typing import Any

from pipelines.records import Judgement
from serve.models import Vote


def vote_of(judgement: Judgement, responses: list[int]) -> Vote:
    """The public view of a judgement record."""
    return Vote.model_validate(
        {
            "responses": responses,
            "order": judgement["order"],
            "text": judgement["text"],
            "status": judgement["status"],
            "score": judgement.get("value"),
            "verdict": judgement.get("verdict"),
        }
    )


def summarise_scores(votes: list[Vote], count: int) -> dict[str, Any]:
    """Additive protocol: mean readable score of each response, and the single best one."""
    scores: list[float | None] = []
    for index in range(count):
        readable = [v.score for v in votes if v.responses == [index] and v.score is not None]
        scores.append(fmean(readable) if readable else None)
    known = [score for score in scores if score is not None]
    if len(known) < count:
        return {"scores": scores, "winner": None, "abstained": True, "reason": "no readable vote for some response"}
    best = [index for index, score in enumerate(scores) if score == max(known)]
    winner: Any = None if count == 1 else best[0] if len(best) == 1 else "tie"
    return {"scores": scores, "winner": winner, "abstained": False}


def summarise_comparison(votes: list[Vote], both_orders: bool) -> dict[str, Any]:
    """Pairwise protocol: the majority of each order must agree, otherwise it is position bias and a tie."""
    majorities = []
    for order in (0, 1) if both_orders else (0,):
        readable = Counter(v.verdict for v in votes if v.order == order and v.verdict is not None)
        if not readable:
            return {"winner": None, "abstained": True, "reason": f"no readable vote in order {order}"}
        ranked = readable.most_common()
        tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
        majorities.append("tie" if tied else ranked[0][0])
    verdict = majorities[0] if len(set(majorities)) == 1 else "tie"
    readable_votes = [v.verdict for v in votes if v.verdict is not None]
    winner: Any = {"A": 0, "B": 1}.get(verdict, "tie")
    return {"winner": winner, "confidence": readable_votes.count(verdict) / len(readable_votes), "abstained": False}
