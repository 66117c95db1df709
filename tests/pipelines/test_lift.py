import copy
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes.lift import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.lengths import count_words, violates
from pipelines.steps.make_prompts import read_prompts
from pipelines.steps.render import prompt_messages
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, run_recipe, sample


def preference(chosen: int, rejected: int, prompt_id: str = "p", **other: Any) -> Group:
    """A preference between texts of so many words."""
    samples = [
        sample(f"{prompt_id}-w", " ".join(["good"] * chosen) or "!", 0, kind="chosen", token_ids=[]),
        sample(f"{prompt_id}-l", " ".join(["bad"] * rejected) or "?", 1, kind="rejected", token_ids=[]),
    ]
    return group(prompt_id, samples=samples, **other)


def test_paper_defaults() -> None:
    assert RECIPE.steps(Settings(), 0) == []
    training = TrainingConfig(**RECIPE.training)
    assert (RECIPE.iterations, training.losses, training.beta, training.learning_rate) == (1, {"dpo": 1.0}, 0.1, 5e-7)


@pytest.mark.parametrize(
    ("chosen", "rejected", "limit", "kind", "better"),
    [
        (120, 60, 150, "limit_both", "p-w"),
        (120, 60, 90, "limit_flipped", "p-l"),
        (120, 60, 40, None, None),
        (60, 120, 90, "limit_kept", "p-w"),
        (60, 120, 60, "limit_kept", "p-w"),
        (60, 120, 59, None, None),
    ],
)
def test_lift_flip_table_fixture(chosen: int, rejected: int, limit: int, kind: str | None, better: str | None) -> None:
    planted = preference(chosen, rejected, meta=json.dumps({"limit": limit}))
    _, pairs = run_recipe("lift", [planted])
    assert pairs[0]["kind"] == "actor" and len(pairs) == (2 if kind else 1)
    for pair in pairs[1:]:
        assert (pair["kind"], pair["chosen_from"]) == (kind, better)
        assert pair["messages"] == prompt_messages(planted, "length_limit", limit=limit)
        assert str(limit) in pair["messages"][-1]["content"]


def test_a_pair_is_kept_and_copied_under_two_limits() -> None:
    _, pairs = run_recipe("lift", [preference(120, 60)])
    assert [p["kind"] for p in pairs] == ["actor", "limit_both", "limit_flipped"]
    assert [p["chosen_from"] for p in pairs] == ["p-w", "p-w", "p-l"]
    assert pairs[0]["messages"] == preference(120, 60)["messages"]
    assert len({p["pair_id"] for p in pairs}) == 3
    assert {(p["chosen_score"], p["rejected_score"], p["weight"]) for p in pairs} == {(1.0, 0.0, 1.0)}
    _, pairs = run_recipe("lift", [preference(60, 120)])
    assert [p["kind"] for p in pairs] == ["actor", "limit_both", "limit_kept"]
    _, pairs = run_recipe("lift", [preference(60, 60)])  # nothing lies between
    assert [p["kind"] for p in pairs] == ["actor", "limit_both"]
    _, pairs = run_recipe("lift", [preference(0, 0)])
    assert [p["kind"] for p in pairs] == ["actor"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (group("p"), "no_preference"),
        ({**preference(5, 9), "samples": preference(5, 9)["samples"][:1]}, "no_preference"),
        (group("p", samples=[sample("a", "same", 0, kind="chosen"), sample("b", "same ", 1, kind="rejected")]),
         "no_preference"),
        (group("p", samples=[sample("a", "text", 0, kind="chosen"), sample("b", "", 1, kind="rejected")]),
         "no_preference"),
        (group("p", samples=[sample("a", "one", 0), sample("b", "two", 1)]), "no_preference"),
        ({**preference(5, 9), "dropped": "unusable_text"}, "unusable_text"),
    ],
)  # fmt: skip
def test_dropped_prompts_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("lift", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


@given(st.integers(0, 90), st.integers(0, 90), st.integers(0, 9), st.text(max_size=4), st.randoms())
def test_d1_d2_d4_no_preferred_side_breaks_a_limit_that_the_other_keeps(
    chosen: int, rejected: int, seed: int, prompt_id: str, shuffler: random.Random
) -> None:
    planted = preference(chosen, rejected, prompt_id)
    (_,), pairs = run_recipe("lift", [planted], seed=seed)
    assert len({p["pair_id"] for p in pairs}) == len(pairs)
    for pair in pairs[1:]:
        asked = pair["messages"][-1]["content"]
        limits = [n for n in range(1, 400) if prompt_messages(planted, "length_limit", limit=n)[-1]["content"] == asked]
        assert len(limits) == 1
        assert not violates(count_words(pair["chosen_text"]), limits[0])
        assert (pair["kind"] == "limit_both") == (not violates(count_words(pair["rejected_text"]), limits[0]))
    mixed = copy.deepcopy(planted)
    shuffler.shuffle(mixed["samples"])
    assert run_recipe("lift", [mixed], seed=seed)[1] == pairs


def test_limits_differ_by_prompt_and_seed_and_are_drawn_again_the_same() -> None:
    groups = [preference(40, 90, f"p{i}") for i in range(30)]
    _, pairs = run_recipe("lift", groups)
    assert len({p["messages"][-1]["content"].splitlines()[0] for p in pairs if p["kind"] != "actor"}) > 30
    assert run_recipe("lift", groups)[1] == pairs
    assert run_recipe("lift", groups, seed=1)[1][1]["messages"] != pairs[1]["messages"]


def test_d10_reading_and_selecting_twice_is_the_same() -> None:
    planted = [preference(12, 30), preference(30, 12, "q"), group("r")]
    before = json.dumps(planted)
    first, pairs = run_recipe("lift", planted)
    assert json.dumps(planted) == before
    assert run_recipe("lift", first) == (first, pairs)


def test_rows_with_a_preference_become_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."},
            {"prompt": "How?", "chosen": "So.", "rejected": "Like this and that.", "limit": 2}]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    _, pairs = run_recipe("lift", read_prompts(str(file)).groups)
    assert [p["kind"] for p in pairs] == ["actor", "limit_both", "limit_flipped", "actor", "limit_kept"]


def test_real_preferences_flip_where_the_longer_one_was_preferred(tmp_path: Path, shared_data: Path) -> None:
    tldr = shared_data / "tldr_preferences/pairs.parquet"
    rows = [
        {"prompt": r["prompt"], "chosen": r["response_a"], "rejected": r["response_b"]}
        if r["label"] == "A" else {"prompt": r["prompt"], "chosen": r["response_b"], "rejected": r["response_a"]}
        for r in pq.read_table(tldr).slice(0, 300).to_pylist()
        if r["label"] in ("A", "B") and r["response_a"].strip() != r["response_b"].strip()
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    groups = read_prompts(str(file)).groups
    _, pairs = run_recipe("lift", groups)
    lengths = [tuple(count_words(s["text"]) for s in g["samples"]) for g in groups]
    counts = {kind: sum(p["kind"] == kind for p in pairs) for kind in {p["kind"] for p in pairs}}
    assert counts["actor"] == counts["limit_both"] == len(groups)
    assert counts["limit_flipped"] == sum(a > b for a, b in lengths)
    assert counts["limit_kept"] == sum(a < b for a, b in lengths)
