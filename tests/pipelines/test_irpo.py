import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.recipes.base import SampleStep
from pipelines.recipes.irpo import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.render import prompt_messages
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, noise, run_recipe, sample


def chains(right: int, wrong: int, prompt_id: str = "p", **other: Any) -> Group:
    """A prompt with gold answer 4, first its right and then its wrong chains."""
    samples = [sample(f"{prompt_id}-c{i}", f"Way {i}.\nFinal answer: 4", i) for i in range(1, right + 1)]
    samples += [
        sample(f"{prompt_id}-w{i}", f"Way {i}.\nFinal answer: {i + 10}", right + i) for i in range(1, wrong + 1)
    ]
    return group(prompt_id, gold="4", samples=samples, **other)


def test_paper_defaults() -> None:
    paper = Settings()
    assert (paper.samples.n, paper.samples.top_p, paper.samples.max_tokens) == (30, 1.0, 1024)
    assert (paper.pairs_per_prompt, paper.use_gold_chain, RECIPE.iterations) == (10, True, 4)
    steps = [RECIPE.steps(paper, t) for t in range(5)]
    assert [len(s) for s in steps] == [1] * 5
    sampling = [s[0].sampling for s in steps if isinstance(s[0], SampleStep)]
    assert [s.temperature for s in sampling] == [0.8, 0.8, 1.3, 1.3, 1.3]
    assert {(s.n, s.top_p) for s in sampling} == {(30, 1.0)}
    training = RECIPE.training
    assert (training["beta"], training["learning_rate"], training["batch_pairs"]) == (0.1, 7e-7, 16)
    assert TrainingConfig(**training).losses == {"dpo": 1.0, "nll": 1.0}


def test_one_changed_value_keeps_the_papers_others() -> None:
    changed = Settings.model_validate({"samples": {"n": 4}, "temperatures": 1.0})
    assert (changed.samples.n, changed.samples.max_tokens) == (4, 1024)
    (step,) = RECIPE.steps(changed, 3)
    assert isinstance(step, SampleStep) and step.sampling.temperature == 1.0


def test_r6_parallel_walk_fixture() -> None:
    _, pairs = run_recipe("irpo", [chains(3, 2)], pairs_per_prompt=5)
    assert [(p["chosen_from"][2:], p["rejected_from"][2:]) for p in pairs] == [
        ("c1", "w1"),
        ("c2", "w2"),
        ("c3", "w1"),
        ("c1", "w2"),
        ("c2", "w1"),
    ]


def test_r6_no_wrong_chain_makes_no_pair() -> None:
    (read,), pairs = run_recipe("irpo", [chains(5, 0)])
    assert (pairs, read["dropped"]) == ([], "no_wrong_sample")


