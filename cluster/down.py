"""Taking runs down: their drivers, their Serve applications, and any process that was left behind."""

import contextlib
import json
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil

from actors.checkpoints import cache_dir
from cluster.processes import find_processes, stop_processes


def live_dir() -> Path:
    """Where drivers of this host note that they live."""
    return cache_dir() / "live"


@contextlib.contextmanager
def driver_note(run: str, address: str | None) -> Generator[None]:
    """Note this process as the driver of `run` while the block runs."""
    me = psutil.Process()
    file = live_dir() / f"{run}-{me.pid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"run": run, "pid": me.pid, "started": me.create_time(), "address": address}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def live_drivers(run: str | None = None) -> list[dict[str, Any]]:
    """The drivers of this host that are alive, of one run or of all; notes of dead ones are removed."""
    found = []
    for file in sorted(live_dir().glob("*.json")) if live_dir().is_dir() else []:
        note = json.loads(file.read_text())
        try:
            alive = abs(psutil.Process(note["pid"]).create_time() - note["started"]) < 1
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            file.unlink(missing_ok=True)
        elif run in (None, note["run"]):
            found.append(note)
    return found


def take_down(run: str | None, address: str | None) -> dict[str, Any]:
    """Stop the drivers (they clean up after themselves), delete what is left on `address`, stop left-over processes.

    Returns the pids stopped, the Serve applications deleted, and the pids that survived even SIGKILL.
    """
    drivers = [psutil.Process(note["pid"]) for note in live_drivers(run) if note["pid"] != os.getpid()]
    survivors = stop_processes(drivers, grace_s=90)
    applications: list[str] = []
    if address is not None:
        applications = _delete_applications(run, address)
    left = find_processes(run)
    survivors += stop_processes(left, grace_s=10)
    return {
        "drivers": [process.pid for process in drivers],
        "applications": applications,
        "processes": [process.pid for process in left],
        "survivors": [process.pid for process in survivors],
    }


def _delete_applications(run: str | None, address: str) -> list[str]:
    import ray

    from actors.registry import NAMESPACE, application_name
    from actors.replica import delete_applications

    ray.init(address=address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
    try:
        return delete_applications(application_name(run, "") if run else "appellate-")
    finally:
        ray.shutdown()
