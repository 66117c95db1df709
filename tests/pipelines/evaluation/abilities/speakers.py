"""Models that need no model: what they say is a function of what they are asked."""

from collections.abc import Callable
from typing import Any

from actors.engine import Completion
from actors.speaker import PromptTooLong
from pipelines.evaluation.sources import Judging


class Scripted:
    """A speaker whose n-th sample to a conversation is `say(last message, n)`; None is a prompt without room.

    A text that ends with an ellipsis was cut off.
    """

    def __init__(self, say: Callable[[str, int], str | None]):
        self.say = say
        self.asked: list[tuple[Any, Any, Any, str]] = []
        self.running = self.most = 0

    async def reply(self, messages: Any, sampling: Any, seed: Any, request_id: str, version: Any) -> list[Completion]:
        import asyncio

        self.asked.append((messages, sampling, seed, request_id))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        texts = [self.say(messages[-1]["content"], i) for i in range(sampling.n)]
        if texts[0] is None:
            raise PromptTooLong("no room")
        return [
            Completion(i, text, [1], "length" if text.endswith("…") else "stop", seed, "v3")
            for i, text in enumerate(map(str, texts))
        ]


def judging(say: Callable[[str, int], str | None]) -> Judging:
    """That model as `--judge` would open it."""
    speaker: Any = Scripted(say)
    return Judging("scripted", "v3", speaker)
