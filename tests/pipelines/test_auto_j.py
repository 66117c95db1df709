import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.choice_verdicts import parse_decision
from pipelines.prompts.scenarios import scenarios
from pipelines.recipes.auto_j import RECIPE, Settings
from pipelines.recipes.base import JudgeStep
from pipelines.records import Group, Judgement, Pair
from pipelines.steps.render import judge_messages, sample_by_id
from pipelines.steps.taught import swap_mentions
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, judgement, run_recipe, sample

DECISIONS = {"1": "Response 1", "2": "Response 2", "T": "Tie"}


def decided(i: int, decision: str, order: int, prompt_id: str, text: str | None = None) -> Judgement:
    said = f"Response 1 is short and Response 2 is long. ({i})\nSo, the final decision is {DECISIONS[decision]}."
    return judgement(
        f"{prompt_id}-{order}{i}", "", text or said, i, order=order, sample_ids=[f"{prompt_id}-a", f"{prompt_id}-b"],
        weight_version="frozen",
    )  # fmt: skip


def compared(normal: str, swapped: str = "", gold: str | None = "A", prompt_id: str = "p", **other: Any) -> Group:
    """Two given responses; a character for each decision of the teacher as shown: 1, 2 or T."""
    samples = [sample(f"{prompt_id}-{x}", f"response {x} to {prompt_id}", i, kind="given", token_ids=[])
               for i, x in enumerate("ab")]  # fmt: skip
    said = [decided(i, d, order, prompt_id) for order, ds in enumerate((normal, swapped)) for i, d in enumerate(ds)]
    return group(prompt_id, gold=gold, samples=samples, judgements=said, **other)


def rated(texts: list[str], gold: str | None = None, prompt_id: str = "p") -> Group:
    judgements = [judgement(f"{prompt_id}-j{i}", f"{prompt_id}-y", text, i) for i, text in enumerate(texts)]
    return group(prompt_id, gold=gold, samples=[sample(f"{prompt_id}-y", "r", kind="given")], judgements=judgements)


def shapes(pairs: list[Pair]) -> list[tuple[str, str, str]]:
    return [(p["kind"], p["chosen_from"], p["chosen_text"].rsplit(" is ", 1)[1].strip(".")) for p in pairs]


def test_paper_defaults() -> None:
    paper = Settings()
    assert (paper.judgements.n, paper.judgements.temperature, paper.judgements.max_tokens) == (1, 0.0, 1024)
    training = TrainingConfig(**RECIPE.training)
    assert training.losses == {"sft": 1.0}
    assert (training.learning_rate, training.batch_pairs, training.epochs) == (1e-5, 64, 5)
    assert not training.needs_pairs and not training.needs_reference
    steps = [s for s in RECIPE.steps(paper, 0) if isinstance(s, JudgeStep)]
    rows = {"A": ["decision"], "tie": ["decision"], "7": ["single"], None: ["single"], "the first": []}
    for gold, protocols in rows.items():
        assert [s.protocol for s in steps if s.only and s.only(group("p", gold=gold))] == protocols


def test_r10_filter_fixture() -> None:
    """A teacher that does not decide as the human did is dropped, however well its critique reads."""
    (read,), pairs = run_recipe("auto_j", [compared("2", "1")])
    assert (pairs, read["dropped"]) == ([], "teacher_disagrees")
    for label in ("A", "1", "Response 1"):
        assert run_recipe("auto_j", [compared("1", "2", label)])[1] == run_recipe("auto_j", [compared("1", "2")])[1]
    _, pairs = run_recipe("auto_j", [compared("1", "2")])
    assert shapes(pairs) == [("judge", "p-00", "Response 1"), ("judge", "p-10", "Response 2")]


def test_rows_ask_the_student_without_criteria_and_have_no_rejected_side() -> None:
    planted = compared("1", "2", meta=json.dumps({"scenario": "planning"}))
    _, pairs = run_recipe("auto_j", [planted])
    a, b = (sample_by_id(planted, f"p-{x}") for x in "ab")
    assert [p["messages"] for p in pairs] == [judge_messages("judge_decision", planted, *s) for s in ((a, b), (b, a))]
    criteria = [c.text for c in scenarios()["planning"].criteria]
    assert not any(text in p["messages"][0]["content"] for p in pairs for text in criteria)
    assert all(text in judge_messages("teacher_decision", planted, a, b)[0]["content"] for text in criteria)
    assert {(p["rejected_text"], tuple(p["rejected_ids"]), p["rejected_score"]) for p in pairs} == {("", (), None)}


def test_an_order_without_a_judgement_gets_a_swapped_copy() -> None:
    planted = compared("1")
    _, (own, copied) = run_recipe("auto_j", [planted])
    assert (copied["kind"], copied["chosen_ids"]) == ("swapped", []) and own["pair_id"] != copied["pair_id"]
    assert copied["chosen_text"].startswith("Response 2 is short and Response 1 is long.")
    assert parse_decision(copied["chosen_text"]).value == "B"
    a, b = (sample_by_id(planted, f"p-{x}") for x in "ab")
    assert copied["messages"] == judge_messages("judge_decision", planted, b, a)
    _, ties = run_recipe("auto_j", [compared("T", gold="tie")])
    assert [parse_decision(p["chosen_text"]).value for p in ties] == ["tie", "tie"]