def test_r6_one_gold_chain_and_29_wrong_make_ten_pairs() -> None:
    planted = chains(0, 29, meta=json.dumps({"gold_chain": "By hand.\n#### 4"}))
    (read,), pairs = run_recipe("irpo", [planted])
    assert len(pairs) == 10 and len({p["rejected_from"] for p in pairs}) == 10
    assert {(p["chosen_text"], tuple(p["chosen_ids"])) for p in pairs} == {("By hand.\n#### 4", ())}
    assert [s["kind"] for s in read["samples"]].count("gold_chain") == 1
    (skipped,), none = run_recipe("irpo", [planted], use_gold_chain=False)
    assert (none, skipped["dropped"]) == ([], "no_correct_sample")
    (_,), none = run_recipe("irpo", [read], use_gold_chain=False)
    assert none == []  # a recorded gold chain is left out too


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (group("p", gold="4"), "no_samples"),
        (chains(0, 3), "no_correct_sample"),
        (chains(3, 0), "no_wrong_sample"),
        ({**chains(2, 2), "gold": None}, "no_gold_answer"),
        ({**chains(2, 2), "dropped": "prompt_too_long"}, "prompt_too_long"),
    ],
)
def test_dropped_prompts_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("irpo", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


@pytest.mark.parametrize("gold", [None, "", " \n"])
def test_without_a_gold_answer_a_gold_chain_makes_no_pair(gold: str | None) -> None:
    recorded = sample("p-g", "By hand.\n#### 4", 9, kind="gold_chain", token_ids=[])
    for more, chain in ([], json.dumps({"gold_chain": "By hand.\n#### 4"})), ([recorded], "{}"):
        planted = chains(2, 2, meta=chain)
        planted["samples"] += more
        planted["gold"] = gold
        (read,), pairs = run_recipe("irpo", [planted])
        assert (pairs, read["dropped"]) == ([], "no_gold_answer")
        assert {s["score"] for s in read["samples"]} == {None}


@pytest.mark.parametrize("token_ids", [[], [2]])
def test_an_empty_chain_is_in_no_pair(token_ids: list[int]) -> None:
    empty = sample("p-e", "", 0, token_ids=token_ids, n_tokens=len(token_ids))
    planted = chains(2, 1)
    planted["samples"].append(empty)
    (_,), pairs = run_recipe("irpo", [planted])
    assert {p["rejected_from"] for p in pairs} == {"p-w1"}
    (read,), pairs = run_recipe("irpo", [{**chains(2, 0), "samples": [*chains(2, 0)["samples"], empty]}])
    assert (pairs, read["dropped"]) == ([], "no_wrong_sample")
    (read,), pairs = run_recipe("irpo", [group("p", gold="4", samples=[empty])])
    assert (pairs, read["dropped"]) == ([], "no_samples")


def test_chains_recorded_without_token_ids_are_paired() -> None:
    planted = chains(2, 2)
    _, pairs = run_recipe("irpo", [planted])
    planted["samples"] = [{**s, "token_ids": []} for s in planted["samples"]]
    _, again = run_recipe("irpo", [planted])
    assert [p["pair_id"] for p in again] == [p["pair_id"] for p in pairs] != []


def test_a_chain_without_an_answer_is_wrong_and_can_be_rejected() -> None:
    planted = chains(1, 0)
    planted["samples"].append(sample("p-x", "I do not know.", 5, finish_reason="length"))
    (read,), (pair,) = run_recipe("irpo", [planted])
    assert pair["rejected_from"] == "p-x"
    assert [(s["answer"], s["score"]) for s in read["samples"]] == [("4", 1.0), (None, 0.0)]


def test_strictly_read_a_right_answer_in_another_form_is_wrong() -> None:
    texts = ["2 + 2\nFinal answer: 4", "2 + 2\nFinal Answer: 4\n\nFinal Answer: 4", "Final answer: 4."]
    planted = group("p", gold="4", samples=[sample(str(i), t, i) for i, t in enumerate(texts)])
    (read,), pairs = run_recipe("irpo", [planted], strict_answers=True)
    assert [s["score"] for s in read["samples"]] == [1.0, 0.0, 0.0]
    assert {(p["chosen_from"], p["rejected_from"]) for p in pairs} == {("0", "1"), ("0", "2")}
    (read,), pairs = run_recipe("irpo", [planted])
    assert ([s["score"] for s in read["samples"]], pairs) == ([1.0, 1.0, 1.0], [])


def test_answers_are_compared_as_mathematics() -> None:
    texts = ["Final answer: $4.00", "\\boxed{\\frac{8}{2}}", "#### 4", "Final answer: 4 or 5", "Final answer: 44"]
    planted = group("p", gold="So it is\n#### 4", samples=[sample(str(i), t, i) for i, t in enumerate(texts)])
    (read,), _ = run_recipe("irpo", [planted])
    assert [s["score"] for s in read["samples"]] == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_pairs_hold_the_prompt_the_policy_saw() -> None:
    planted = chains(1, 1)
    _, (pair,) = run_recipe("irpo", [planted], iteration=2)
    assert pair["messages"] == prompt_messages(planted, "irpo_question") != planted["messages"]
    assert (pair["kind"], pair["iteration"], pair["weight"]) == ("actor", 2, 1.0)
    assert (pair["chosen_score"], pair["rejected_score"]) == (1.0, 0.0)
    assert (pair["chosen_ids"], pair["rejected_ids"]) == tuple(s["token_ids"] for s in planted["samples"])


def test_repeated_chains_make_no_repeated_pairs() -> None:
    planted = chains(2, 2)
    planted["samples"] += [
        {**s, "sample_id": s["sample_id"] + "'", "index": s["index"] + 9} for s in planted["samples"]
    ]
    _, pairs = run_recipe("irpo", [planted])
    assert len({(p["chosen_text"], p["rejected_text"]) for p in pairs}) == len(pairs) == 2


def test_responses_of_the_row_are_no_chains_of_the_policy() -> None:
    planted = chains(1, 1)
    planted["samples"].append(sample("given", "Another.\nFinal answer: 7", 9, kind="given"))
    _, pairs = run_recipe("irpo", [planted])
    assert [(p["chosen_from"], p["rejected_from"]) for p in pairs] == [("p-c1", "p-w1")]


def test_stale_fields_are_read_again() -> None:
    planted = chains(1, 1)
    planted["samples"][0].update(answer="99", score=0.0)
    planted["samples"][1].update(answer="4", score=1.0)
    planted["dropped"] = "no_wrong_sample"
    (read,), (pair,) = run_recipe("irpo", [planted])
    assert (pair["chosen_from"], pair["rejected_from"], read["dropped"]) == ("p-c1", "p-w1", None)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 12), st.randoms())
def test_d2_d4_pairs_are_distinct_ordered_and_independent_of_arrival(right: int, wrong: int, k: int, random) -> None:
    planted = chains(right, wrong, meta=json.dumps({"gold_chain": "Hand.\n#### 4"}))
    _, pairs = run_recipe("irpo", [planted], pairs_per_prompt=k)
    assert len({p["pair_id"] for p in pairs}) == len(pairs) <= k
    assert all(p["chosen_text"] != p["rejected_text"] for p in pairs)
    assert bool(pairs) == bool(wrong)
    mixed = copy.deepcopy(planted)
    random.shuffle(mixed["samples"])
    assert run_recipe("irpo", [mixed], pairs_per_prompt=k)[1] == pairs


def test_d10_reading_and_selecting_twice_is_the_same() -> None:
    planted = [chains(3, 4, meta=json.dumps({"gold_chain": "Hand.\n#### 4"})), chains(0, 2, "q")]
    before = json.dumps(planted)
    first, pairs = run_recipe("irpo", planted)
    assert json.dumps(planted) == before
    assert run_recipe("irpo", first) == (first, pairs)


def test_e_a_noisy_policy_gives_right_chains_against_wrong_ones() -> None:
    groups = []
    for p in range(60):
        texts = [f"{j}.\nFinal answer: {4 if noise('policy', p, j) < 0.3 else 5}" for j in range(8)]
        groups.append(group(f"p{p}", gold="4", samples=[sample(f"{p}-{j}", t, j) for j, t in enumerate(texts)]))
    read, pairs = run_recipe("irpo", groups)
    assert all(p["chosen_text"].endswith(" 4") and p["rejected_text"].endswith(" 5") for p in pairs)
    undecided = sum(g["dropped"] in ("no_correct_sample", "no_wrong_sample") for g in read)
    assert undecided + len({p["prompt_id"] for p in pairs}) == 60
    assert undecided < 12  # 60 * (.7**8 + .3**8) = 3.5 expected
