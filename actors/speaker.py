"""What policy, judge and meta-judge share: a conversation in, completions of one weight version out."""

from typing import Any

from actors.chat import ChatFormat
from actors.engine import Completion, Request
from actors.pool import PoolClient
from pipelines.config import Sampling
from pipelines.records import Message


class PromptTooLong(ValueError):
    """The prompt leaves no room for an answer; the message says how long it is and what the limit is."""


class Speaker:
    """A model seen as somebody who answers messages."""

    def __init__(self, client: PoolClient, chat: ChatFormat, max_model_len: int):
        self.client, self.chat, self.max_model_len = client, chat, max_model_len

    async def reply(
        self,
        messages: list[Message],
        sampling: Sampling,
        seed: int | None,
        request_id: str,
        version: str | None = None,
        structured: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """`sampling.n` completions in index order; raises PromptTooLong, ModelUnavailable."""
        prompt_ids = self.chat.render(messages)
        room = self.max_model_len - len(prompt_ids)
        if room < 1:
            limit = f"the model takes {self.max_model_len} with the answer"
            raise PromptTooLong(f"{len(prompt_ids)} prompt tokens, {limit}")
        request = Request(
            request_id=request_id,
            prompt_ids=prompt_ids,
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=seed,
            structured=structured,
        )
        return await self.client.generate(request, version)