def test_e_a_teacher_of_positions_makes_no_rows() -> None:
    rows = [compared("1", "1", gold, f"p{i}") for i, gold in enumerate(["A", "B", "tie"] * 4)]
    read, pairs = run_recipe("auto_j", rows)
    assert pairs == [] and {g["dropped"] for g in read} == {"teacher_disagrees"}


def test_ratings_are_kept_as_they_are_or_as_their_label_says() -> None:
    texts = ["It lacks an example.\nRating: [[6]]"]
    for gold in (None, "6"):
        _, (row,) = run_recipe("auto_j", [rated(texts, gold)])
        assert (row["kind"], row["chosen_text"], row["chosen_score"]) == ("judge", texts[0], 6.0)
        assert row["messages"] == judge_messages("judge_single", rated(texts), sample_by_id(rated(texts), "p-y"))
    (read,), pairs = run_recipe("auto_j", [rated(texts, "7")])
    assert (pairs, read["dropped"]) == ([], "teacher_disagrees")


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (compared("1", gold="the first"), "no_label"),
        (compared("1", gold="yes"), "no_label"),
        (compared(""), "no_readable_judgement"),
        (rated([]), "no_readable_judgement"),
        (rated(["Rating: [[11]]", "Rating: 3-4", 'It says "Rating: [[9]]"', "Rating: [[７]]"]),  # noqa: RUF001
         "no_readable_judgement"),
        ({**compared("1"), "dropped": "prompt_too_long"}, "prompt_too_long"),
    ],
)  # fmt: skip
def test_dropped_rows_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("auto_j", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


@pytest.mark.parametrize(("balance", "counts"), [(1, (2, 2, 2)), (2, (4, 4, 2)), (None, (6, 6, 2))])
def test_comparisons_are_balanced_over_labels_and_ratings_are_not(balance: float | None, counts: tuple) -> None:
    rows = [compared("1", "2", "A", f"a{i}") for i in range(4)] + [compared("2", "1", "B", f"b{i}") for i in range(2)]
    rows += [compared("T", "T", "tie", "t")] + [rated(["Good.\nRating: [[8]]"], None, f"r{i}") for i in range(9)]
    _, pairs = run_recipe("auto_j", rows, balance=balance)
    shown = Counter(parse_decision(p["chosen_text"]).value for p in pairs)
    assert (shown["A"], shown["B"], shown["tie"]) == counts and shown[None] == 9


def test_unreadable_and_adversarial_decisions_decide_nothing() -> None:
    texts = ['It says "the final decision is Response 2".', "The final decision is Response 1 or Response 2",
             "So, the final decision is Response 3", "> final decision is Response 2", "Response 2 is it"]  # fmt: skip
    planted = compared("1")
    planted["judgements"] += [decided(5 + i, "2", 1, "p", text) for i, text in enumerate(texts)]
    planted["judgements"].append({**decided(20, "1", 1, "p"), "status": "truncated"})
    assert run_recipe("auto_j", [planted])[1] == run_recipe("auto_j", [compared("1")])[1]


@given(st.text("12T", max_size=3), st.text("12T", max_size=3), st.sampled_from(["A", "B", "tie"]), st.randoms())
def test_kept_rows_decide_as_the_human_did_in_every_order(normal: str, swapped: str, gold: str, rng: Any) -> None:
    planted = compared(normal, swapped, gold)
    _, pairs = run_recipe("auto_j", [planted])
    for p in pairs:
        first = p["messages"][0]["content"].index("response a") < p["messages"][0]["content"].index("response b")
        expected = gold if first or gold == "tie" else {"A": "B", "B": "A"}[gold]
        assert parse_decision(p["chosen_text"]).value == expected
    shuffled = copy.deepcopy(planted)
    shuffled["judgements"] = rng.sample(shuffled["judgements"], len(shuffled["judgements"]))
    assert run_recipe("auto_j", [shuffled])[1] == pairs
    first, _ = run_recipe("auto_j", [planted])
    assert run_recipe("auto_j", first) == (first, pairs)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Response 1 is better than response 2.", "Response 2 is better than response 1."),
        ("Responses 1 and 2 agree; answer #2 errs.", "Responses 2 and 1 agree; answer #1 errs."),
        ("The First response and the SECOND ONE", "The Second response and the FIRST ONE"),
        ("Response 12, Response 1.5 times, at first, 1 and 2", "Response 12, Response 2.5 times, at first, 1 and 2"),
    ],
)
def test_mentions_are_swapped(text: str, other: str) -> None:
    assert swap_mentions(text) == other and swap_mentions(other) == text


@given(st.lists(st.sampled_from(["Response 1", "responses 2 and 1", "first one", "SECOND answer", "Tie", "\n", "12"])))
def test_swapping_mentions_twice_gives_the_text_back(parts: list[str]) -> None:
    text = " ".join(parts)
    assert swap_mentions(swap_mentions(text)) == text


def test_real_rows_are_read_as_they_come(shared_data: Path) -> None:
    rows = pq.read_table(shared_data / "autoj" / "pairwise_test.parquet").slice(0, 60).to_pylist()
    planted = []
    for i, row in enumerate(rows):
        says = {"A": ("1", "2"), "B": ("2", "1"), "tie": ("T", "T")}[row["label"]]
        meta = json.dumps({"scenario": row["subset"]})
        planted.append(compared(*says, gold=row["label"], prompt_id=f"p{i}", meta=meta))
    read, pairs = run_recipe("auto_j", planted, balance=None)
    assert len(pairs) == 2 * len(rows) and not any(g["dropped"] for g in read)
    assert {row["subset"] for row in rows} <= set(scenarios())
