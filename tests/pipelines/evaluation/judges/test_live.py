"""A live judge over HTTP: what is sent, what is read, when it is asked again, and what is never shown."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from actors.speaker import Speaker
from pipelines.config import ConfigError
from pipelines.evaluation.base import Result, read_settings
from pipelines.evaluation.judges.judge_accuracy import JudgeAccuracy
from pipelines.evaluation.judges.live import (
    API_KEY,
    CONCURRENCY,
    JudgeUnavailable,
    LiveJudge,
    Refused,
    live_judge,
    retry_after_s,
)
from pipelines.evaluation.sources import Judging, NoSpeaker
from serve.models import JudgementRequest
from tests.pipelines.evaluation.judges.judges import labelled_rows, write_rows

Handler = Callable[[httpx.Request], Any]


def vote(order: int, verdict: str | None, **more: Any) -> dict[str, Any]:
    said = {"responses": [0, 1], "order": order, "text": "", "status": "ok" if verdict else "missing"}
    return {**said, "score": None, "verdict": verdict, **more}


def sincere(request: httpx.Request) -> httpx.Response:
    """Prefers the good reply, and checks the request as the endpoint does."""
    if request.url.path.endswith("/v1/models"):
        return httpx.Response(200, json={"data": [{"id": "run", "weight_version": "v3"}]})
    body = JudgementRequest.model_validate(json.loads(request.content))
    best = "AB"[[text.startswith("good") for text in body.responses].index(True)]
    orders = (0, 1) if body.both_orders else (0,)
    votes = [vote(order, best) for order in orders for _ in range(body.votes)]
    return httpx.Response(200, json={"votes": votes, "weight_version": "v3", "something_newer": 1})


async def with_judge(handler: Handler, work: Callable[[LiveJudge], Any], url: str = "http://judge.test:8000") -> Any:
    async with live_judge(url, httpx.MockTransport(handler)) as live:
        return await work(live)


def run(data: str, handler: Handler, *words: str) -> Result:
    settings = read_settings(JudgeAccuracy, list(words))

    async def work(live: LiveJudge) -> Result:
        judging = Judging(live.name, await live.version(), cast(Speaker, NoSpeaker(live.name)), live)
        return await JudgeAccuracy().run(data, judging, settings)

    return asyncio.run(with_judge(handler, work))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_rows(tmp_path / "pairs.jsonl", labelled_rows(20))


def test_a_live_judge_is_measured_as_a_checkpoint_is(data: str) -> None:
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            bodies.append(json.loads(request.content))
        return sincere(request)

    result = run(data, handler, "votes=3", "temperature=0.7", "structured=true", "max_tokens=64")
    assert result.estimates["accuracy"].value == result.estimates["right_in_both_orders"].value == 1.0
    assert (result.judge, result.weight_version) == ("http://judge.test:8000", "v3")
    assert len(bodies) == 20 and len({body["seed"] for body in bodies}) == 20
    assert {(b["votes"], b["temperature"], b["structured"], b["max_tokens"], b["both_orders"]) for b in bodies} == {
        (3, 0.7, True, 64, True)
    }


def test_votes_that_cannot_be_read_are_abstentions(data: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return sincere(request)
        votes = [vote(0, None), vote(1, None, status="truncated")]
        return httpx.Response(200, json={"votes": votes, "weight_version": "v3"})

    result = run(data, handler)
    assert result.abstentions == {"missing": 20, "truncated": 20}
    assert result.estimates["accuracy"].n == 0


def test_scores_of_a_live_judge_are_compared(data: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(404)
        body = json.loads(request.content)
        assert body["protocol"] == "additive"
        votes = [vote(0, None, responses=[i], status="ok", score=5.0 if text.startswith("good") else 1.0)
                 for i, text in enumerate(body["responses"])]  # fmt: skip
        return httpx.Response(200, json={"votes": votes, "weight_version": "v1"})

    result = run(data, handler, "protocol=additive")
    assert (result.estimates["accuracy"].value, result.weight_version) == (1.0, "v1")


def test_what_the_judge_refuses_is_an_abstention_of_that_reason(data: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        if body.get("prompt") == "Question 3?":
            return httpx.Response(422, json={"error": "9000 prompt tokens, the model takes 4096 with the answer"})
        if body.get("prompt") == "Question 4?":
            return httpx.Response(422, json={"error": "responses.0: String should have at least 1 character"})
        return sincere(request)

    result = run(data, handler)
    assert result.abstentions == {"prompt_too_long": 1, "refused": 1}
    assert (result.estimates["accuracy"].value, result.estimates["accuracy"].n) == (1.0, 18)


@pytest.mark.parametrize("words", [["fast=true"], ["protocol=boxed"], ["protocol=rubric"], ["criteria=IT RHYMES"]])
def test_what_an_endpoint_has_not_is_named(data: str, words: list[str]) -> None:
    with pytest.raises(ConfigError, match="a live judge"):
        run(data, sincere, *words)


def test_an_endpoint_answers_no_messages() -> None:
    with pytest.raises(ConfigError, match="gives judgements"):
        cast(Speaker, NoSpeaker("http://x")).reply  # noqa: B018


# ---- asking again


async def test_it_waits_as_long_as_it_is_told_and_then_asks_again() -> None:
    replies = [httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(503, headers={"Retry-After": "0"})]

    def handler(request: httpx.Request) -> httpx.Response:
        return replies.pop(0) if replies else sincere(request)

    body = {"prompt": "p", "responses": ["good", "poor"]}
    reply = await with_judge(handler, lambda live: live.judge(body))
    assert [v.verdict for v in reply.votes] == ["A", "A"] and replies == []


async def test_a_wait_past_the_deadline_is_an_error_that_says_what_was_waited_for() -> None:
    client = httpx.AsyncClient(
        base_url="http://judge.test",
        transport=httpx.MockTransport(lambda r: httpx.Response(503, headers={"Retry-After": "100"}, text="busy")),
    )
    with pytest.raises(JudgeUnavailable, match=r"judge.test: no answer within 5 s: 503 busy"):
        await LiveJudge(client, "judge.test", deadline_s=5).judge({})


async def test_nobody_there_is_an_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client = httpx.AsyncClient(base_url="http://judge.test", transport=httpx.MockTransport(handler))
    with pytest.raises(JudgeUnavailable, match="ConnectError"):
        await LiveJudge(client, "judge.test", deadline_s=0.1).version()


def test_retry_after_is_a_number_or_a_date() -> None:
    now = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0)) - time.timezone
    assert retry_after_s("7", now) == 7.0
    assert retry_after_s("Thu, 01 Jan 2026 00:00:30 GMT", now) == pytest.approx(30.0)
    assert retry_after_s("Thu, 01 Jan 2025 00:00:30 GMT", now) == 0.0
    assert [retry_after_s(value, now) for value in (None, "soon", "-3")] == [None, None, None]


async def test_so_many_run_at_once_and_no_more() -> None:
    running = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return sincere(request)

    body = {"prompt": "p", "responses": ["good", "poor"]}
    await with_judge(handler, lambda live: asyncio.gather(*(live.judge(body) for _ in range(3 * CONCURRENCY))))
    assert most == CONCURRENCY


# ---- the key


async def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, "secret-key")
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(401, json={"error": "no such key"})

    with pytest.raises(ConfigError, match=API_KEY) as caught:
        await with_judge(handler, lambda live: live.judge({}), "http://user:secret-key@judge.test/base/v1/judgements")
    assert sent == ["Bearer secret-key"]
    assert "secret-key" not in str(caught.value) and "http://judge.test/base" in str(caught.value)


@pytest.mark.parametrize("url", ["http://judge.test/base", "http://judge.test/base/", "http://judge.test/base/v1",
                                 "http://judge.test/base/v1/judgements"])  # fmt: skip
async def test_an_address_may_end_at_any_depth(url: str) -> None:
    paths = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return sincere(request)

    assert await with_judge(handler, lambda live: live.version(), url) == "v3"
    assert paths == ["/base/v1/models"]


async def test_another_service_at_the_address_is_named() -> None:
    with pytest.raises(ConfigError, match="is it a judge's address"):
        await with_judge(lambda r: httpx.Response(404, text="nothing here"), lambda live: live.judge({}))
    with pytest.raises(Refused):
        await with_judge(lambda r: httpx.Response(422, json={"error": "x"}), lambda live: live.judge({}))


def test_the_endpoint_itself_is_read(tmp_path: Path) -> None:
    """The HTTP application with a scripted judge behind it: what it sends is what is read here."""
    from types import SimpleNamespace

    from serve.app import build_api
    from serve.live import Live
    from tests.serve.test_app import Handle, ScriptedJudge

    def say(shown: list[str], order: int, call: int) -> tuple[str, str]:
        if len(shown) == 1:
            return f"Score: {5 if shown[0].startswith('good') else 2}", "v3"
        seen = shown[::-1] if order else shown
        return f"Winner: {'AB'[seen[1].startswith('good')]}", "v3"

    judge, client, speaker = cast(Any, (ScriptedJudge(say), SimpleNamespace(handle=Handle({"version": "v3"})), None))
    api = build_api(Live("run-a", client, speaker, judge))

    async def measured(data: str, *words: str) -> Result:
        settings = read_settings(JudgeAccuracy, list(words))
        async with live_judge("http://judge.test", httpx.ASGITransport(api)) as live:
            judging = Judging(live.name, await live.version(), cast(Speaker, NoSpeaker(live.name)), live)
            return await JudgeAccuracy().run(data, judging, settings)

    rows = labelled_rows(6)
    rows[0]["response_a"] = ""
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    for words in ([], ["protocol=additive"]):
        result = asyncio.run(measured(data, *words))
        assert (result.estimates["accuracy"].value, result.estimates["accuracy"].n) == (1.0, 5)
        assert (result.abstentions, result.weight_version) == ({"refused": 1}, "v3")
