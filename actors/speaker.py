"""What policy, judge and meta-judge share: a conversation in, completions of one weight version out."""

import asyncio
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from actors.chat import ChatFormat
from actors.engine import Completion, Request
from actors.pool import ModelUnavailable, PoolClient
from actors.protocols import VerdictForm
from pipelines.config import Sampling
from pipelines.records import Message

VERDICT_TOKENS = 8
CLOSE_FENCE = "\n```"
VERSION_RETRIES = 5


class PromptTooLong(ValueError):
    """The prompt leaves no room for an answer; the message says how long it is and what the limit is."""


class Speaker:
    """A model seen as somebody who answers messages."""

    def __init__(self, client: PoolClient, chat: ChatFormat, max_model_len: int):
        self.client, self.chat, self.max_model_len = client, chat, max_model_len

    async def reply(
        self, messages: list[Message], sampling: Sampling, seed: int | None, request_id: str, version: str | None,
        stop: Sequence[str] = (), structured: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """`sampling.n` completions in index order; raises PromptTooLong, ModelUnavailable.

        A completion ends before a text of `stop`; `structured` holds it to a form (actors.engine.Request).
        """
        prompt_ids = self.chat.render(messages)
        return await self._generate(prompt_ids, sampling, seed, request_id, version, 0, stop, structured)

    async def reply_with_verdict(
        self, messages: list[Message], sampling: Sampling, seed: int | None, request_id: str, version: str | None,
        form: VerdictForm,
    ) -> list[Completion]:
        """Like `reply`, and every completion ends in a readable verdict.

        The reasons are free, of any form and length; a reply without a readable verdict is continued by the verdict's
        lead, after which the engine may write nothing but one of the choices.
        """
        prompt_ids = self.chat.render(messages)
        tail = len(self.chat.encode(f"{CLOSE_FENCE}\n{form.lead}")) + VERDICT_TOKENS
        free = sampling.model_copy(update={"max_tokens": max(1, sampling.max_tokens - tail)})
        for _ in range(VERSION_RETRIES):
            drafts = await self._generate(prompt_ids, free, seed, request_id, version, reserve=tail)
            replies = await asyncio.gather(*(self._conclude(prompt_ids, d, sampling, request_id, form) for d in drafts))
            if {reply.weight_version for reply in replies} == {drafts[0].weight_version}:
                return list(replies)
        raise ModelUnavailable("the weights changed faster than the model could answer")

    async def weigh(self, messages: list[Message], choices: Sequence[str], version: str | None) -> Completion:
        """How likely each of `choices` is as the reply's first token, with or without a space before it.

        The text is a JSON object of log-probabilities, null for what cannot come; no token is written and no seed is
        used. Raises PromptTooLong, ModelUnavailable, and ValueError where the vocabulary lacks a choice.
        """
        prompt_ids = self.chat.render(messages)
        self._room(prompt_ids, 0)
        tokens = {choice: self.chat.tokens_of(choice) for choice in choices}
        asked = [[token] for found in tokens.values() for token in found]
        scores, made_by = await self.client.score(prompt_ids, asked, version)
        logps = iter([logp for (logp,) in scores])
        weights = {choice: math.fsum(math.exp(next(logps)) for _ in found) for choice, found in tokens.items()}
        said = {choice: math.log(weight) if weight else None for choice, weight in weights.items()}
        return Completion(0, json.dumps(said), [], "stop", None, made_by)

    async def score(self, messages: list[Message], replies: Sequence[str], version: str) -> list[list[float]]:
        """Log-probabilities of the tokens of each reply and of the one that ends it; raises as `reply` does."""
        prompt_ids = self.chat.render(messages)
        turns = [self.chat.turn(reply) for reply in replies]
        self._room(prompt_ids, max(map(len, turns), default=0) - 1)
        scores, _ = await self.client.score(prompt_ids, turns, version)
        return scores

    async def _conclude(
        self, prompt_ids: list[int], draft: Completion, sampling: Sampling, request_id: str, form: VerdictForm
    ) -> Completion:
        if form.parse(draft.text, draft.finish_reason == "length").status == "ok":
            return draft
        end = self.chat.end_of_turn()
        reasons = draft.token_ids[:-1] if draft.token_ids[-1:] == [end] else draft.token_ids
        lead = f"\n{form.lead}".rstrip()
        if form.parse(f"{draft.text}{lead} {form.choices[0]}", False).status != "ok":
            lead = CLOSE_FENCE + lead  # in a code fence that the reasons left open a verdict would be a quotation
        lead_ids = self.chat.encode(lead)
        request = Request(
            request_id=f"{request_id}-{draft.index}",
            prompt_ids=prompt_ids + reasons + lead_ids,
            temperature=sampling.temperature,
            max_tokens=VERDICT_TOKENS,
            seed=draft.seed,
            structured={"choice": [f" {choice}" for choice in form.choices]},
        )
        (verdict,) = await self.client.generate(request)
        ids = verdict.token_ids if verdict.token_ids[-1:] == [end] else [*verdict.token_ids, end]
        if verdict.weight_version != draft.weight_version:
            return verdict  # an update came between the two; the caller asks again
        text = draft.text + lead + verdict.text
        return dataclasses.replace(draft, text=text, token_ids=reasons + lead_ids + ids, finish_reason="stop")

    async def _generate(
        self, prompt_ids: list[int], sampling: Sampling, seed: int | None, request_id: str, version: str | None,
        reserve: int = 0, stop: Sequence[str] = (), structured: dict[str, Any] | None = None,
    ) -> list[Completion]:
        room = self._room(prompt_ids, reserve)
        request = Request(
            request_id=request_id,
            prompt_ids=prompt_ids,
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=seed,
            stop=list(stop),
            structured=structured,
        )
        return await self.client.generate(request, version)

    def _room(self, prompt_ids: list[int], reserve: int) -> int:
        """Tokens that an answer may have; raises PromptTooLong where that is none."""
        room = self.max_model_len - len(prompt_ids) - reserve
        if room < 1:
            limit = f"the model takes {self.max_model_len} with the answer"
            raise PromptTooLong(f"{len(prompt_ids)} prompt tokens, {limit}")
        return room
