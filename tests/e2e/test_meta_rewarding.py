"""A whole Meta-Rewarding run on the real model: killed while it samples, resumed, finished, asked again."""

import json
import os
import signal
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from pipelines.ledger import Ledger
from tests.e2e.commands import SMALL, left_behind, run_cli, start_cli, wait_for

pytestmark = pytest.mark.slow
GROUPS = 6


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Run, kill -9 the driver after the first part, resume to the end; what was seen on the way."""
    folder = tmp_path_factory.mktemp("meta")
    run = folder / "killed"
    words = [
        "run", "meta_rewarding", "prompts=examples/prompts.jsonl", f"prompts_limit={GROUPS}", "iterations=1",
        "name=killed", f"runs_dir={folder}", *SMALL, "stream.groups_in_flight=2", "method.structured=true",
        "method.samples={n: 3, top_p: 1.0, max_tokens: 40}", "method.judgements={n: 3, top_p: 1.0, max_tokens: 56}",
        "method.meta_judgements={n: 3, top_p: 1.0, max_tokens: 40}",
    ]
    process = start_cli(*words, log=folder / "run.log")
    parts = run / "iterations" / "0000" / "groups"
    wait_for(lambda: list(parts.glob("part-*.parquet")) if parts.is_dir() else [], 300, "a committed part", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    committed = {g["prompt_id"]: g for g in Ledger.open(str(run)).iter_groups(0)}
    run_id = Ledger.open(str(run)).run_id
    # Ray's own agents (they hold no model) take a minute or two to notice; the resumed run sweeps them away.
    wait_for(
        lambda: not [line for line in left_behind(run_id) if "Agent" not in line], 60, "actors and engines to end"
    )
    resumed = run_cli("resume", str(run), "--json")
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    return {"run": run, "committed": committed, "summary": json.loads(resumed.stdout)}


def test_killed_in_the_middle_of_sampling(killed_and_resumed: dict) -> None:
    assert 0 < len(killed_and_resumed["committed"]) < GROUPS


def test_resume_makes_no_committed_group_again(killed_and_resumed: dict) -> None:
    groups = list(Ledger.open(str(killed_and_resumed["run"])).iter_groups(0))
    assert len(groups) == len({g["prompt_id"] for g in groups}) == GROUPS
    again = {g["prompt_id"]: g for g in groups}
    for prompt_id, before in killed_and_resumed["committed"].items():
        texts = [(s["sample_id"], s["text"]) for s in before["samples"]]
        assert [(s["sample_id"], s["text"]) for s in again[prompt_id]["samples"]] == texts
        judged = [(j["judgement_id"], j["text"]) for j in before["judgements"]]
        assert [(j["judgement_id"], j["text"]) for j in again[prompt_id]["judgements"]] == judged
    events = Ledger.open(str(killed_and_resumed["run"])).events()
    resumed = [e for e in events if e["kind"] == "stage_done" and e["stage"] == "groups"]
    assert resumed[-1]["already_there"] == len(killed_and_resumed["committed"])


def test_every_group_is_on_disk_exactly_once(killed_and_resumed: dict) -> None:
    table = pads.dataset(killed_and_resumed["run"] / "iterations" / "0000" / "groups").to_table(columns=["prompt_id"])
    ids = table["prompt_id"].to_pylist()
    assert len(ids) == len(set(ids)) == GROUPS


def test_run_folder_is_complete(killed_and_resumed: dict) -> None:
    run: Path = killed_and_resumed["run"]
    for name in ("config.yaml", "manifest.json", "events.jsonl", "finished.json", "iterations/0000/metrics.jsonl"):
        assert (run / name).stat().st_size > 0, name
    pairs = Ledger.open(str(run)).read_pairs(0).to_pylist()
    assert {pair["kind"] for pair in pairs} == {"actor", "judge"}
    for pair in pairs:
        assert pair["ref_version"] == "v0"
        assert pair["chosen_ids"] and pair["rejected_ids"] and pair["prompt_ids"]
        assert pair["chosen_text"] != pair["rejected_text"]
    versions = {s["weight_version"] for g in Ledger.open(str(run)).iter_groups(0) for s in g["samples"]}
    assert versions == {"v0"}


def test_first_loss_is_ln_2_and_the_judge_follows_training(killed_and_resumed: dict) -> None:
    item = killed_and_resumed["summary"]["iterations"][0]
    assert item["training"]["first_dpo_loss"] == pytest.approx(0.693147, abs=2e-2)
    assert item["training"]["judge_before"]["weight_version"] == "v0"
    assert item["sync"]["judge_after"]["weight_version"] == "v1"
    assert item["sync"]["models"].keys() == {"actor", "reference"}


def test_checkpoint_loads_with_transformers_and_differs_from_the_start(killed_and_resumed: dict, smollm2: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = killed_and_resumed["run"] / "iterations" / "0000" / "checkpoint"
    new = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    old = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16)
    assert (folder / "chat_template.jinja").read_text() == (Path(smollm2) / "chat_template.jinja").read_text()
    changed = [n for (n, a), b in zip(new.named_parameters(), old.parameters(), strict=True) if not torch.equal(a, b)]
    assert changed


def test_resume_of_a_finished_run_does_nothing_and_says_so(killed_and_resumed: dict) -> None:
    again = run_cli("resume", str(killed_and_resumed["run"]))
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_replay_gives_the_run_s_pairs(killed_and_resumed: dict, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = killed_and_resumed["run"]
    groups, out = str(run / "iterations/0000/groups"), str(tmp_path / "p.parquet")
    result = run_cli("replay", "meta_rewarding", "--groups", groups, "--out", out)
    assert result.returncode == 0, result.stderr
    replayed = {p["pair_id"]: p["chosen_from"] for p in pq.read_table(tmp_path / "p.parquet").to_pylist()}
    made = {p["pair_id"]: p["chosen_from"] for p in Ledger.open(str(run)).read_pairs(0).to_pylist()}
    assert replayed == made


def test_nothing_is_left_behind(killed_and_resumed: dict) -> None:
    assert left_behind(Ledger.open(str(killed_and_resumed["run"])).run_id) == []
