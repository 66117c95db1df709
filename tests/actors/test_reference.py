"""The reference: whose tokens it scores, how often it asks, and what of it a pair keeps. The model is scripted."""

import asyncio
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.reference import Reference
from pipelines.records import Message, Pair, pairs_table
from pipelines.training.learner import has_reference

Call = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], str]


class ScriptedClient:
    """A pool whose log-probability of a token is its id, its place and the prompt's length in one number."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def score(
        self, prompt_ids: list[int], responses: list[list[int]], version: str
    ) -> tuple[list[list[float]], str]:
        self.calls.append((tuple(prompt_ids), tuple(map(tuple, responses)), version))
        await asyncio.sleep(0.001 * (len(prompt_ids) % 3))  # replies come in another order than questions
        return [expected(prompt_ids, response) for response in responses], f"{version} as served"


class ScriptedChat:
    """One token a character."""

    template_hash = "the template"

    def render(self, messages: list[Message]) -> list[int]:
        return [ord(c) for message in messages for c in message["content"]]

    def turn(self, text: str) -> list[int]:
        return [*map(ord, text), 0]


def expected(prompt_ids: list[int], response: list[int]) -> list[float]:
    return [-token - place / 8 - len(prompt_ids) / 64 for place, token in enumerate(response)]


def pair(question: str, chosen: list[int] | str, rejected: list[int] | str, name: str = "p") -> Pair:
    """Sides are an engine's ids, or a text that no engine made."""
    sides: dict[str, Any] = {}
    for side, given_side in (("chosen", chosen), ("rejected", rejected)):
        text = given_side if isinstance(given_side, str) else f"text of {given_side}" if given_side else ""
        sides |= {f"{side}_text": text, f"{side}_ids": [] if isinstance(given_side, str) else given_side}
    made: Any = {"pair_id": name, "messages": [{"role": "user", "content": question}], "prompt_ids": [], **sides}
    return made


async def scored(pairs: list[Pair]) -> tuple[list[Pair], list[Call]]:
    client: Any = ScriptedClient()
    chat: Any = ScriptedChat()
    return await Reference(client, chat).score(pairs, "v3"), client.calls


async def test_every_token_of_both_sides_is_scored():
    given_pair = pair("hi", [5, 6, 7], [8])
    ((made,), calls) = await scored([given_pair])
    assert calls == [((104, 105), ((5, 6, 7), (8,)), "v3")]
    assert (made["prompt_ids"], made["chosen_ids"], made["rejected_ids"]) == ([104, 105], [5, 6, 7], [8])
    assert made["ref_logps_chosen"] == expected([104, 105], [5, 6, 7])
    assert made["ref_logps_rejected"] == expected([104, 105], [8])
    assert made["ref_logp_chosen"] == math.fsum(made["ref_logps_chosen"] or [])
    assert (made["ref_logp_rejected"], made["ref_version"]) == (expected([104, 105], [8])[0], "v3 as served")
    assert made["template_hash"] == "the template"
    assert given_pair["prompt_ids"] == [] and "ref_version" not in given_pair  # the pair that was given is as it was


async def test_a_prompt_is_asked_for_once_with_each_of_its_sides_once():
    pairs = [pair("a", [1], [2], "0"), pair("bb", [1], [3], "1"), pair("a", [2], [4, 4], "2"), pair("a", [1], [2], "3")]
    made, calls = await scored(pairs)
    assert sorted(calls) == [((97,), ((1,), (2,), (4, 4)), "v3"), ((98, 98), ((1,), (3,)), "v3")]
    assert [p["pair_id"] for p in made] == ["0", "1", "2", "3"]
    assert made[0]["ref_logps_chosen"] != made[1]["ref_logps_chosen"]  # the same side after another prompt


async def test_texts_that_no_engine_made_are_turns_of_the_chat():
    made, calls = await scored([pair("q", "gold", [7, 8]), pair("q", [5], "no")])
    assert made[0]["chosen_ids"] == [*map(ord, "gold"), 0]
    assert made[1]["rejected_ids"] == [*map(ord, "no"), 0]
    assert made[0]["rejected_ids"] == [7, 8]
    assert calls[0][1] == ((*map(ord, "gold"), 0), (7, 8), (5,), (*map(ord, "no"), 0))


async def test_a_row_without_a_rejected_side_stays_without():
    ((row, both), calls) = await scored([pair("q", [5, 6], ""), pair("q", [5, 6], [7])])
    assert calls[0][1] == ((5, 6), (7,))
    assert (row["rejected_ids"], row["ref_logps_rejected"], row["ref_logp_rejected"]) == ([], [], 0.0)
    assert both["ref_logps_rejected"] == expected([113], [7])
    assert has_reference(row) and has_reference(both)


async def test_a_row_with_two_views_is_of_a_digits_token_alone(chat):
    """Both prompts are rendered by the chat format, and the end of a turn is no part of the label."""
    teacher, student = ([Message(role="user", content=text)] for text in ("With it.", "Without."))
    row: Any = {**pair("q", "7", ""), "messages": teacher, "student_messages": student}
    made = Reference(ScriptedClient(), chat).tokenised(row)  # ty: ignore[invalid-argument-type]
    assert (made["prompt_ids"], made["student_ids"]) == (chat.render(teacher), chat.render(student))
    assert made["digit_ids"] == [chat.encode(digit)[0] for digit in "0123456789"]
    assert made["chosen_ids"] == chat.encode("7")
    assert made["rejected_ids"] == []
    (stored,) = pairs_table([made]).to_pylist()
    assert (stored["student_messages"], stored["digit_ids"]) == (student, made["digit_ids"])


SIDES = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "bb", "ccc"]), SIDES, SIDES | st.just("")), max_size=6))
def test_every_pair_gets_its_own_in_its_place_and_keeps_it_in_a_file(rows):
    pairs = [pair(question, chosen, rejected, str(i)) for i, (question, chosen, rejected) in enumerate(rows)]
    made, calls = asyncio.run(scored(pairs))
    assert len(calls) == len({question for question, _, _ in rows})
    stored = pairs_table(made).to_pylist()
    for number, (row, (question, chosen, rejected)) in enumerate(zip(stored, rows, strict=True)):
        prompt = [ord(c) for c in question]
        assert (row["pair_id"], row["prompt_ids"]) == (str(number), prompt)
        assert row["ref_logps_chosen"] == expected(prompt, chosen)  # exact in 32 bits
        assert row["ref_logps_rejected"] == (expected(prompt, list(rejected)) if rejected else [])
        assert has_reference(row)
