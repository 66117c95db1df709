"""However a command ends, no engine process stays: Ctrl-C, `down`, and kill -9 of a serving driver."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from cluster.down import live_drivers
from tests.e2e.commands import engines, run_cli, start_cli, wait_for

pytestmark = pytest.mark.slow
PORT = 18431
URL = f"http://127.0.0.1:{PORT}"


def _ready() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _serving(log: Path):
    process = start_cli("serve", "--model", "smollm2-135m-instruct", "--port", str(PORT), "--profile", "cpu", log=log)
    wait_for(_ready, 300, "the judge to answer", process)
    run = next(note["run"] for note in live_drivers() if note["pid"] == process.pid)
    assert engines(run), "vLLM runs in processes of its own"
    return process, run


def test_ctrl_c(tmp_path: Path) -> None:
    process, run = _serving(tmp_path / "log")
    reply = httpx.post(
        f"{URL}/v1/judgements",
        json={"prompt": "Name a fruit.", "responses": ["An apple.", "A car."], "votes": 2, "structured": True,
              "max_tokens": 64},
        timeout=120,
    )
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["weight_version"] == "v0"
    assert answer["protocol"] == "pairwise" and len(answer["votes"]) == 4
    assert all(vote["status"] == "ok" for vote in answer["votes"])
    models = httpx.get(f"{URL}/v1/models", timeout=30).json()
    assert models["data"][0]["weight_version"] == "v0"
    assert httpx.get(f"{URL}/healthz", timeout=30).json()["status"] == "ok"
    bad = httpx.post(f"{URL}/v1/judgements", json={"prompt": "x", "responses": ["y"], "vote": 1}, timeout=30)
    assert bad.status_code == 422 and "vote" in bad.json()["error"]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 0
    assert engines(run) == []


def test_down(tmp_path: Path) -> None:
    process, run = _serving(tmp_path / "log")
    result = run_cli("down", run, timeout_s=200)
    assert result.returncode == 0, result.stdout + result.stderr
    process.wait(timeout=60)
    assert engines(run) == []


def test_killed_driver(tmp_path: Path) -> None:
    process, run = _serving(tmp_path / "log")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    wait_for(lambda: not engines(run), 60, "the engine to end after its driver was killed")
