"""POST /v1/judgements: prompts are built and verdicts are read here; the model pool does the rest."""

import asyncio
import secrets
import uuid
from typing import Any

from fastapi import APIRouter, Request

from actors.judge import judgement_record
from actors.pool import ModelUnavailable
from actors.protocols import PROTOCOLS
from pipelines.config import Sampling
from pipelines.prompts.criteria import criteria_text
from pipelines.prompts.scenarios import scenarios
from pipelines.records import Judgement, Sample, new_group
from pipelines.steps.lengths import count_words
from pipelines.steps.render import template_for
from serve.errors import ERRORS
from serve.live import Live, LiveModel
from serve.models import JudgementReply, JudgementRequest, Usage
from serve.verdict import summarise_comparison, summarise_scores, vote_of

MAX_VERSION_RETRIES = 5

router = APIRouter()


@router.post("/v1/judgements", responses=ERRORS)
async def judgements(body: JudgementRequest, request: Request, live: LiveModel) -> JudgementReply:
    """Judge one prompt's responses."""
    async with asyncio.timeout(request.app.state.timeout_s):
        return await judge_request(live, body)


async def judge_request(live: Live, body: JudgementRequest) -> JudgementReply:
    """All votes by one weight version, and what they say together; raises ModelUnavailable, and as the judge does."""
    compared = PROTOCOLS[body.asked].responses == 2
    calls = (
        [([0, 1], order) for order in ((0, 1) if body.both_orders else (0,))]
        if compared
        else [([index], 0) for index in range(len(body.responses))]
    )
    version, records = await _votes(live, body, calls)
    votes = [vote_of(j, shown, body.asked) for (shown, _), made in zip(calls, records, strict=True) for j in made]
    summary = (
        summarise_comparison(votes, body.both_orders, body.disagreement)
        if compared
        else summarise_scores(votes, len(body.responses))
    )
    return JudgementReply(
        id=f"judgement-{uuid.uuid4().hex}",
        model=live.run,
        weight_version=version,
        protocol=body.asked,
        prompt_hash=records[0][0]["prompt_hash"],
        votes=votes,
        usage=Usage(
            completion_tokens=sum(len(j["token_ids"]) for made in records for j in made),
            votes=len(votes),
            unreadable_votes=sum(v.status != "ok" for v in votes),
        ),
        **summary,
    )


async def _votes(
    live: Live, body: JudgementRequest, calls: list[tuple[list[int], int]]
) -> tuple[str, list[list[Judgement]]]:
    """Every call's votes, all by one weight version: calls that an update overtook are made again."""
    records: list[list[Judgement]] = [[] for _ in calls]
    pending = list(range(len(calls)))
    seed = secrets.randbelow(2**30) if body.seed is None else body.seed
    for _ in range(MAX_VERSION_RETRIES):
        made = await asyncio.gather(*(_ask(live, body, *calls[i], seed + 1000 * i) for i in pending))
        for i, reply in zip(pending, made, strict=True):
            records[i] = reply
        newest = made[-1][0]["weight_version"]
        pending = [i for i, reply in enumerate(records) if reply[0]["weight_version"] != newest]
        if not pending:
            return newest, records
    raise ModelUnavailable("the weights changed faster than the judge could answer")


async def _ask(live: Live, body: JudgementRequest, shown: list[int], order: int, seed: int) -> list[Judgement]:
    messages: Any = (
        [m.model_dump() for m in body.messages] if body.messages else [{"role": "user", "content": body.prompt}]
    )
    samples = [_sample(index, body.responses[index]) for index in shown]
    sampling = Sampling(n=body.votes, temperature=body.temperature, max_tokens=body.max_tokens)
    criteria = criteria_text(scenarios()[body.scenario]) if body.scenario else body.criteria
    told = {"criteria": criteria, "reference": body.reference}
    meta = {name: text for name, text in told.items() if text is not None}
    template, gold = template_for(PROTOCOLS[body.asked].template, meta)
    completions = await live.judge.ask(
        new_group(messages, gold=gold, meta=meta), samples, body.asked, sampling, seed, uuid.uuid4().hex, None, order,
        template, body.structured,
    )
    ids = [sample["sample_id"] for sample in samples]
    return [judgement_record(c, ids, order, body.asked, template, uuid.uuid4().hex) for c in completions]


def _sample(index: int, text: str) -> Sample:
    return Sample(
        sample_id=str(index), index=index, kind="sample", text=text, token_ids=[], finish_reason="stop",
        n_chars=len(text), n_words=count_words(text), n_tokens=0, seed=0, weight_version="",
    )
