"""Checkpoints are asked what the recipe asks, and counted right: speakers here know the answers, or the places."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.engine import Completion
from actors.speaker import PromptTooLong
from benchmarks import evaluation
from benchmarks.arithmetic import HARD, comparisons, labelled, problems
from benchmarks.evaluation import answer, ask, group_of, judge, request_of, trained
from pipelines.config import resolve
from pipelines.recipes import get_recipe

ROWS = labelled(comparisons(HARD, "test", 12, 0))


class Scripted:
    """A speaker whose n-th sample of a conversation is `say(text, n)`."""

    def __init__(self, say: Callable[[str, int], str]):
        self.say, self.asked = say, []

    async def reply(self, messages: Any, sampling: Any, seed: Any, request_id: str, version: Any) -> list[Completion]:
        self.asked.append((messages[0]["content"], sampling))
        texts = [self.say(messages[0]["content"], i) for i in range(sampling.n)]
        return [Completion(i, text, [1], "stop", seed, "") for i, text in enumerate(texts)]

    async def reply_with_verdict(self, *asked: Any) -> list[Completion]:
        return await self.reply(*asked[:-1])


def steps(name: str, *words: str) -> list[Any]:
    config = resolve(name, ["prompts=none", *words], "cpu")
    return get_recipe(name).steps(config.method, 0)


def numbers_in(text: str, tag: str) -> list[int]:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)
    return [int(n) for n in re.findall(r"\d+", found[1])] if found else []


async def test_answers_are_asked_by_the_recipe_s_prompt_and_counted_strictly() -> None:
    found = problems(HARD, "test", 30, 0)
    gold = {p.prompt: p.result for p in found}

    def say(text: str, index: int) -> str:
        asked = next(prompt for prompt in gold if prompt in text)
        place = list(gold).index(asked)
        if place < 10:
            return f"So it is.\nFinal answer: {gold[asked]}"
        if place < 20:
            return f"Final answer: {gold[asked]} of them" if index == 0 else f"Final answer: {gold[asked] + index % 2}"
        return "I do not know."

    speaker = Scripted(say)
    result = await answer(speaker, steps("irpo"), [group_of(p.row) for p in found], "Final answer: ", vote=True)
    assert (result["greedy"], result["format"], result["greedy_any_format"]) == (0.3333, 0.3333, 0.6667)
    assert result["majority_of_8"] == 0.3333  # of the second ten, 3 of 8 say the answer and 4 the next number
    assert result["points"] == [1.0] * 10 + [0.0] * 20
    text, sampling = speaker.asked[0]
    assert "step by step" in text
    assert (sampling.temperature, sampling.n) == (0.0, 1)
    assert {(s.n, s.temperature) for _, s in speaker.asked} == {(1, 0.0), (8, 0.8)}
    short = await answer(speaker, steps("irpo"), [group_of(p.row) for p in found[:2]], "Final answer: ", vote=False)
    assert "majority_of_8" not in short


async def test_a_judge_that_reads_is_right_in_both_orders() -> None:
    def say(text: str, index: int) -> str:
        first = numbers_in(text, "response_a")[:2]
        return "They differ.\n[[A]]" if first == numbers_in(text, "question") else "They differ.\n[[B]]"

    result = await judge(Scripted(say), steps("self_taught_evaluator"), [group_of(r) for r in ROWS], ROWS)
    assert result["accuracy"] == result["right_in_both_orders"] == result["readable"] == 1.0
    assert (result["first_place"], result["ties"], result["too_long"]) == (0.5, 0.0, 0)


@pytest.mark.parametrize(("verdict", "accuracy", "readable"), [("[[A]]", 0.5, 1.0), ("[[C]]", 0.0, 1.0), ("?", 0, 0)])
async def test_a_judge_of_places_a_judge_of_ties_and_a_mute_one(verdict: str, accuracy: float, readable: float) -> None:
    result = await judge(
        Scripted(lambda text, index: verdict), steps("self_taught_evaluator"), [group_of(r) for r in ROWS], ROWS
    )
    assert (result["accuracy"], result["readable"]) == (accuracy, readable)
    assert result["right_in_both_orders"] == 0.0


async def test_gradings_are_compared_and_equal_ones_are_worth_half() -> None:
    def say(text: str, index: int) -> str:
        right = numbers_in(text, "response")[:2] == numbers_in(text, "question")
        return f"As the criterion asks.\nScore: {5 if right else 1}"

    graded = await judge(Scripted(say), steps("self_rationalization"), [group_of(r) for r in ROWS], ROWS)
    assert graded["accuracy"] == 1.0
    same = await judge(
        Scripted(lambda text, index: "Score: 3"), steps("self_rationalization"), [group_of(r) for r in ROWS], ROWS
    )
    assert (same["accuracy"], same["right_in_both_orders"], same["ties"]) == (0.5, 0.0, 1.0)


async def test_rows_without_room_are_left_out_and_counted() -> None:
    class Full(Scripted):
        async def reply(
            self, messages: Any, sampling: Any, seed: Any, request_id: str, version: Any
        ) -> list[Completion]:
            if ROWS[0]["prompt"] in messages[0]["content"]:
                raise PromptTooLong("no room")
            return await super().reply(messages, sampling, seed, request_id, version)

    result = await judge(
        Full(lambda text, index: "[[A]]"), steps("self_taught_evaluator"), [group_of(r) for r in ROWS], ROWS
    )
    assert (result["too_long"], len(result["points"])) == (1, 11)


def test_a_request_travels_as_json_and_what_was_measured_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("irpo", ["prompts=none"], "cpu")
    request: dict[str, Any] = request_of(config, [{"prompt": "1 + 1?", "gold": "2"}], "Answer: ")
    request["checkpoints"] = {"v0": "folder"}
    ran = []

    def run(words: list[str], log: Path) -> None:
        ran.append(words)
        asked = json.loads(Path(words[1]).read_text())
        assert asked == request
        assert get_recipe(asked["recipe"]).settings.model_validate(asked["method"]) == config.method
        Path(words[2]).write_text('{"v0": {"greedy": 1.0}}')

    monkeypatch.setattr(evaluation, "command", run)
    for _ in range(2):
        assert ask(request, tmp_path, tmp_path / "log") == {"v0": {"greedy": 1.0}}
    assert [words[0] for words in ran] == ["benchmarks.evaluation"]


def test_an_iteration_without_training_keeps_the_version_before_it() -> None:
    made = [{"iteration": 0, "training": {"skipped": True}, "checkpoint": "a"},
            {"iteration": 1, "training": {"steps": 3}, "checkpoint": "b"},
            {"iteration": 2, "training": {"skipped": True}, "checkpoint": "c"}]
    assert trained(made) == (["v0", "v2", "v2"], {"v2": "b"})
