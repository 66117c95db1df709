"""From votes to one reply: pure functions."""

from typing import Any

from actors.votes import Vote as Counted
from actors.votes import best, decide, mean_scores
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
    scores = mean_scores([_counted(vote) for vote in votes], count)
    if None in scores:
        return {"scores": scores, "winner": None, "abstained": True, "reason": "no readable vote for some response"}
    return {"scores": scores, "winner": None if count == 1 else best(scores), "abstained": False}


def summarise_comparison(votes: list[Vote], both_orders: bool) -> dict[str, Any]:
    """Pairwise protocol: the majority of each order must agree, otherwise it is position bias and a tie."""
    found = decide([_counted(vote) for vote in votes], both_orders)
    if found.winner is None:
        return {"winner": None, "abstained": True, "reason": found.reason}
    winner: Any = {"A": 0, "B": 1}.get(found.winner, "tie")
    return {"winner": winner, "confidence": found.confidence, "abstained": False}


def _counted(vote: Vote) -> Counted:
    return Counted(vote.order, vote.status, vote.verdict, vote.score, vote.responses[0])
