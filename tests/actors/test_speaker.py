"""Replies that fit the model, end in a readable verdict when they must, and come from one weight version."""

import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from actors.engine import Completion, FinishReason, Request
from actors.pool import ModelUnavailable, PoolClient
from actors.protocols import DIGITS, PROTOCOLS, SCORE, WINNER
from actors.speaker import VERDICT_TOKENS, VERSION_RETRIES, PromptTooLong, Speaker
from pipelines.config import Sampling
from pipelines.records import Message

END = 2  # SmolLM2's end of turn
MESSAGES = [Message(role="user", content="What is 2 + 2?")]
Script = Callable[[Request], list[Completion]]


class ScriptedClient(PoolClient):
    """Records every request and answers it by a function."""

    def __init__(self, script: Script):
        super().__init__("run", "actor")
        self.script, self.requests, self.versions_asked = script, [], []

    async def generate(self, request: Request, version: str | None = None) -> list[Completion]:
        self.requests.append(request)
        self.versions_asked.append(version)
        return self.script(request)


@pytest.fixture
def speak(chat) -> Any:
    """`speak(script, max_model_len)` gives a speaker and its client; a reply is written by `say`."""

    def make(script: Script, max_model_len: int = 4096) -> tuple[Speaker, Any]:
        client = ScriptedClient(script)
        return Speaker(cast(PoolClient, client), chat, max_model_len), client

    return make


@pytest.fixture
def say(chat) -> Any:
    def completion(text: str, index: int = 0, version: str = "v0", reason: FinishReason = "stop") -> Completion:
        ids = chat.encode(text) + ([END] if reason == "stop" else [])
        return Completion(index, text, ids, reason, 100 + index, version)

    return completion


async def judged(speaker: Speaker, form: Any = SCORE, n: int = 1, max_tokens: int = 200) -> list[Completion]:
    sampling = Sampling(n=n, temperature=0.5, top_p=0.9, max_tokens=max_tokens)
    return await speaker.reply_with_verdict(MESSAGES, sampling, 7, "r", "v0", form)


async def test_a_request_carries_the_sampling_and_the_rendered_prompt(speak, say, chat):
    speaker, client = speak(lambda request: [say("four", i) for i in range(request.n)])
    sampling = Sampling(n=3, temperature=0.5, top_p=0.9, max_tokens=50)
    replies = await speaker.reply(MESSAGES, sampling, 7, "r", "v3")
    assert [reply.index for reply in replies] == [0, 1, 2]
    assert client.requests == [
        Request("r", chat.render(MESSAGES), n=3, temperature=0.5, top_p=0.9, max_tokens=50, seed=7)
    ]
    assert client.versions_asked == ["v3"]


@pytest.mark.parametrize(("room", "granted"), [(100, 50), (50, 50), (49, 49), (1, 1)])
async def test_an_answer_is_cut_to_the_room_that_the_prompt_leaves(speak, say, chat, room, granted):
    speaker, client = speak(lambda request: [say("four")], len(chat.render(MESSAGES)) + room)
    await speaker.reply(MESSAGES, Sampling(max_tokens=50), 7, "r", "v0")
    assert client.requests[0].max_tokens == granted


async def test_a_prompt_without_room_is_refused_with_both_lengths(speak, say, chat):
    length = len(chat.render(MESSAGES))
    speaker, client = speak(lambda request: [say("four")], length)
    with pytest.raises(PromptTooLong, match=rf"^{length} prompt tokens, the model takes {length} with the answer$"):
        await speaker.reply(MESSAGES, Sampling(), 7, "r", "v0")
    assert client.requests == []


async def test_a_verdict_needs_room_of_its_own(speak, say, chat):
    length = len(chat.render(MESSAGES))
    with pytest.raises(PromptTooLong):
        await judged(speak(lambda request: [say("Score: 3")], length + VERDICT_TOKENS)[0])
    speaker, client = speak(lambda request: [say("Score: 3")], length + 40)
    await judged(speaker)
    draft = client.requests[0]
    assert VERDICT_TOKENS < 40 - draft.max_tokens < 2 * VERDICT_TOKENS + 8


async def test_a_readable_reply_is_kept_as_it_is(speak, say):
    draft = say("It is right.\nScore: 4")
    speaker, client = speak(lambda request: [draft])
    assert await judged(speaker) == [draft]
    assert [request.structured for request in client.requests] == [None]


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        ("It is right.", "stop"),
        ("It is right but", "length"),
        ("Score: 9", "stop"),
        ("It is right. Score: 4 or 5", "stop"),
        ("The code is\n```\nprint(4)", "length"),
    ],
)
async def test_an_unreadable_reply_is_continued_by_the_verdict_alone(speak, say, chat, reasons, reason):
    draft = say(reasons, 5, reason=reason)
    verdict = Completion(0, " 3", chat.encode(" 3"), "stop", 1, "v0")
    speaker, client = speak(lambda request: [verdict] if request.structured else [draft])
    (reply,) = await judged(speaker)
    asked = client.requests[1]
    prompt = chat.render(MESSAGES)
    assert asked.structured == {"choice": [" 0", " 1", " 2", " 3", " 4", " 5"]}
    assert (asked.seed, asked.temperature, asked.max_tokens, asked.n) == (draft.seed, 0.5, VERDICT_TOKENS, 1)
    assert asked.prompt_ids[: len(prompt)] == prompt
    assert chat.decode(asked.prompt_ids[len(prompt) :]).startswith(reasons)
    assert END not in asked.prompt_ids[len(prompt) :]
    assert reply.text.startswith(reasons)
    assert reply.text.endswith("\nScore: 3")
    assert SCORE.parse(reply.text, False) == (3.0, "ok")
    assert chat.decode(reply.token_ids) == reply.text
    assert (reply.token_ids[-1], reply.token_ids.count(END)) == (END, 1)
    assert (reply.finish_reason, reply.index, reply.seed) == ("stop", 5, draft.seed)


