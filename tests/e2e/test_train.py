"""The trainer alone on eight pairs and the real model: to the end, and stopped on the way and resumed."""

import json
import os
import signal
from pathlib import Path

import pytest

from actors.chat import ChatFormat
from pipelines.ledger import Ledger
from tests.e2e.commands import left_behind, run_cli, start_cli, wait_for

pytestmark = pytest.mark.slow
FRUITS = ["apple", "pear", "plum", "cherry", "quince", "fig", "peach", "melon"]


def _words(folder: Path, run: str, model: str, *more: str) -> list[str]:
    pairs = folder / "pairs.jsonl"
    rows = [{"prompt": f"Is a {name} a fruit?", "chosen": f"Yes, a {name} is.", "rejected": "No."} for name in FRUITS]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["train", "--pairs", str(pairs), "--model", model, "--profile", "cpu", f"name={run}",
            f"runs_dir={folder}", "batch_pairs=4", "learning_rate=1e-5", *more]


def test_two_steps_give_a_checkpoint_that_loads(tmp_path: Path, smollm2: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    result = run_cli(*_words(tmp_path, "two", "smollm2-135m-instruct"), "--json")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    summary = json.loads(result.stdout)
    assert (summary["pairs"], summary["training"]["steps"]) == (8, 2)
    assert summary["training"]["first_loss"] == pytest.approx(0.693147, abs=2e-2)
    assert summary["training"]["last_loss"] < summary["training"]["first_loss"]
    ledger = Ledger.open(str(tmp_path / "two"))
    assert left_behind(ledger.run_id) == []
    assert {pair["ref_version"] for pair in ledger.read_pairs(0).to_pylist()} == {"v0"}
    model = AutoModelForCausalLM.from_pretrained(summary["checkpoint"], dtype="auto")
    start = AutoModelForCausalLM.from_pretrained(smollm2, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert ChatFormat.load(summary["checkpoint"]).template_hash == ChatFormat.load(smollm2).template_hash


def test_a_training_that_is_terminated_leaves_nothing_and_goes_on(tmp_path: Path, tiny_model: str) -> None:
    log = tmp_path / "log"
    process = start_cli(*_words(tmp_path, "stopped", tiny_model, "epochs=200", "save_every_s=5"), log=log)
    metrics = tmp_path / "stopped/iterations/0000/metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"step": 1' in metrics.read_text(), 300, "the second step", process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 1
    assert "stopped; go on with: appellate resume" in log.read_text()
    ledger = Ledger.open(str(tmp_path / "stopped"))
    assert left_behind(ledger.run_id) == []
    taken = len([record for record in ledger.read_metrics(0) if "step" in record])
    assert taken < 400

    result = run_cli("resume", ledger.path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"appellate serve --model {ledger.path}/iterations/0000/checkpoint" in result.stdout
    assert (ledger.done(0, "train") or {})["steps"] == 400
    assert Path(ledger.checkpoint_dir(0), "model.safetensors").exists()
    assert left_behind(ledger.run_id) == []
