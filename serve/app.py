"""The judge over HTTP: a Ray Serve ingress beside the model pool, answering with the run's live weights."""

import asyncio
import secrets
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from actors.chat import ChatFormat, ChatFormatError
from actors.engine import UnsupportedRequest
from actors.judge import Judge, judgement_record
from actors.pool import ModelUnavailable, PoolClient
from actors.protocols import PROTOCOLS
from actors.registry import application_name
from actors.speaker import PromptTooLong, Speaker
from pipelines.config import Sampling
from pipelines.plan import STAGE_CPUS
from pipelines.prompts import load
from pipelines.records import Judgement, Sample, new_group
from pipelines.steps.lengths import count_words
from serve.models import ErrorReply, Health, JudgementReply, JudgementRequest, ModelCard, ModelList, Usage
from serve.verdict import summarise_comparison, summarise_scores, vote_of

REQUEST_TIMEOUT_S = 600.0
MAX_VERSION_RETRIES = 5

api = FastAPI(
    title="Appellate judge",
    description="Judgements by the model that is being trained, each stamped with the weights that made it.",
    version="1",
)
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorReply} for code in (422, 503, 504)}


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse(ErrorReply(error=message).model_dump(), status_code=status)


@api.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    problems = [f"{'.'.join(str(p) for p in e['loc'] if p != 'body') or 'body'}: {e['msg']}" for e in error.errors()]
    return _error(422, "; ".join(problems)[:2000])


@api.exception_handler(PromptTooLong)
@api.exception_handler(UnsupportedRequest)
@api.exception_handler(ChatFormatError)
async def _unusable(request: Request, error: Exception) -> JSONResponse:
    return _error(422, str(error))


@api.exception_handler(ModelUnavailable)
async def _unavailable(request: Request, error: ModelUnavailable) -> JSONResponse:
    return _error(503, "the judge's model is not available")


@api.exception_handler(TimeoutError)
async def _late(request: Request, error: TimeoutError) -> JSONResponse:
    return _error(504, f"no judgement within {REQUEST_TIMEOUT_S:.0f} s")


# Defined before the class: serve.ingress pickles its methods with the globals that exist at that line.
def _sample(index: int, text: str) -> Sample:
    return Sample(
        sample_id=str(index), index=index, kind="sample", text=text, token_ids=[], finish_reason="stop",
        n_chars=len(text), n_words=count_words(text), n_tokens=0, seed=0, weight_version="",
    )


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress(api)
class JudgeApp:
    """One HTTP replica: builds prompts and reads verdicts; the model pool does the rest."""

    def __init__(self, run: str, model: str, folder: str, max_model_len: int):
        self._name = run
        self._client = PoolClient(run, model, REQUEST_TIMEOUT_S, unavailable_timeout_s=60)
        self._judge = Judge(Speaker(self._client, ChatFormat.load(folder), max_model_len))

    @api.post("/v1/judgements", response_model=JudgementReply, responses=_ERRORS)
    async def judgements(self, body: JudgementRequest) -> JudgementReply:
        """Judge one prompt's responses."""
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            return await self._judgement(body)

    @api.get("/v1/models", response_model=ModelList)
    async def models(self) -> ModelList:
        """The live model and its weight version."""
        return ModelList(data=[ModelCard(id=self._name, weight_version=await self._version())])

    @api.get("/healthz", response_model=Health)
    async def healthz(self) -> Health:
        """The HTTP process is alive."""
        return Health()

    @api.get("/readyz", response_model=Health, responses={503: {"model": ErrorReply}})
    async def readyz(self) -> Health:
        """The model answers."""
        return Health(weight_version=await self._version())

    async def _version(self) -> str:
        try:
            status = await asyncio.wait_for(self._client.handle.status.remote(), 30)
        except (RayActorError, RayServeException, TimeoutError) as error:
            raise ModelUnavailable(f"no status: {error!r}") from error
        return status["version"]

    async def _judgement(self, body: JudgementRequest) -> JudgementReply:
        protocol = body.protocol or ("pairwise" if len(body.responses) == 2 else "additive")
        calls = (
            [([0, 1], order) for order in ((0, 1) if body.both_orders else (0,))]
            if protocol == "pairwise"
            else [([index], 0) for index in range(len(body.responses))]
        )
        version, records = await self._votes(body, protocol, calls)
        votes = [vote_of(j, shown) for (shown, _), made in zip(calls, records, strict=True) for j in made]
        summary = (
            summarise_comparison(votes, body.both_orders)
            if protocol == "pairwise"
            else summarise_scores(votes, len(body.responses))
        )
        return JudgementReply(
            id=f"judgement-{uuid.uuid4().hex}",
            model=self._name,
            weight_version=version,
            protocol=protocol,
            prompt_hash=load(PROTOCOLS[protocol].template).hash,
            votes=votes,
            usage=Usage(
                completion_tokens=sum(len(j["token_ids"]) for made in records for j in made),
                votes=len(votes),
                unreadable_votes=sum(v.status != "ok" for v in votes),
            ),
            **summary,
        )

    async def _votes(
        self, body: JudgementRequest, protocol: str, calls: list[tuple[list[int], int]]
    ) -> tuple[str, list[list[Judgement]]]:
        """Every call's votes, all by one weight version: calls that an update overtook are made again."""
        records: list[list[Judgement]] = [[] for _ in calls]
        pending = list(range(len(calls)))
        seed = secrets.randbelow(2**30) if body.seed is None else body.seed
        for _ in range(MAX_VERSION_RETRIES):
            made = await asyncio.gather(*(self._ask(body, protocol, *calls[i], seed + 1000 * i) for i in pending))
            for i, reply in zip(pending, made, strict=True):
                records[i] = reply
            newest = made[-1][0]["weight_version"]
            pending = [i for i, reply in enumerate(records) if reply[0]["weight_version"] != newest]
            if not pending:
                return newest, records
        raise ModelUnavailable("the weights changed faster than the judge could answer")

    async def _ask(
        self, body: JudgementRequest, protocol: str, shown: list[int], order: int, seed: int
    ) -> list[Judgement]:
        messages: Any = (
            [m.model_dump() for m in body.messages] if body.messages else [{"role": "user", "content": body.prompt}]
        )
        group = new_group(messages)
        samples = [_sample(index, body.responses[index]) for index in shown]
        sampling = Sampling(n=body.votes, temperature=body.temperature, max_tokens=body.max_tokens)
        template = PROTOCOLS[protocol].template
        completions = await self._judge.ask(
            group, samples, protocol, sampling, seed, uuid.uuid4().hex, None, order, template, body.structured
        )
        ids = [sample["sample_id"] for sample in samples]
        return [judgement_record(c, ids, order, protocol, template, uuid.uuid4().hex) for c in completions]


def deploy_judge(run: str, model: str, folder: str, max_model_len: int, route: str) -> None:
    """Start the HTTP application of `run` below the path `route`; returns at once."""
    application = JudgeApp.options(ray_actor_options={"num_cpus": STAGE_CPUS}).bind(run, model, folder, max_model_len)
    target = serve.RunTarget(application, name=application_name(run, "http"), route_prefix=route)
    serve.run_many([target], wait_for_applications_running=False)
