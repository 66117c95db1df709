"""IRPO on arithmetic with gold answers: two iterations, engines updated live between them."""

import json

import pytest

from pipelines.ledger import Ledger
from tests.e2e.commands import SMALL, left_behind, run_cli

pytestmark = pytest.mark.slow


def test_two_iterations_with_live_updates_between(tmp_path) -> None:
    result = run_cli(
        "run", "irpo", "prompts=examples/arithmetic.jsonl", "prompts_limit=6", "iterations=2", "name=irpo",
        f"runs_dir={tmp_path}", *SMALL, "method.samples={n: 4, max_tokens: 40}", "method.pairs_per_prompt=2",
        "training.learning_rate=1e-5", "sync.transport=object_store", "--json",
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    summary = json.loads(result.stdout)
    ledger = Ledger.open(str(tmp_path / "irpo"))
    for iteration, item in enumerate(summary["iterations"]):
        groups = list(ledger.iter_groups(iteration))
        assert len(groups) == 6
        sampled = {s["weight_version"] for g in groups for s in g["samples"] if s["kind"] == "sample"}
        assert sampled == {f"v{iteration}"}
        assert {p["ref_version"] for p in ledger.read_pairs(iteration).to_pylist()} == {f"v{iteration}"}
        assert item["training"]["first_dpo_loss"] == pytest.approx(0.693147, abs=2e-3)
        assert item["sync"]["version"] == f"v{iteration + 1}"
        assert item["sync"]["models"]["actor"]["load_s"] > 0
        assert item["sync"]["judge_after"]["weight_version"] == f"v{iteration + 1}"
    first, second = (list(ledger.iter_groups(i)) for i in (0, 1))
    assert {g["prompt_id"] for g in first} == {g["prompt_id"] for g in second}  # the same prompts every round
    assert left_behind("irpo") == []
