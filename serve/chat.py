"""POST /v1/chat/completions: the live model itself, for whoever speaks OpenAI's wire format."""

import asyncio
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from actors.engine import Completion
from pipelines.config import Sampling
from pipelines.records import Message
from serve.chat_models import ChatMessage, ChatReply, ChatRequest, Choice, TokenUsage
from serve.errors import WIRE_ERRORS, error_reply
from serve.live import Live, LiveModel

DEFAULT_MODEL = "default"

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatReply, responses=WIRE_ERRORS)
async def chat_completions(body: ChatRequest, request: Request, live: LiveModel) -> ChatReply | JSONResponse:
    """Continue a conversation."""
    if body.model not in (live.run, DEFAULT_MODEL):
        return error_reply(request, 404, f"no such model here; the model is {live.run!r}, or {DEFAULT_MODEL!r}")
    async with asyncio.timeout(request.app.state.timeout_s):
        return await continue_chat(live, body)


async def continue_chat(live: Live, body: ChatRequest) -> ChatReply:
    """`body.n` choices, all by one weight version; raises as `Speaker.reply` does."""
    roles: dict[str, Any] = {"developer": "system"}
    messages = [Message(role=roles.get(turn.role, turn.role), content=turn.text) for turn in body.messages]
    sampling = Sampling(n=body.n, temperature=body.temperature, top_p=body.top_p, max_tokens=body.limit)
    structured = body.response_format.structured if body.response_format else None
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    made = await live.speaker.reply(messages, sampling, body.seed, request_id, None, stop=body.stop,
                                    structured=structured)
    prompt_tokens, tokens = len(live.speaker.chat.render(messages)), sum(len(c.token_ids) for c in made)
    version = made[0].weight_version
    return ChatReply(
        id=request_id, created=int(time.time()), model=live.run, system_fingerprint=version, weight_version=version,
        choices=[_choice(completion) for completion in made],
        usage=TokenUsage(
            prompt_tokens=prompt_tokens, completion_tokens=tokens, total_tokens=prompt_tokens + tokens
        ),
    )


def _choice(completion: Completion) -> Choice:
    finish = "length" if completion.finish_reason == "length" else "stop"
    return Choice(index=completion.index, message=ChatMessage(content=completion.text), finish_reason=finish)
