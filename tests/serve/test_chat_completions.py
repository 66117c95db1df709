"""Chat completions as OpenAI's own client asks for them and reads them, on the simulated engine: no Ray, no model."""

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from actors.local import LocalModel
from actors.simulated_engine import SimulatedEngine
from actors.speaker import Speaker
from pipelines.config import SimulatedConfig
from serve.app import build_api
from serve.live import Live
from tests.serve.test_app import Handle

ASK: Any = [{"role": "user", "content": "Name a fruit."}]


@pytest.fixture
async def client(chat, tokenizer) -> AsyncGenerator[openai.AsyncOpenAI]:
    engine = SimulatedEngine(tokenizer, 8, SimulatedConfig(decode_tokens_per_s=1e6))
    model: Any = LocalModel(engine, "v3")
    model.handle = Handle({"version": "v3"})
    unused: Any = SimpleNamespace()
    api = build_api(Live("run-a", model, Speaker(model, chat, 256), unused))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api)) as http:
        yield openai.AsyncOpenAI(base_url="http://judge.test/v1", api_key="none", http_client=http, max_retries=0)


async def test_openais_client_reads_the_reply(client, tokenizer):
    reply = await client.chat.completions.create(model="run-a", messages=ASK, n=3, seed=5, max_tokens=64)
    again = await client.chat.completions.create(model="default", messages=ASK, n=3, seed=5, max_completion_tokens=64)
    assert [choice.message.content for choice in reply.choices] == [c.message.content for c in again.choices]
    assert len({choice.message.content for choice in reply.choices}) == 3
    assert [(c.index, c.finish_reason) for c in reply.choices] == [(0, "stop"), (1, "stop"), (2, "stop")]
    assert (reply.model, reply.object, reply.system_fingerprint) == ("run-a", "chat.completion", "v3")
    words = [tokenizer(c.message.content)["input_ids"] for c in reply.choices]
    assert reply.usage.completion_tokens == sum(map(len, words)) + 3  # each with its end of turn
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


async def test_parts_of_a_text_and_a_limit(client):
    parts: Any = [{"role": "developer", "content": "Be short."},
                  {"role": "user", "content": [{"type": "text", "text": "Name a fruit."}]}]
    reply = await client.chat.completions.create(model="run-a", messages=parts, seed=1, max_tokens=2)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 2)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "the model is 'run-a'"),
        ({"stream": True}, openai.UnprocessableEntityError, "stream"),
        ({"logprobs": True}, openai.UnprocessableEntityError, "logprobs: Extra inputs are not permitted"),
        ({"n": 33}, openai.UnprocessableEntityError, "n: "),
        ({"messages": []}, openai.UnprocessableEntityError, "messages: "),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, openai.UnprocessableEntityError, "256"),
        ({"response_format": {"type": "json_schema"}}, openai.UnprocessableEntityError, "needs it"),
        ({"response_format": {"type": "json_object"}}, openai.UnprocessableEntityError, "choices only"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(client, changes, error, said):
    with pytest.raises(error, match=said):
        await client.chat.completions.create(**{"model": "run-a", "messages": ASK, **changes})


async def test_models_are_listed(client):
    (card,) = (await client.models.list()).data
    assert card.id == "run-a"
