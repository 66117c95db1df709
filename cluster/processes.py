"""The processes of a run: marked by an environment variable, found by it, stopped by it.

A crashed driver leaves engines and Ray daemons behind whose parents are gone, so parentage cannot find them; the
environment they inherited can.
"""

import os
import time
from collections.abc import Iterable

import psutil

RUN_VARIABLE = "APPELLATE_RUN"
KILL_WAIT_S = 5.0


def run_environment(run: str) -> dict[str, str]:
    """What a driver puts into its environment before it starts anything.

    Engines and Ray workers rename themselves, and the renaming overwrites the environment other processes can read
    unless SPT_NOENV is set: without it a renamed orphan could not be told from a stranger's.
    """
    return {RUN_VARIABLE: run, "SPT_NOENV": "1"}


def run_of(process: psutil.Process) -> str | None:
    """The run a process belongs to; None for strangers and for processes that cannot be read."""
    try:
        return process.environ().get(RUN_VARIABLE) or None
    except (psutil.Error, OSError):
        return None


def own_processes() -> list[psutil.Process]:
    """Live processes of the calling user, without the caller and its parents."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    uid = os.getuid()
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.uids().real == uid and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def find_processes(run: str | None = None) -> list[psutil.Process]:
    """This user's processes of one run (of any run when None) and all they started, oldest first.

    The caller and its parents are never among them, so a driver can stop the rest of its own run.
    """
    own = {process.pid: process for process in own_processes()}
    found: dict[int, psutil.Process] = {}
    for process in own.values():
        mark = run_of(process)
        if mark is None or (run is not None and mark != run):
            continue
        found[process.pid] = process
        for child in _children(process):
            # A child that carries another run's mark is that run's: runs may be started from one another.
            if child.pid in own and run_of(child) in (None, mark):
                found[child.pid] = own[child.pid]
    return sorted(found.values(), key=lambda p: (p.create_time(), p.pid))


def stop_processes(processes: Iterable[psutil.Process], grace_s: float = 10.0) -> list[psutil.Process]:
    """SIGTERM to all, SIGKILL to those alive after `grace_s`; returns the survivors (normally none)."""
    alive = [process for process in processes if is_alive(process)]
    for process in alive:
        _signal(process, kill=False)
    alive = _wait(alive, grace_s)
    for process in alive:
        _signal(process, kill=True)
    return _wait(alive, KILL_WAIT_S)


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs; a zombie does not, whoever has yet to collect it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def describe(process: psutil.Process) -> str:
    """`PID title`, for messages."""
    try:
        words = " ".join(process.cmdline()).split()
        return f"{process.pid} {' '.join(words)[:60] or process.name()}"
    except psutil.Error:
        return str(process.pid)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _signal(process: psutil.Process, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:  # it stays among the survivors, which the caller reports
        return


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those still alive when all have ended or the time is up. Leaves the collecting to the parents."""
    deadline = time.monotonic() + timeout_s
    while (alive := [p for p in processes if is_alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive
