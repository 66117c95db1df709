"""New prompts: which examples are shown, what is read from a reply, and what counts as new."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import prompts
from pipelines.config import Sampling
from pipelines.recipes.base import Context, NewPrompts
from pipelines.records import Group, new_group
from pipelines.steps.new_prompts import (
    Known,
    generation_report,
    kept_prompts,
    prompt_requests,
    read_prompt,
    read_replies,
    rouge_l,
    words,
)
from tests.pipelines.planted import sample

CONTEXT = Context(3, "scpo", 1)
NEW = NewPrompts(Sampling(n=1), "examples", shots=3, count=4, generated_shots=1)
WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@pytest.fixture(autouse=True)
def template(monkeypatch, tmp_path):
    (tmp_path / "examples.jinja").write_text("{% for text in examples %}[{{ text }}]{% endfor %}")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.load.cache_clear()
    yield
    prompts.load.cache_clear()


def pool(name: str, size: int) -> list[Group]:
    return [new_group([{"role": "user", "content": f"{name} {i}"}]) for i in range(size)]


def answered(*texts: str, **other: Any) -> list[Group]:
    requests = prompt_requests(NEW, pool("seed", 5), [], CONTEXT, range(len(texts)))
    replies = zip(requests, texts, strict=True)
    return [Group(**{**r, "samples": [sample(f"s{i}", text, **other)]}) for i, (r, text) in enumerate(replies)]


def reasons(*texts: str, known: tuple[str, ...] = (), **other: Any) -> list[str | None]:
    return [reply["dropped"] for reply in read_replies(answered(*texts, **other), known, NEW)]


# ---- requests


def test_every_request_shows_different_seeds_and_a_generated_prompt_where_there_is_one():
    seeds, generated = pool("seed", 9), pool("made", 4)
    for request in prompt_requests(NEW, seeds, generated, CONTEXT, range(30)):
        shown = request["messages"][0]["content"].strip("[]").split("][")
        assert [text.split()[0] for text in shown] == ["seed", "seed", "made"]
        assert len(set(shown)) == 3
        by_id = {group["prompt_id"]: group["messages"][0]["content"] for group in seeds + generated}
        assert [by_id[shot] for shot in json.loads(request["meta"])["shots"]] == shown
        assert request["iteration"] == 1
    (few,) = prompt_requests(NEW, pool("seed", 2), [], CONTEXT, range(1))
    assert len(json.loads(few["meta"])["shots"]) == 2


def test_requests_are_the_same_for_the_same_place_whatever_the_order_of_the_pool():
    seeds = pool("seed", 20)
    first = prompt_requests(NEW, seeds, [], CONTEXT, range(10))
    assert first[4:7] == prompt_requests(NEW, seeds[::-1], [], CONTEXT, range(4, 7))
    assert len({request["prompt_id"] for request in first}) == 10
    assert len({request["messages"][0]["content"] for request in first}) > 5
    for other in (Context(4, "scpo", 1), Context(3, "scpo", 2), Context(3, "tpo", 1)):
        ids = {request["prompt_id"] for request in prompt_requests(NEW, seeds, [], other, range(10))}
        assert ids.isdisjoint(request["prompt_id"] for request in first)


# ---- replies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 2 + 2?", "What is 2 + 2?"),
        ("  Question: What is 2 + 2?\n", "What is 2 + 2?"),
        ("Here is a new one.\n\n**Problem 5:** Tom has 3 eggs.\nHow many?", "Tom has 3 eggs.\nHow many?"),
        ("Question: one\nQuestion: two", "one"),
        ("Tom has 3 eggs.\nAnswer: 3", "Tom has 3 eggs."),
        ("New question 12: Why?\n\nSolution: because", "Why?"),
        ("```text\nName a fruit.\n```", "Name a fruit."),
        ('"Name a fruit."', "Name a fruit."),
        ('"Name" a "fruit"', '"Name" a "fruit"'),
        ("The question: is it late?", "The question: is it late?"),
        ("Sure!\n<problem>\nTom has 3 eggs.\n</problem>\n<problem>two</problem>", "Tom has 3 eggs."),
        ("<Task>Name a fruit.", "Name a fruit."),
        ("Is <b>this</b> bold?", "Is <b>this</b> bold?"),
        ("Answer: 5", None),
        (" \n", None),
        ('""', None),
    ],
)
def test_what_is_read_from_a_reply(text, expected):
    assert read_prompt(text) == expected


def test_why_a_reply_is_no_new_prompt():
    known = ("How many eggs does Tom have now?",)
    assert reasons("Name a red fruit.", "Name a red fruit.", "Hi!", "word " * 151, "") == [
        None, "repeated", "too_short", "too_long", "no_prompt",
    ]
    assert reasons("How many eggs does Tom have today?", known[0] + " ", known=known) == ["too_similar", "repeated"]
    assert reasons("A good question to ask", finish_reason="length") == ["truncated"]
    assert reasons("half of \ud800 a character") == ["unusable_text"]
    unwanted = NewPrompts(Sampling(), "examples", 3, 4, without_words=("Image",))
    asked = read_replies(answered("Describe the image for me.", "Imagine a long walk."), (), unwanted)
    assert [reply["dropped"] for reply in asked] == ["unwanted_word", None]


def test_a_reason_of_the_stage_stays_and_an_earlier_reading_does_not():
    first, second, third = answered("Name a fruit now.", "Name an animal now.", "Name a stone.")
    stopped = Group(**{**first, "samples": [], "dropped": "prompt_too_long"})
    stale = Group(**{**second, "dropped": "too_similar"})
    silent = Group(**{**third, "samples": []})
    read = read_replies([stopped, stale, silent], (), NEW)
    assert [reply["dropped"] for reply in read] == ["prompt_too_long", None, "no_prompt"]
    assert read_replies(read, (), NEW) == read


def test_replies_are_read_by_number_whoever_came_first():
    texts = ["Name a red fruit.", "Name a red stone.", "Where do whales sleep?", "Where do whales sleep at night?"]
    replies = answered(*texts)
    read = read_replies(replies, (), NEW)
    assert [reply["dropped"] for reply in read] == [None, "too_similar", None, "too_similar"]
    for shuffled in range(5):
        other = random.Random(shuffled).sample(replies, len(replies))
        assert read_replies(other, (), NEW) == read
    kept = kept_prompts(read[::-1])
    assert [group["messages"][0]["content"] for group in kept] == [texts[0], texts[2]]
    assert [json.loads(group["meta"])["generated"] for group in kept] == [read[0]["prompt_id"], read[2]["prompt_id"]]
    assert {group["iteration"] for group in kept} == {1}
    assert generation_report(read) == {"asked": 4, "kept": 2, "dropped": {"too_similar": 2}}


# ---- similarity


def test_rouge_l_fixture():
    """Lin 2004: common subsequence "police the gunman" of "police killed the gunman" and "police kill the gunman"."""
    reference = words("police killed the gunman")
    assert rouge_l(reference, words("police kill the gunman")) == 0.75
    assert rouge_l(reference, words("the gunman kill police")) == 0.5
    assert rouge_l([], ["a"]) == rouge_l([], []) == 0.0


def slow_common_length(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(WORDS, WORDS)
def test_rouge_l_is_that_of_the_whole_table(a, b):
    expected = 2 * slow_common_length(a, b) / (len(a) + len(b)) if a and b else 0.0
    assert rouge_l(a, b) == expected == rouge_l(b, a)


@given(WORDS, WORDS, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_the_bounds_change_no_outcome(a, b, limit):
    text, other = " ".join(a), " ".join(b)
    expected = "repeated" if text == other else "too_similar" if rouge_l(a, b) > limit else None
    assert Known([other]).why_not(text, limit) == expected


def test_words_of_any_script():
    assert words("Don't STOP, naïve 3.5!") == ["don", "t", "stop", "naïve", "3", "5"]
    assert words("今日は何をabcしますか") == ["今", "日", "は", "何", "を", "abc", "し", "ま", "す", "か"]
