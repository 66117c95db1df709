"""A record traced to its sources, its rule and the steps that used it, on runs whose answers are known."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from pipelines.ledger import Ledger
from pipelines.records import pairs_table
from pipelines.reporting.explain import explain, print_explained
from pipelines.reporting.lineage import UnknownRecord, steps_of_pairs
from pipelines.training.batching import step_plan
from pipelines.training.config import TrainingConfig
from pipelines.training.pairs import PairSet
from tests.pipelines.planted import judged_group, run_recipe
from tests.pipelines.reporting.planted_runs import Clock, commit, planted_run, start_run, step_metrics

GOOD, BAD = ("the good answer", ["Clear.\nScore: 4", "Fine.\nScore: 5"]), ("the bad answer", ["Poor.\nScore: 1", "Hm."])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    """Two prompts in iteration 1 of two, with a training."""
    ledger = start_run(tmp_path_factory.mktemp("runs"), "meta_rewarding", "iterations=2", "training.epochs=2")
    raw = [judged_group({f"{p}-good": GOOD, f"{p}-bad": BAD}, p, iteration=1) for p in ("prompt-a", "prompt-b")]
    groups, pairs = run_recipe("meta_rewarding", raw, 1)
    ledger.mark(0, "groups", {})
    commit(ledger, 1, groups, pairs)
    for step in range(2):
        ledger.append_metrics(1, step_metrics(1, step, 2))
    clock = Clock(ledger)
    clock.stage(1, "pairs", 1, pairs=len(pairs))
    clock.stage(1, "train", 1, steps=2)
    return ledger


def pair_of(ledger: Ledger, prompt: str) -> dict[str, Any]:
    return next(row for row in ledger.read_pairs(1).to_pylist() if row["prompt_id"] == prompt)


def test_a_pair_has_its_sides_judgements_rule_scores_versions_and_steps(ledger: Ledger) -> None:
    pair = pair_of(ledger, "prompt-b")
    found = explain(ledger, pair["pair_id"])
    assert (found["sort"], found["iteration"], found["prompt"]["prompt_id"]) == ("pair", 1, "prompt-b")
    chosen, rejected = found["sources"]["chosen"], found["sources"]["rejected"]
    assert (chosen["record"]["text"], chosen["record"]["score"]) == (GOOD[0], 4.5)
    assert [(j["value"], j["status"]) for j in chosen["judgements"]] == [(4.0, "ok"), (5.0, "ok")]
    assert [j["status"] for j in rejected["judgements"]] == ["ok", "missing"]
    assert found["candidates"] == [
        {"id": "prompt-b-good", "score": 4.5, "chars": 15, "side": "chosen", "kind": "sample", "votes": None,
         "answer": None},
        {"id": "prompt-b-bad", "score": 1.0, "chars": 14, "side": "rejected", "kind": "sample", "votes": None,
         "answer": None},
    ]
    assert found["rule"].startswith("Meta-Rewarding (2407.19594)")
    assert found["method"]["rho"] == [0.0, 0.32, 0.32, 0.4]
    assert (found["weights"], found["prompts"]) == (["v0"], {"h": "judge_additive"})
    assert [step["step"] for step in found["steps"]] == found["record"]["steps"] == [0, 1]  # one step an epoch
    assert found["made"] == {"version": "v2", "checkpoint": ledger.checkpoint_dir(1)}
    assert json.loads(json.dumps(found)) == found


def test_samples_and_judgements_name_the_pairs_that_used_them(ledger: Ledger) -> None:
    pair = pair_of(ledger, "prompt-a")
    sample = explain(ledger, "prompt-a-good")
    assert (sample["sort"], sample["record"]["text"]) == ("sample", GOOD[0])
    assert [p["pair_id"] for p in sample["used_in"]] == [pair["pair_id"]]
    judged = explain(ledger, "prompt-a-bad-j1")
    assert (judged["sort"], judged["record"]["status"]) == ("judgement", "missing")
    assert judged["sources"]["judged"]["record"]["sample_id"] == "prompt-a-bad"
    assert judged["used_in"] == []
    assert explain(ledger, "prompt-a")["sort"] == "prompt"


def test_judge_pairs_come_with_elo_and_meta_judgements(tmp_path) -> None:
    ledger = planted_run(tmp_path, 1, 3)
    pair = next(p for p in ledger.read_pairs(0).to_pylist() if p["kind"] == "judge")
    found = explain(ledger, pair["pair_id"][:10])
    assert found["candidates"][0]["side"] == "chosen"
    assert found["candidates"][0]["score"] == pair["chosen_score"] > found["candidates"][1]["score"]
    battles = found["sources"]["chosen"]["meta_judgements"]
    assert battles
    assert all(pair["chosen_from"] in (m["judgement_a"], m["judgement_b"]) for m in battles)


@pytest.mark.parametrize(("record_id", "message"), [("no-such-id", "no-such-id"), ("abc", "at least the first 6")])
def test_unknown_ids(ledger: Ledger, record_id: str, message: str) -> None:
    with pytest.raises(UnknownRecord, match=message):
        explain(ledger, record_id)


def test_pairs_without_groups_are_explained(tmp_path) -> None:
    given = Ledger.create(str(tmp_path), "r", {"pairs": "p.jsonl", "model": "m"}, {})
    _, pairs = run_recipe("meta_rewarding", [judged_group({"good": GOOD, "bad": BAD}, "prompt-a")])
    commit(given, 0, [], pairs)
    found = explain(given, pairs[0]["pair_id"])
    assert found["record"]["chosen_text"] == GOOD[0]
    assert found["prompt"]["messages"] == pairs[0]["messages"]
    assert found["rule"] == "The pairs were given."
    assert GOOD[0] in shown(found) and BAD[0] in shown(found)


def shown(found: dict[str, Any]) -> str:
    screen = io.StringIO()
    print_explained(Console(file=screen, width=80, color_system=None), found)
    return screen.getvalue()


def test_the_terminal_shows_everything_and_no_control_characters(ledger: Ledger) -> None:
    found = explain(ledger, pair_of(ledger, "prompt-a")["pair_id"])
    text = shown(found)
    for part in (*GOOD[1][0].splitlines(), *BAD[1][0].splitlines(), "4.5 against 1", "weights v0", "judge_additive h",
                 "step 1: loss", "made v2"):
        assert part in text
    found["sources"]["chosen"]["record"]["text"] = "\x1b]0;owned\x07[red]x[/red]\x1b[2J"
    text = shown(found)
    assert "[red]x[/red]" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_steps_are_those_of_the_trainers_plan() -> None:
    """Of pairs some of which are too long, over two epochs, with a validation split."""
    _, pairs = run_recipe("meta_rewarding", [judged_group({f"{i}g": GOOD, f"{i}b": BAD}, f"p{i}") for i in range(9)])
    table = pairs_table([{**p, "prompt_ids": [i] * (50 if i == 4 else 3)} for i, p in enumerate(pairs)])
    config = TrainingConfig(epochs=2, batch_pairs=3, max_pair_tokens=20, validation_pairs=2)
    found = steps_of_pairs(table, config, 7)
    usable = PairSet(table).keep([i for i in range(9) if i != 4])
    plan, validation = step_plan(usable.keys(), usable.sizes(), config, 7)
    assert len(validation) == 2
    assert found == {
        name: [number for number, step in enumerate(plan) if i in step]
        for i, name in enumerate(usable.ids()) if i not in validation
    }
    assert all(len(steps) == 2 for steps in found.values())  # once an epoch
    assert steps_of_pairs(table.slice(0, 0), config, 7) == {}
