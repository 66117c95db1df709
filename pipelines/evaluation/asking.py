"""Many conversations put to one model: greedy or several samples each, so many at a time, and the same every time."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from actors.engine import Completion
from pipelines.config import Sampling
from pipelines.records import Message, prompt_identity, record_id, record_seed

CONCURRENCY = 256  # conversations in flight: more than any engine decodes together, less than what fills its queue


async def ask_all(
    speaker: Any, conversations: Sequence[list[Message]], sampling: Sampling, *, seed: int = 0,
    version: str | None = None, concurrency: int = CONCURRENCY,
) -> list[list[Completion]]:
    """`sampling.n` completions of every conversation, in order; an empty list where the prompt left no room to answer.

    `speaker` is an actors.speaker.Speaker. Seeds are hashes of `seed` and of what is asked, so that a row is answered
    alike in whatever file and place it stands; a conversation that comes again gets seeds of its own. Replies are made
    by weight version `version` (any when None). Raises ModelUnavailable, and then stops what still runs.
    """
    from actors.speaker import PromptTooLong

    slots = asyncio.Semaphore(concurrency)

    async def ask(messages: list[Message], identity: str) -> list[Completion]:
        place = (seed, "evaluation", 0, identity, "answer")
        request_id = record_id(*place, sampling.n, str(sampling.temperature))
        async with slots:
            try:
                return await speaker.reply(messages, sampling, record_seed(*place), request_id, version)
            except PromptTooLong:
                return []

    tasks = [
        asyncio.ensure_future(ask(messages, identity))
        for messages, identity in zip(conversations, _identities(conversations), strict=True)
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()  # of what is done this does nothing


def _identities(conversations: Sequence[list[Message]]) -> list[str]:
    seen: Counter[str] = Counter()
    identities = []
    for messages in conversations:
        first = prompt_identity(messages)
        identities.append(prompt_identity(messages, seen[first]))
        seen[first] += 1
    return identities
