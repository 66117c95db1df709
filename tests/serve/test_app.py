"""The judge's HTTP application on a scripted judge: no Ray, no model, the real routes and error handlers."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from actors.chat import ChatFormatError
from actors.engine import Completion
from actors.pool import ModelUnavailable
from actors.protocols import PROTOCOLS
from actors.speaker import PromptTooLong
from pipelines.prompts import load
from pipelines.prompts.scenarios import scenarios
from pipelines.steps.render import judge_messages
from serve.app import build_api
from serve.judgements import MAX_VERSION_RETRIES
from serve.live import Live
from serve.models import UNASKABLE

BODY = {"prompt": "2 + 2?", "responses": ["4", "5"], "votes": 2, "seed": 7}
Say = Callable[[list[str], int, int], tuple[str, str]]  # responses shown, order, call number -> (text, version)


class ScriptedJudge:
    """In the place of actors.judge.Judge: every call is recorded and answered by a function."""

    def __init__(self, say: Say):
        self.say, self.calls = say, []

    async def ask(
        self, group: Any, samples: Any, protocol: str, sampling: Any, seed: int, request_id: str, version: str | None,
        order: int, template: str, structured: bool,
    ) -> list[Completion]:
        shown = [sample["text"] for sample in samples]
        self.calls.append(
            {"shown": shown, "order": order, "seed": seed, "protocol": protocol, "messages": group["messages"],
             "sampling": sampling, "version": version, "structured": structured, "group": group,
             "asked": judge_messages(template, group, *samples, **PROTOCOLS[protocol].variables)[0]["content"]}
        )
        text, made_by = self.say(shown, order, len(self.calls))
        return [Completion(i, text, [1, 2, 3], "stop", seed + i, made_by) for i in range(sampling.n)]


class Handle:
    """A Serve handle whose `status` answers or raises."""

    def __init__(self, answer: Any):
        self.answer = answer
        self.status = SimpleNamespace(remote=self._status)

    async def _status(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def live():
    """`live(say)` gives an HTTP client of the application and its judge."""

    def start(say: Say, status: Any = None) -> tuple[TestClient, ScriptedJudge]:
        judge: Any = ScriptedJudge(say)
        client: Any = SimpleNamespace(handle=Handle(status or {"version": "v3"}))
        speaker: Any = None
        return TestClient(build_api(Live("run-a", client, speaker, judge)), raise_server_exceptions=False), judge

    return start


def sincere(shown: list[str], order: int, call: int) -> tuple[str, str]:
    """Prefers the response "4", whichever place it has."""
    place = shown[::-1].index("4") if order else shown.index("4")
    return f"Because.\nWinner: {'AB'[place]}", "v3"


def test_two_responses_are_compared_in_both_orders(live):
    client, judge = live(sincere)
    reply = client.post("/v1/judgements", json=BODY)
    answer = reply.json()
    assert reply.status_code == 200
    assert (answer["winner"], answer["confidence"], answer["abstained"]) == (0, 1.0, False)
    assert (answer["weight_version"], answer["protocol"], answer["model"]) == ("v3", "pairwise", "run-a")
    assert answer["prompt_hash"] == load("judge_pairwise").hash
    assert answer["usage"] == {"completion_tokens": 12, "votes": 4, "unreadable_votes": 0}
    assert [(vote["order"], vote["verdict"]) for vote in answer["votes"]] == [(0, "A"), (0, "A"), (1, "A"), (1, "A")]
    assert [(call["order"], call["seed"]) for call in judge.calls] == [(0, 7), (1, 1007)]
    assert all(call["shown"] == ["4", "5"] and call["version"] is None for call in judge.calls)
    assert judge.calls[0]["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert (judge.calls[0]["sampling"].temperature, judge.calls[0]["sampling"].max_tokens) == (0.7, 512)


def test_a_judge_that_likes_a_place_finds_a_tie(live):
    client, _ = live(lambda shown, order, call: ("Winner: A", "v3"))
    answer = client.post("/v1/judgements", json=BODY).json()
    assert [vote["verdict"] for vote in answer["votes"]] == ["A", "A", "B", "B"]
    assert (answer["winner"], answer["confidence"]) == ("tie", 0.0)
    answer = client.post("/v1/judgements", json={**BODY, "both_orders": False}).json()
    assert (answer["winner"], len(answer["votes"])) == (0, 2)


def test_other_numbers_of_responses_are_scored(live):
    scores = {"four": "Score: 4", "five": "Score: 1", "six": "no verdict"}
    client, judge = live(lambda shown, order, call: (scores[shown[0]], "v3"))
    body = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "2 + 2?"}], "votes": 1}
    answer = client.post("/v1/judgements", json={**body, "responses": ["five", "four"], "protocol": "additive"}).json()
    assert (answer["scores"], answer["winner"], answer["confidence"]) == ([1.0, 4.0], 1, None)
    assert [message["role"] for message in judge.calls[0]["messages"]] == ["system", "user"]
    answer = client.post("/v1/judgements", json={**body, "responses": ["five", "six", "four"]}).json()
    assert (answer["scores"], answer["abstained"]) == ([1.0, None, 4.0], True)
    assert answer["reason"] == "no readable vote for some response"
    assert answer["usage"]["unreadable_votes"] == 1


@pytest.mark.parametrize("name", [*sorted(set(PROTOCOLS) - set(UNASKABLE)), "rubric:0-10", "fast_score:0-9"])
def test_every_protocol_is_asked_with_criteria_and_reference_and_read(live, name):
    protocol, form = PROTOCOLS[name], PROTOCOLS[name].verdict
    said = f"Because.\n{form.lead}{form.choices[-1]}"
    if protocol.weighed:
        said = json.dumps({choice: 0.0 if choice == form.choices[-1] else None for choice in form.choices})
    client, judge = live(lambda shown, order, call: (said, "v3"))
    told = {"criteria": "Brevity counts most.", "reference": "Four, of course."}
    answer = client.post("/v1/judgements", json={**BODY, "votes": 1, "protocol": name, **told}).json()
    assert answer["protocol"] == name
    assert [vote["status"] for vote in answer["votes"]] == ["ok"] * 2
    for call in judge.calls:
        assert all(text in call["asked"] for text in ("2 + 2?", *call["shown"], *told.values()))
    if protocol.responses == 2:
        assert (answer["winner"], answer["abstained"], answer["scores"]) == ("tie", False, None)
    else:
        score = protocol.read(said, False).value
        assert answer["scores"] == [score, score] and score is not None
    bare = client.post("/v1/judgements", json={**BODY, "votes": 1, "protocol": name}).json()
    assert bare["prompt_hash"] != answer["prompt_hash"] or "{{ gold }}" in load(protocol.template).source


def test_a_scenario_names_its_criteria(live):
    client, judge = live(sincere)
    name = next(iter(scenarios()))
    client.post("/v1/judgements", json={**BODY, "scenario": name})
    assert all(criterion.text in judge.calls[0]["asked"] for criterion in scenarios()[name].criteria)


def test_votes_that_an_update_overtook_are_made_again_by_the_new_weights(live):
    versions = {1: "v0", 2: "v1", 3: "v1"}
    client, judge = live(lambda shown, order, call: (f"Winner: tie ({call})"[:11], versions[call]))
    answer = client.post("/v1/judgements", json=BODY).json()
    assert answer["weight_version"] == "v1"
    assert [call["order"] for call in judge.calls] == [0, 1, 0]  # the first one again
    assert judge.calls[2]["seed"] == judge.calls[0]["seed"]


def test_a_slow_old_reply_does_not_hide_the_new_version(live):
    """The call that was answered by the old weights may be the last one to come back."""
    versions = {1: "v1", 2: "v0", 3: "v1", 4: "v1"}
    client, _ = live(lambda shown, order, call: ("Winner: A", versions[call]))
    assert client.post("/v1/judgements", json=BODY).json()["weight_version"] == "v1"


def test_a_reply_never_mixes_versions_however_often_they_change(live):
    client, judge = live(lambda shown, order, call: ("Winner: A", f"v{call}"))
    reply = client.post("/v1/judgements", json=BODY)
    assert (reply.status_code, reply.json()) == (503, {"error": "the judge's model is not available"})
    assert len(judge.calls) == MAX_VERSION_RETRIES + 1  # two calls at first, then the older one each time


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PromptTooLong("9000 prompt tokens, the model takes 4096"), 422, "9000 prompt tokens, the model takes 4096"),
        (ChatFormatError("a message holds U+E000"), 422, "a message holds U+E000"),
        (ModelUnavailable("model actor of run r: /tmp/ray/session/x died"), 503, "the judge's model is not available"),
        (TimeoutError("/srv/somewhere"), 504, "no judgement within 600 s"),
    ],
)
def test_errors_have_one_form_and_tell_no_paths(live, error, status, message):
    def fail(shown: list[str], order: int, call: int) -> tuple[str, str]:
        raise error

    client, _ = live(fail)
    reply = client.post("/v1/judgements", json=BODY)
    assert (reply.status_code, reply.json()) == (status, {"error": message})


def test_an_unforeseen_error_shows_no_trace(live):
    client, _ = live(lambda shown, order, call: 1 / 0)
    reply = client.post("/v1/judgements", json=BODY)
    assert reply.status_code == 500
    assert "ZeroDivision" not in reply.text
    assert "/" not in reply.text


def test_a_bad_request_names_its_fields_and_repeats_no_text(live):
    client, judge = live(sincere)
    body = {**BODY, "votes": 0, "temprature": 1, "responses": ["secret text", ""]}
    reply = client.post("/v1/judgements", json=body)
    assert reply.status_code == 422
    problems = reply.json()["error"].split("; ")
    assert sorted(problem.split(":")[0] for problem in problems) == ["responses.1", "temprature", "votes"]
    assert "secret" not in reply.text
    both = client.post("/v1/judgements", json={**BODY, "messages": [{"role": "user", "content": "x"}]})
    assert both.json() == {"error": "body: Value error, give exactly one of `prompt` and `messages`"}
    broken = client.post("/v1/judgements", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, list(broken.json())) == (422, ["error"])
    assert judge.calls == []


def test_health_readiness_and_models(live):
    client, _ = live(sincere)
    assert client.get("/healthz").json() == {"status": "ok", "weight_version": None}
    assert client.get("/readyz").json() == {"status": "ok", "weight_version": "v3"}
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["weight_version"]) == ("run-a", "v3")


@pytest.mark.parametrize("error", [ActorDiedError(), RayServeException("no such application"), TimeoutError()])
def test_a_model_that_is_down_is_alive_but_not_ready(live, error):
    client, _ = live(sincere, error)
    assert client.get("/healthz").status_code == 200
    for path in ("/readyz", "/v1/models"):
        reply = client.get(path)
        assert (reply.status_code, reply.json()) == (503, {"error": "the judge's model is not available"})
