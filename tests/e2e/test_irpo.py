"""IRPO on arithmetic with gold answers: two iterations, engines updated live by adapters between them, and Ctrl-C."""

import json
import os
import signal
from pathlib import Path

import pytest

from pipelines.ledger import Ledger
from tests.e2e.commands import SMALL, left_behind, run_cli, start_cli, wait_for

pytestmark = pytest.mark.slow


def test_two_iterations_with_live_updates_between_and_ctrl_c_in_the_second(tmp_path) -> None:
    log = tmp_path / "log"
    process = start_cli(
        "run", "irpo", "prompts=examples/arithmetic.jsonl", "prompts_limit=6", "iterations=2", "name=irpo",
        f"runs_dir={tmp_path}", *SMALL, "method.samples={n: 4, max_tokens: 40}", "method.pairs_per_prompt=2",
        "training.learning_rate=1e-4", "training.lora.rank=8", "sync.transport=adapter", log=log,
    )
    marks = tmp_path / "irpo" / "iterations" / "0001" / "done"
    wait_for(lambda: (marks / "groups.json").exists(), 400, "the second iteration's groups", process)
    made = [folder for folder in Path("/dev/shm").glob("appellate-weights-*-v1-*") if list(folder.iterdir())]
    assert made  # by the replicas themselves, not read from the checkpoint
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 1
    assert "stopped; go on with: appellate resume" in log.read_text()
    ledger = Ledger.open(str(tmp_path / "irpo"))
    assert left_behind(ledger.run_id) == []

    result = run_cli("resume", str(tmp_path / "irpo"), "--json")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    summary = json.loads(result.stdout)
    for iteration, item in enumerate(summary["iterations"]):
        groups = list(ledger.iter_groups(iteration))
        assert len(groups) == 6
        sampled = {s["weight_version"] for g in groups for s in g["samples"] if s["kind"] == "sample"}
        assert sampled == {f"v{iteration}"}
        assert {p["ref_version"] for p in ledger.read_pairs(iteration).to_pylist()} == {f"v{iteration}"}
        assert item["training"]["first_dpo_loss"] == pytest.approx(0.693147, abs=2e-2)
        assert item["sync"]["version"] == f"v{iteration + 1}"
        assert item["sync"]["models"]["actor"]["load_s"] > 0
        assert item["sync"]["judge_after"]["weight_version"] == f"v{iteration + 1}"
    first, second = (list(ledger.iter_groups(i)) for i in (0, 1))
    assert {g["prompt_id"] for g in first} == {g["prompt_id"] for g in second}  # the same prompts every round
    assert left_behind(ledger.run_id) == []
