"""A live judge over HTTP: POST /v1/judgements with deadlines, bounded concurrency, and retries when it says to wait."""

import asyncio
import email.utils
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from actors.votes import Vote
from pipelines.config import ConfigError

API_KEY = "APPELLATE_API_KEY"
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 630.0  # the endpoint itself gives up after 600 s
DEADLINE_S = 1800.0  # of one request with all its retries
REACH_S = 60.0  # an endpoint that nobody reaches in this time is not there
CONCURRENCY = 16
RETRIED = (429, 502, 503, 504)


class JudgeUnavailable(RuntimeError):
    """The live judge did not answer before the deadline; the message names it and the last problem."""


class Refused(ValueError):
    """The judge will not judge this request, however often it is asked."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class LiveReply:
    """The votes of one reply, and the weights that made all of them."""

    votes: list[Vote]
    weight_version: str


class LiveJudge:
    """Asks one endpoint; at most CONCURRENCY requests run at once."""

    def __init__(self, client: httpx.AsyncClient, name: str, deadline_s: float = DEADLINE_S):
        self._client, self.name, self._deadline_s = client, name, deadline_s
        self._room = asyncio.Semaphore(CONCURRENCY)

    async def judge(self, body: dict[str, Any]) -> LiveReply:
        """The judgement of a JudgementRequest; raises Refused, JudgeUnavailable, ConfigError."""
        async with self._room:
            response = await self._retry(lambda: self._client.post("/v1/judgements", json=body), self._deadline_s)
        if response.status_code in (400, 413, 422):
            message = _message(response)
            raise Refused("prompt_too_long" if "prompt tokens" in message else "refused", message)
        return read_reply(_checked(response, self.name).json())

    async def version(self) -> str:
        """The weights it has now, "unknown" where it does not say; raises JudgeUnavailable, ConfigError."""
        response = await self._retry(lambda: self._client.get("/v1/models"), min(REACH_S, self._deadline_s))
        if response.status_code == 404:
            return "unknown"
        return str(_checked(response, self.name).json()["data"][0].get("weight_version", "unknown"))

    async def _retry(self, call: Any, deadline_s: float) -> httpx.Response:
        end, pause_s, problem = time.monotonic() + deadline_s, 0.5, ""
        while True:
            try:
                response = await call()
                if response.status_code not in RETRIED:
                    return response
                problem = f"{response.status_code} {_message(response)}"
                wait_s = retry_after_s(response.headers.get("retry-after"), time.time())
            except httpx.TransportError as error:
                problem, wait_s = repr(error), None
            wait_s = pause_s if wait_s is None else wait_s
            if time.monotonic() + wait_s > end:
                raise JudgeUnavailable(f"{self.name}: no answer within {deadline_s:.0f} s: {problem[:300]}")
            await asyncio.sleep(wait_s)
            pause_s = min(30.0, 2 * pause_s)


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds to wait by a Retry-After header, which is a number or a date (RFC 9110, 10.2.3); None without one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now_s)
    except ValueError:
        return None


def read_reply(reply: dict[str, Any]) -> LiveReply:
    """The votes of a JudgementReply as plain data; a newer endpoint may say more than is read here."""
    votes = [
        Vote(vote["order"], vote["status"], vote.get("verdict"), vote.get("score"), vote["responses"][0])
        for vote in reply["votes"]
    ]
    return LiveReply(votes, str(reply["weight_version"]))


def _checked(response: httpx.Response, name: str) -> httpx.Response:
    if response.status_code in (401, 403):
        raise ConfigError(f"{name} wants a key: put it into {API_KEY}")
    if not response.is_success:
        raise ConfigError(f"{name} answers {response.status_code} {_message(response)}: is it a judge's address?")
    return response


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:100]


def is_url(judge: str) -> bool:
    """Whether `--judge` names an endpoint."""
    return judge.startswith(("http://", "https://"))


@asynccontextmanager
async def live_judge(url: str, transport: httpx.AsyncBaseTransport | None = None) -> AsyncGenerator[LiveJudge]:
    """The judge at `url`, with or without /v1/judgements at its end; the key comes from APPELLATE_API_KEY."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/v1/judgements").removesuffix("/v1")
    base = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{path}"  # no user, no password
    key = os.environ.get(API_KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    limits = httpx.Limits(max_connections=CONCURRENCY)
    async with httpx.AsyncClient(
        base_url=base, headers=headers, timeout=timeout, limits=limits, transport=transport
    ) as client:
        yield LiveJudge(client, base)
