"""A Ray cluster that outlives its drivers, of one or more nodes on this machine."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from tests.e2e.commands import ROOT, environment

ENVIRONMENT = environment() | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}


def ray_command(*args: str) -> subprocess.CompletedProcess[str]:
    """The `ray` command, to its end."""
    words = [str(Path(sys.executable).with_name("ray")), *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT)


@contextlib.contextmanager
def cluster(port: int, cpus: int) -> Generator[str]:
    """A head with `cpus` CPUs on `port`, outside the range that Ray gives to workers; gives its address."""
    started = ray_command("start", "--head", f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false",
                          "--disable-usage-stats")
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        yield f"127.0.0.1:{port}"
    finally:  # `ray stop` would end every cluster of this machine
        pattern = f"gcs_server_port={port}|--gcs-address=[0-9.]*:{port}"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
        for pid in map(int, found.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def add_node(address: str, cpus: int) -> None:
    """One more node, on this machine too."""
    started = ray_command("start", f"--address={address}", f"--num-cpus={cpus}", "--disable-usage-stats")
    assert started.returncode == 0 and re.search("Ray runtime started", started.stdout), started.stdout + started.stderr
