"""Drives the command line as a user does, and looks for what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster.processes import find_processes

ROOT = Path(__file__).resolve().parents[2]
# Two engines of 135M, small enough that an iteration takes a minute or two on two cores.
SMALL = [
    "profile=cpu", "models.actor.max_model_len=1536", "models.actor.kv_cache_gib=1.0", "stream.groups_per_part=2",
    "training.batch_pairs=8", "training.epochs=1",
]


def command(*args: str) -> list[str]:
    """The command line as a list of words."""
    return [sys.executable, str(ROOT / "appellate.py"), *args]


def run_cli(*args: str, timeout_s: float = 580) -> subprocess.CompletedProcess[str]:
    """Run to the end; the caller checks the return code."""
    return subprocess.run(
        command(*args), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment()
    )


def start_cli(*args: str, log: Path) -> subprocess.Popen[bytes]:
    """Start in the background, in its own process group so that a signal hits it as from a terminal."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            command(*args), cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment(), preexec_fn=_hear_ctrl_c,
        )


def _hear_ctrl_c() -> None:
    # Where the tests themselves were started with `&`, the shell has set SIGINT to be ignored, and children inherit it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment() -> dict[str, str]:
    """The caller's environment without marks of other runs, and without what the tests' own workers are limited to."""
    own = ("APPELLATE_RUN", "RAY_", "PYTEST_", "OMP_NUM_THREADS")
    return {k: v for k, v in os.environ.items() if not k.startswith(own)}


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str, process: subprocess.Popen | None = None) -> Any:
    """Poll until `condition` is true; fails with `what` at the deadline or when `process` ends early."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the command ended with {process.returncode} while waiting for {what}")
        time.sleep(0.3)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def left_behind(run: str) -> list[str]:
    """Processes of `run` that still live, as readable lines."""
    lines = []
    for process in find_processes(run):
        try:
            lines.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        except psutil.NoSuchProcess:
            continue
    return lines


def engines(run: str) -> list[int]:
    """Process ids of the vLLM engines of `run`."""
    found = []
    for process in find_processes(run):
        try:
            if "VLLM::" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found
