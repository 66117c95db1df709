"""Every recipe on the real model, from its example input to new weights: as few prompts and tokens as will do."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import Sampling, from_layers
from pipelines.ledger import Ledger
from pipelines.recipes import RECIPES, get_recipe
from pipelines.recipes.base import JudgeStep
from pipelines.replay import replay
from tests.e2e.commands import ROOT, SMALL, left_behind, run_cli

pytestmark = pytest.mark.slow
ELSEWHERE = {"irpo", "meta_rewarding"}  # test_irpo.py, test_meta_rewarding.py
INPUTS = {"tpo": "prompts", "self_rewarding": "prompts", "self_taught_evaluator": "lift"}
WORDS = {
    "scpo": ["method.tau=0.1", "method.unread_rejected=true", "method.new_questions=1"],
    "self_rewarding": ["iterations=2", "method.seed_rows=examples/seed_rows.jsonl", "method.new_prompts=3"],
    "self_rationalization": ["method.margin=1", "method.balance=null"],
}
ALWAYS_PAIRS = {"lift", "self_rewarding"}  # what is preferred, or imitated, comes with the rows


def tiny(name: str) -> list[str]:
    """The recipe's preset `small` with three prompts, few samples and short texts."""
    own = ROOT / "examples" / f"{name}.jsonl"
    rows = own.stem if own.exists() else INPUTS.get(name, "arithmetic")
    words = [f"prompts=examples/{rows}.jsonl", "preset=small", "prompts_limit=3", "iterations=1", "serve.enabled=false"]
    method = from_layers(name, [{"prompts": "-", "preset": "small"}], "cpu").method
    for field, value in method:
        if field == "structured":
            words.append("method.structured=true")
        if hasattr(value, "max_tokens"):
            words.append(f"method.{field}.max_tokens=40")
        if isinstance(value, Sampling):
            words.append(f"method.{field}.n={min(value.n, 3)}")
    return [*words, *SMALL, "training.max_steps=1", "training.batch_pairs=4", *WORDS.get(name, [])]


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ELSEWHERE])
def test_a_tiny_iteration(name: str, tmp_path: Path) -> None:
    words = tiny(name)
    result = run_cli("run", name, *words, f"name={name}", f"runs_dir={tmp_path}", "--json")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    ledger, summary = Ledger.open(str(tmp_path / name)), json.loads(result.stdout)
    assert left_behind(ledger.run_id) == []
    for item in summary["iterations"]:
        iteration = item["iteration"]
        groups, pairs = list(ledger.iter_groups(iteration)), ledger.read_pairs(iteration).to_pylist()
        assert len(groups) == item["groups"] >= (1 if iteration else 3)
        check_records(name, groups, iteration, ledger.read_config())
        if name in ALWAYS_PAIRS and iteration == 0:
            assert pairs
        assert bool(pairs) == (not item["training"].get("skipped"))
        assert not pairs or item["training"]["steps"] == 1
        assert item["sync"]["version"] == f"v{iteration + 1}"
        assert all(pair["prompt_ids"] and pair["chosen_ids"] for pair in pairs)

        folder = tmp_path / name / "iterations" / f"{iteration:04d}" / "groups"
        again = replay(name, folder, tmp_path / "replayed.parquet", words)
        assert again["pairs"] == (item["pairs"] or {})


def check_records(name: str, groups: list[Any], iteration: int, config: dict[str, Any]) -> None:
    """Every judgement was asked as the steps say, and where judges are held to a form they can be read."""
    recipe = get_recipe(name)
    steps = recipe.steps(recipe.settings.model_validate(config["method"]), iteration)
    judged = [judgement for group in groups for judgement in group["judgements"]]
    judges = [step for step in steps if isinstance(step, JudgeStep)]
    assert judges or not judged
    if judges and all(step.structured for step in judges):
        assert all(judgement["status"] == "ok" for judgement in judged)
    if steps and not judges:
        assert any(sample["kind"] == "sample" for group in groups for sample in group["samples"])
