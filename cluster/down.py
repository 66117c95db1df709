"""Taking runs down: their drivers, their Serve applications, and any process that was left behind."""

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import psutil

from actors.checkpoints import cache_dir
from cluster.processes import find_processes, own_processes, run_of, stop_processes


class DownError(RuntimeError):
    """The cluster cannot be cleaned; the message says why and what was done all the same."""


RUN_ID_END = "-[0-9a-f]{6}"  # what an id has and a run's name has not


def live_dir() -> Path:
    """Where drivers note that they live; hosts with one home folder share it."""
    return cache_dir() / "live"


@contextlib.contextmanager
def driver_note(run: str, address: str | None) -> Generator[None]:
    """Note this process as the driver of `run` while the block runs."""
    me, host = psutil.Process(), socket.gethostname()
    file = live_dir() / f"{run}-{host}-{me.pid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    note = {"run": run, "host": host, "pid": me.pid, "started": me.create_time(), "address": address}
    draft = file.with_suffix(".draft")  # others read the folder at any time and must find whole notes
    draft.write_text(json.dumps(note))
    os.replace(draft, file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def live_drivers(run: str | None = None) -> list[dict[str, Any]]:
    """The drivers of this host that are alive, of one run or of all; notes of dead ones are removed.

    Notes of other hosts, and those that cannot be read, are left alone: nothing here can tell whether they still hold.
    """
    found = []
    for file in sorted(live_dir().glob("*.json")) if live_dir().is_dir() else []:
        note = _read_note(file)
        if note is None or note["host"] != socket.gethostname():
            continue
        try:
            alive = abs(psutil.Process(note["pid"]).create_time() - note["started"]) < 1
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            file.unlink(missing_ok=True)
        elif run is None or _is_meant(note["run"], run):
            found.append(note)
    return found


def _is_meant(run_id: str, run: str) -> bool:
    """Whether people mean this id by `run`: the id itself or the name in it."""
    return re.fullmatch(f"{re.escape(run)}({RUN_ID_END})?", run_id) is not None


def _left_over(run: str | None) -> list[psutil.Process]:
    if run is None:
        return find_processes()
    marks = {mark for process in own_processes() if (mark := run_of(process)) and _is_meant(mark, run)}
    return [process for mark in sorted(marks) for process in find_processes(mark)]


def run_ids(applications: Iterable[str], run: str) -> set[str]:
    """The ids of the runs meant by `run` that have one of these applications; of `a`, not those of the run `a-b`."""
    end = f"({RUN_ID_END})?" if re.search(f"{RUN_ID_END}$", run) else RUN_ID_END
    found = (re.match(f"appellate-({re.escape(run)}{end})-", name) for name in applications)
    return {match[1] for match in found if match}


def _read_note(file: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(file.read_text())
    except (OSError, ValueError):  # removed by its driver meanwhile, or cut short by a full disk
        return None
    return note if isinstance(note, dict) and {"run", "host", "pid", "started"} <= note.keys() else None


def take_down(run: str | None, address: str | None) -> dict[str, Any]:
    """Stop the drivers (they clean up after themselves), delete what is left on `address`, stop left-over processes.

    `run` is a run's name, which means all runs of that name, or the id of one; None means every run.
    Returns the pids stopped, the Serve applications deleted, and the pids that survived even SIGKILL. Raises DownError
    when the cluster cannot be reached, after everything of this host was stopped.
    """
    drivers = []
    for note in live_drivers(run):
        if note["pid"] != os.getpid():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself just now
                drivers.append(psutil.Process(note["pid"]))
    survivors = stop_processes(drivers, grace_s=90)
    applications: list[str] = []
    problem: Exception | None = None
    if address is not None:
        try:
            applications = _delete_applications(run, address)
        except Exception as error:  # Ray has many for an address that is wrong or gone
            problem = error
    left = _left_over(run)
    survivors += stop_processes(left, grace_s=10)
    if problem is not None:
        reason = " ".join(str(problem).split())[:500] or repr(problem)
        stopped = f"stopped {len(drivers) + len(left)} processes of this host"
        alive = f", still alive: {[process.pid for process in survivors]}" if survivors else ""
        raise DownError(f"nothing deleted on the cluster at {address}: {reason}; {stopped}{alive}") from problem
    return {
        "drivers": [process.pid for process in drivers],
        "applications": applications,
        "processes": [process.pid for process in left],
        "survivors": [process.pid for process in survivors],
    }


def _delete_applications(run: str | None, address: str) -> list[str]:
    import ray
    from ray import serve

    from actors.registry import NAMESPACE, application_name
    from actors.replica import delete_applications

    ray.init(address=address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
    try:
        if run is None:
            return delete_applications("appellate-")
        ids = run_ids(list(serve.status().applications), run)
        return [name for run_id in sorted(ids) for name in delete_applications(application_name(run_id, ""))]
    finally:
        ray.shutdown()
