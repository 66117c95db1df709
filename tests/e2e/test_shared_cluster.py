"""A cluster that outlives its drivers: the applications of a driver that was killed take themselves down."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.clusters import ENVIRONMENT, cluster
from tests.e2e.commands import ROOT, wait_for

pytestmark = pytest.mark.slow
PORT = 6399
DRIVER = """
import sys, time
from cluster.session import open_session
from pipelines.config import ModelConfig, ServeConfig, SyncConfig
model = ModelConfig(engine="transformers", num_cpus=0.1, dtype="float32", max_model_len=512, threads=1)
with open_session("shared", {"m": model}, SyncConfig(), ServeConfig(enabled=False), sys.argv[1]) as session:
    session.start_models({"m": ("v0", sys.argv[2])}, lambda waiting: None)
    print("ready", session.clients["m"].versions(), flush=True)
    time.sleep(600)
"""


def _applications() -> str:
    script = f"import ray; from ray import serve; ray.init('127.0.0.1:{PORT}', log_to_driver=False); " \
        "print(sorted(serve.status().applications))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip().splitlines()[-1]


def test_killed_driver_on_a_shared_cluster(tiny_model: str, tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    with cluster(PORT, cpus=4) as address:
        with log.open("wb") as stream:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, address, tiny_model], cwd=ROOT, stdout=stream,
                stderr=subprocess.STDOUT, env=ENVIRONMENT,
            )
        wait_for(lambda: "ready ['v0']" in log.read_text(), 240, "the model on the shared cluster", driver)
        assert "appellate-shared-m" in _applications()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
        wait_for(lambda: "appellate-shared-m" not in _applications(), 120, "the application to take itself down")