async def test_only_the_unreadable_ones_are_continued_and_the_order_stays(speak, say, chat):
    drafts = [say("Winner: A", 0), say("Both are fine.", 1), say("Winner: tie", 2), say("", 3)]

    def script(request: Request) -> list[Completion]:
        if request.structured is None:
            return drafts
        return [say(" B" if request.request_id == "r-1" else " tie")]

    speaker, client = speak(script)
    replies = await judged(speaker, WINNER, n=4)
    assert [reply.index for reply in replies] == [0, 1, 2, 3]
    assert [WINNER.parse(reply.text, False).value for reply in replies] == ["A", "B", "tie", "tie"]
    assert sorted(request.request_id for request in client.requests) == ["r", "r-1", "r-3"]


async def test_a_reply_whose_verdict_came_from_newer_weights_is_asked_for_again(speak, say):
    versions = iter(["v0", "v1", "v1", "v1"])

    def script(request: Request) -> list[Completion]:
        version = next(versions)
        return [say(" 3" if request.structured else f"Reasons of {version}", version=version)]

    speaker, client = speak(script)
    (reply,) = await judged(speaker)
    assert (reply.weight_version, reply.text) == ("v1", "Reasons of v1\nScore: 3")
    assert len(client.requests) == 4


async def test_weights_that_change_all_the_time_end_in_an_error(speak, say):
    count = iter(range(100))
    speaker, client = speak(lambda request: [say("Reasons", version=f"v{next(count)}")])
    with pytest.raises(ModelUnavailable, match="weights changed faster"):
        await judged(speaker)
    assert len(client.requests) == 2 * VERSION_RETRIES


# ---- weighed replies


class Weighing(ScriptedClient):
    """Scores a reply by the ids asked for, and remembers the call."""

    def __init__(self, logps: Callable[[int], float]):
        super().__init__(lambda request: [])
        self.logps, self.calls = logps, []

    async def score(
        self, prompt_ids: list[int], responses: list[list[int]], version: str | None = None
    ) -> tuple[list[list[float]], str]:
        self.calls.append((prompt_ids, responses, version))
        return [[self.logps(token)] for (token,) in responses], "v4"


async def test_choices_are_weighed_as_the_first_token_of_the_reply(chat):
    ids = [chat.encode(digit)[0] for digit in DIGITS.choices]
    client = Weighing(lambda token: -1.0 - ids.index(token))
    reply = await Speaker(client, chat, 4096).weigh(MESSAGES, DIGITS.choices, "v4")
    assert client.calls == [(chat.render(MESSAGES), [[token] for token in ids], "v4")]
    assert json.loads(reply.text) == pytest.approx({str(d): -1.0 - d for d in range(10)})
    assert (reply.token_ids, reply.finish_reason, reply.seed, reply.weight_version) == ([], "stop", None, "v4")


async def test_a_choice_that_cannot_come_has_no_weight(chat):
    client = Weighing(lambda token: -math.inf)
    reply = await Speaker(client, chat, 4096).weigh(MESSAGES, DIGITS.choices, "v4")
    assert json.loads(reply.text) == dict.fromkeys("0123456789")
    assert PROTOCOLS["digits"].read(reply.text, False).status == "missing"


async def test_both_ways_to_write_a_choice_count(chat, monkeypatch):
    monkeypatch.setattr(chat, "tokens_of", lambda text: [10 * int(text), 10 * int(text) + 1])
    client = Weighing(lambda token: math.log(0.03 if token % 10 else 0.01))
    reply = await Speaker(client, chat, 4096).weigh(MESSAGES, ("1", "2"), "v4")
    assert json.loads(reply.text) == pytest.approx({"1": math.log(0.04), "2": math.log(0.04)})


async def test_a_prompt_without_room_for_a_digit_is_refused(chat):
    length = len(chat.render(MESSAGES))
    client = Weighing(lambda token: -1.0)
    with pytest.raises(PromptTooLong):
        await Speaker(client, chat, length).weigh(MESSAGES, DIGITS.choices, "v4")
    assert client.calls == []
    await Speaker(client, chat, length + 1).weigh(MESSAGES, DIGITS.choices, "v4")


async def test_replies_are_scored_with_the_token_that_ends_them(chat):
    class Scoring(PoolClient):
        async def score(self, prompt_ids: Any, responses: Any, version: str | None = None) -> Any:
            assert prompt_ids == chat.render(MESSAGES) and version == "v3"
            assert responses == [[*chat.encode("4"), END], [*chat.encode("It is 4."), END]]
            return [[-1.0] * len(response) for response in responses], version

    speaker = Speaker(Scoring("run", "actor"), chat, 4096)
    found = await speaker.score(MESSAGES, ["4", "It is 4."], "v3")
    assert [len(logps) for logps in found] == [2, len(chat.encode("It is 4.")) + 1]
    with pytest.raises(PromptTooLong):
        await Speaker(Scoring("run", "actor"), chat, 20).score(MESSAGES, ["4", "word " * 30], "v3")
