import copy
import json
import random
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prompts import load
from pipelines.recipes import irpo
from pipelines.recipes.base import Context, SampleStep
from pipelines.recipes.self_motivated import HINTED, RECIPE, Settings, hint
from pipelines.records import Group
from pipelines.steps.answers import extract_answer, gives_away
from pipelines.steps.render import prompt_messages
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, run_recipe, sample

LEAKS = "Since the answer is C, the others are wrong.\nFinal answer: C"


def rationales(right: int, wrong: int, hinted: int = 0, prompt_id: str = "p", **other: Any) -> Group:
    """A prompt with gold answer 4: right, wrong and hinted (right) rationales."""
    names = [*(f"r{i}" for i in range(right)), *(f"w{i}" for i in range(wrong)), *(f"h{i}" for i in range(hinted))]
    samples = [
        sample(
            f"{prompt_id}-{name}", f"By way {name}.\nFinal answer: {14 if name[0] == 'w' else 4}", i,
            kind="hinted" if name[0] == "h" else "sample",
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    return group(prompt_id, samples=samples, **{"gold": "4", **other})


def context(iteration: int = 0) -> Context:
    return Context(0, "self_motivated", iteration)


def test_defaults_are_those_of_r6() -> None:
    assert RECIPE.training == irpo.TRAINING
    plain, hinted = RECIPE.steps(Settings(), 0)
    assert isinstance(plain, SampleStep) and isinstance(hinted, SampleStep)
    assert (plain.sampling.n, plain.sampling.temperature, plain.template) == (8, 0.8, irpo.TEMPLATE)
    assert (hinted.kind, hinted.shown, hinted.role) == ("hinted", hint, "policy")
    assert len(RECIPE.steps(Settings.model_validate({"hinted": None}), 0)) == 1


def test_self_motivated_ranking_pairs_fixture() -> None:
    (read,), pairs = run_recipe("self_motivated", [rationales(3, 2)])
    sides = {(p["chosen_from"][2:], p["rejected_from"][2:]) for p in pairs}
    assert len(pairs) == 6 and sides == set(product(("r0", "r1", "r2"), ("w0", "w1")))
    assert read["dropped"] is None and {p["weight"] for p in pairs} == {1.0}


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (group("p", gold="4"), "no_samples"),
        (rationales(0, 3), "no_correct_sample"),
        (rationales(3, 0), "no_wrong_sample"),
        (rationales(2, 2, 1, gold=None), "no_gold_answer"),
        (rationales(2, 2, dropped="prompt_too_long"), "prompt_too_long"),
    ],
)
def test_dropped_prompts_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("self_motivated", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


def test_the_answer_is_shown_only_where_nothing_was_right() -> None:
    assert hint(rationales(0, 3), context()) == [{"key": "hint", "answer": "4"}]
    assert hint(rationales(0, 0), context()) == [{"key": "hint", "answer": "4"}]
    assert hint(rationales(1, 3), context()) == []
    assert hint(rationales(0, 3, gold=None), context()) == []
    chain = rationales(0, 1, gold="They are 2 and 2.\n#### 4")
    (shown,) = hint(chain, context())
    text = prompt_messages(chain, "rationale_hint", **shown)[-1]["content"]
    assert "They are 2 and 2" not in text and chain["messages"][-1]["content"] in text
    assert text.count("\n4\n") == 1


def test_the_hinted_prompt_ends_like_the_plain_one_and_echoing_it_answers_nothing() -> None:
    text = load("rationale_hint").render(prompt="PROMPT", answer="ANSWER")
    assert (text.count("PROMPT"), text.count("ANSWER")) == (1, 1)
    assert text.splitlines()[-1] == load(irpo.TEMPLATE).render(prompt="PROMPT").splitlines()[-1]
    assert extract_answer(text) is None


def test_hinted_rationales_are_learned_without_the_hint() -> None:
    planted = rationales(0, 2, 2)
    planted["samples"].append(sample("p-x", "Even so.\nFinal answer: 9", 9, kind="hinted"))
    (read,), pairs = run_recipe("self_motivated", [planted])
    assert [s["score"] for s in read["samples"]] == [0.0, 0.0, HINTED, HINTED, None]
    assert len(pairs) == 4 and {(p["chosen_score"], p["rejected_score"]) for p in pairs} == {(HINTED, 0.0)}
    plain = prompt_messages(planted, irpo.TEMPLATE)
    assert all(p["messages"] == plain and p["chosen_from"][2] == "h" for p in pairs)


def test_a_rationale_that_gives_its_answer_away_is_not_learned() -> None:
    planted = group("p", gold="C", samples=[
        sample("leak", LEAKS, 0), sample("hinted", LEAKS.replace("Since", "As"), 1, kind="hinted"),
        sample("right", "Iron rusts and gold does not.\nFinal answer: C", 2), sample("wrong", "Final answer: B", 3),
    ])  # fmt: skip
    (read,), pairs = run_recipe("self_motivated", [planted])
    assert [s["score"] for s in read["samples"]] == [None, None, 1.0, 0.0]
    assert [(p["chosen_from"], p["rejected_from"]) for p in pairs] == [("right", "wrong")]


@pytest.mark.parametrize(
    ("text", "gold", "leaks"),
    [
        (LEAKS, "C", True),
        ("The answer is C because of x.\nFinal answer: C", "C", True),
        ("Option A is wrong. Option C fits.\nFinal answer: C", "C", True),
        ("Option A is wrong, and so is option B.\nFinal answer: C", "C", False),
        ("Given that the correct answer is (c), we see why.\nFinal answer: (c)", "c", True),
        ("The answer is a number, and A is one.\nFinal answer: A", "A", False),
        ("2 + 6 = 8.\nFinal answer: 8", "8", False),
        ("2 + 6 = 8.\nSo the answer is 8.\nFinal answer: 8", "8", False),
        ("The answer is 8, so 2 and 6 must be added.\nFinal answer: 8", "8", True),
        ("The answer must be 1,000. Twice 500 is that.\n#### 1000", "1000", True),
        ("The answer is 80 or 8.5, one thinks. No: 5 + 3.\nFinal answer: 8", "8", False),
        ("The answer is **Paris**, as it is the largest.\nFinal answer: paris", "paris", True),
        ("As the hint says, add them: 2 + 6.\nFinal answer: 8", "8", True),
        ("Final answer: 8", "8", False),
        ("", "8", False),
    ],
)
def test_leaked_answers(text: str, gold: str, leaks: bool) -> None:
    assert gives_away(text, gold) == leaks


@given(st.text(max_size=60), st.text("()[]{}*+?\\.^$|ab1", min_size=1, max_size=6))
def test_any_answer_can_be_looked_for(text: str, gold: str) -> None:
    assert gives_away(f"{text}\nFinal answer: {gold}", gold) in (True, False)


def test_looking_for_leaks_is_linear() -> None:
    for part in ("the answer is ", "answer ", " \n", "option (", "so the answer is: ", "\n "):
        gives_away(part * 100_000 + "\nFinal answer: 4", "4")  # a quadratic one takes minutes


def test_sft_comes_first_where_asked() -> None:
    asked = Settings(sft_iterations=1)
    assert [RECIPE.training_at(asked, t) for t in range(3)] == [{"loss": "sft"}, {}, {}]
    assert RECIPE.training_at(Settings(), 0) == {}
    TrainingConfig(**{**RECIPE.training, **RECIPE.training_at(asked, 0)})
    planted = rationales(3, 0)
    (read,), rows = run_recipe("self_motivated", [planted], sft_iterations=1)
    assert [(r["kind"], r["chosen_from"], r["rejected_text"], r["rejected_ids"]) for r in rows] == [
        ("actor", f"p-r{i}", "", []) for i in range(3)
    ]
    assert read["dropped"] is None and rows[0]["messages"] == prompt_messages(planted, irpo.TEMPLATE)
    (read,), none = run_recipe("self_motivated", [rationales(0, 3)], sft_iterations=1)
    assert (none, read["dropped"]) == ([], "no_correct_sample")
    _, pairs = run_recipe("self_motivated", [rationales(3, 2)], iteration=1, sft_iterations=1)
    assert [p["kind"] for p in pairs] == ["actor"] * 6


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.randoms())
def test_d2_d4_every_better_rationale_meets_every_wrong_one(
    right: int, wrong: int, hinted: int, shuffler: random.Random
) -> None:
    planted = rationales(right, wrong, hinted)
    (_,), pairs = run_recipe("self_motivated", [planted])
    assert len({p["pair_id"] for p in pairs}) == len(pairs) == (right + hinted) * wrong
    for pair in pairs:
        assert (pair["chosen_score"] or 0) > (pair["rejected_score"] or 0) == 0
        assert pair["chosen_text"] != pair["rejected_text"]
    mixed = copy.deepcopy(planted)
    shuffler.shuffle(mixed["samples"])
    assert run_recipe("self_motivated", [mixed])[1] == pairs


def test_d10_reading_and_selecting_twice_is_the_same() -> None:
    planted = [rationales(3, 2), rationales(0, 2, 2, "q"), rationales(1, 0, prompt_id="r")]
    before = json.dumps(planted)
    first, pairs = run_recipe("self_motivated", planted)
    assert json.dumps(planted) == before
    assert run_recipe("self_motivated", first) == (first, pairs)
