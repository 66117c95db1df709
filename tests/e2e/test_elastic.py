"""Train workers come and go with the nodes: the group grows, shrinks, and takes the same steps all the while."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipelines.ledger import Ledger
from pipelines.training.trainer import current_steps
from tests.e2e.clusters import ENVIRONMENT, add_node, cluster
from tests.e2e.commands import ROOT, command, wait_for

pytestmark = pytest.mark.slow
PORT = 6398
STEPS = 1200


def test_a_group_grows_with_the_cluster_and_shrinks_with_it(tmp_path: Path, tiny_model: str) -> None:
    rows = [{"prompt": f"Is {n} odd?", "chosen": "Yes." if n % 2 else "No.", "rejected": "Maybe."} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log, ledger_path = tmp_path / "log", tmp_path / "elastic"
    with cluster(PORT, cpus=1) as address:
        words = ["train", "--pairs", str(tmp_path / "pairs.jsonl"), "--model", tiny_model, "--profile", "cpu",
                 "name=elastic", f"runs_dir={tmp_path}", f"address={address}", "batch_pairs=4", "num_workers=[1, 2]",
                 "num_cpus=1", "threads=1", f"epochs={STEPS // 2}", "save_every_s=1", "resize_every_s=2"]
        with log.open("wb") as stream:
            process = subprocess.Popen(command(*words), cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
                                       env=ENVIRONMENT, start_new_session=True)

        def workers() -> list[int]:
            file = ledger_path / "iterations/0000/metrics.jsonl"
            records = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
            return [record["workers"] for record in records if record.get("event") == "start"]

        try:
            wait_for(lambda: workers() == [1], 240, "training on the one node there is", process)
            before = set(_raylets())
            add_node(address, cpus=1)
            wait_for(lambda: workers()[-1] == 2, 240, "a worker on the node that came", process)
            (newcomer,) = set(_raylets()) - before
            os.kill(newcomer, signal.SIGKILL)
            wait_for(lambda: workers()[-1] == 1, 240, "training on the node that is left", process)
            assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
        finally:
            process.kill()
    ledger = Ledger.open(str(ledger_path))
    assert [step["step"] for step in current_steps(ledger.read_metrics(0))] == list(range(STEPS))
    assert (ledger.done(0, "train") or {})["steps"] == STEPS
    assert Path(ledger.checkpoint_dir(0), "model.safetensors").exists()


def _raylets() -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"raylet/raylet .*:{PORT}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]
