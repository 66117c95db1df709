"""From votes to one reply: pure functions."""

from typing import Any

from actors.votes import Disagreement, best, decide, mean_scores, votes_of
from actors.votes import Vote as Counted
from pipelines.records import Judgement
from serve.models import Vote


def vote_of(judgement: Judgement, responses: list[int], protocol: str) -> Vote:
    """The public view of a judgement record by `protocol`, about the `responses` shown, as listed in the request."""
    (counted,) = votes_of([judgement], protocol, judgement["sample_ids"])
    return Vote.model_validate(
        {
            "responses": responses,
            "order": judgement["order"],
            "text": judgement["text"],
            "status": judgement["status"],
            "score": judgement.get("value"),
            "verdict": judgement.get("verdict"),
            "probability": counted.probability,
        }
    )


def summarise_scores(votes: list[Vote], count: int) -> dict[str, Any]:
    """Protocols for one response: mean readable score of each response, and the single best one."""
    scores = mean_scores([_counted(vote) for vote in votes], count)
    if None in scores:
        return {"scores": scores, "winner": None, "abstained": True, "reason": "no readable vote for some response"}
    return {"scores": scores, "winner": None if count == 1 else best(scores), "abstained": False}


def summarise_comparison(votes: list[Vote], both_orders: bool, disagreement: Disagreement = "tie") -> dict[str, Any]:
    """Protocols for two responses: the majority of each order must agree, otherwise it is position bias."""
    found = decide([_counted(vote) for vote in votes], both_orders, disagreement)
    if found.winner is None:
        return {"winner": None, "abstained": True, "reason": found.reason}
    winner: Any = {"A": 0, "B": 1}.get(found.winner, "tie")
    return {"winner": winner, "confidence": found.confidence, "abstained": False}


def _counted(vote: Vote) -> Counted:
    return Counted(vote.order, vote.status, vote.verdict, vote.score, vote.responses[0], vote.probability)
