import asyncio
from typing import Any

import pytest

from pipelines.config import Sampling
from pipelines.evaluation.asking import ask_all
from pipelines.records import Message
from tests.pipelines.evaluation.abilities.speakers import Scripted

GREEDY = Sampling(n=1, temperature=0.0)


def conversations(*texts: str) -> list[list[Message]]:
    return [[Message(role="user", content=text)] for text in texts]


async def test_replies_come_in_order_and_a_prompt_without_room_has_none() -> None:
    speaker = Scripted(lambda text, i: None if text == "long" else f"{text} {i}")
    found = await ask_all(speaker, conversations("a", "long", "b"), Sampling(n=2, temperature=0.7))
    assert [[c.text for c in reply] for reply in found] == [["a 0", "a 1"], [], ["b 0", "b 1"]]
    assert await ask_all(speaker, [], GREEDY) == []


async def test_seeds_follow_content_and_not_place_and_repeated_questions_have_their_own() -> None:
    async def seeds(*texts: str, seed: int = 0) -> list[int]:
        speaker = Scripted(lambda text, i: text)
        await ask_all(speaker, conversations(*texts), GREEDY, seed=seed)
        return [asked[2] for asked in speaker.asked]

    first = await seeds("a", "b", "a")
    assert len(set(first)) == 3
    assert await seeds("b", "a") == [first[1], first[0]]
    assert await seeds("a", seed=1) != [first[0]]


async def test_requests_that_run_together_have_different_ids() -> None:
    speaker = Scripted(lambda text, i: text)
    await asyncio.gather(*(
        ask_all(speaker, conversations("a", "a", "b"), sampling) for sampling in (GREEDY, Sampling(n=4))
    ))
    assert len({asked[3] for asked in speaker.asked}) == 6


async def test_so_many_conversations_are_in_flight() -> None:
    speaker = Scripted(lambda text, i: text)
    await ask_all(speaker, conversations(*map(str, range(20))), GREEDY, concurrency=3)
    assert speaker.most == 3


async def test_a_model_that_is_down_ends_all_requests() -> None:
    class Down:
        cancelled = 0

        async def reply(self, messages: Any, *rest: Any) -> Any:
            if messages[0]["content"] == "b":
                raise RuntimeError("down")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    speaker = Down()
    with pytest.raises(RuntimeError, match="down"):
        await ask_all(speaker, conversations("a", "b", "c"), GREEDY)
    await asyncio.sleep(0)
    assert speaker.cancelled == 2
