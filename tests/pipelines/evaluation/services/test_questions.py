"""Questions to a judge: equal seeds for equal questions, a status for what cannot be read, and form where asked."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.engine import Completion, Request
from pipelines.evaluation.services.questions import Answer, Asker, AskingSettings, as_text
from tests.oracles import CHAT, VERSION
from tests.pipelines.evaluation.services.told import CUT, Told, judging


def ask(
    what: Callable[[Asker], Coroutine[Any, Any, Any]], reply: Callable[[str, int], str], room: int = 10**6,
    **settings: Any,
) -> tuple[Any, Told]:
    """What an asker made of the replies, and the engine behind it."""
    judge, engine = judging(reply, room)
    return asyncio.run(what(Asker(judge, "test", AskingSettings.model_validate(settings)))), engine


def test_replies_are_read_and_those_that_were_cut_off_too() -> None:
    found, _ = ask(
        lambda asker: asker.read("reference_answer", as_text, {"prompt": "q"}, n=3),
        lambda text, i: ["one", " ", f"thr{CUT}"][i],
    )
    assert found == [Answer("one", "ok", "one"), Answer(None, "missing", " "), Answer(None, "truncated", "thr")]


def test_the_same_question_has_the_same_seed_and_an_id_of_its_own() -> None:
    async def four(asker: Asker) -> None:
        for prompt, attempt in (("q", 0), ("q", 0), ("q", 1), ("r", 0)):
            await asker.read("reference_answer", as_text, {"prompt": prompt}, attempt)

    _, engine = ask(four, lambda text, i: "x")
    first, again, retried, other = (request.seed for request in engine.requests)
    assert first == again and len({first, retried, other}) == 3
    assert len({request.request_id for request in engine.requests}) == 4
    _, elsewhere = ask(four, lambda text, i: "x", seed=1)
    assert elsewhere.requests[0].seed != first


def test_a_judgement_is_read_by_its_protocol() -> None:
    found, engine = ask(
        lambda asker: asker.judge("likert", "verdict_likert", "q", "r", meta={"criterion": "C"}),
        lambda text, i: "Score: 4", max_tokens=7, temperature=0.5,
    )
    assert found == Answer(4.0, "ok", "Score: 4")
    assert engine.requests[0].max_tokens == 7 and engine.requests[0].temperature == 0.5
    assert "Criterion: C" in engine.asked[0]


@pytest.mark.parametrize("judgement", [True, False])
def test_a_prompt_without_room_for_a_reply_is_too_long(judgement: bool) -> None:
    async def one(asker: Asker) -> Any:
        if judgement:
            return [await asker.judge("likert", "verdict_likert", "q", "r")]
        return await asker.read("reference_answer", as_text, {"prompt": "q"})

    found, engine = ask(one, lambda text, i: "x", room=20)
    assert found == [Answer(None, "prompt_too_long", "")] and not engine.asked


def test_structured_judgements_always_have_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    async def generate(self: Told, request: Request) -> list[Completion]:
        said = request.structured["choice"][1] if request.structured else "I cannot say."
        return [Completion(0, said, CHAT.turn(said), "stop", request.seed, VERSION)]

    monkeypatch.setattr(Told, "generate", generate)
    found, _ = ask(lambda asker: asker.judge("claim", "claim_recall", "", "c", meta={"critique": "x"}),
                   lambda text, i: "", structured=True)  # fmt: skip
    assert (found.value, found.status) == (0.0, "ok") and found.text.endswith("The claim is false")
