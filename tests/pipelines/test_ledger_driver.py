"""A run has one driver: another is refused while it lives, and takes over when it is dead."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.ledger import Ledger, LedgerError

REPO = Path(__file__).parents[2]


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger.create(str(tmp_path / "runs"), "r", {}, {})


HOLD = """
import sys, time
from pipelines.ledger import Ledger
with Ledger(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_until_the_first_is_dead(ledger):
    child = subprocess.Popen([sys.executable, "-c", HOLD, ledger.path], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    try:
        with pytest.raises(LedgerError, match=rf"process {child.pid} on .* has driven this run since"), ledger.lock():
            pass
    finally:
        child.kill()
    deadline = time.monotonic() + 30
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:  # death takes a moment on a busy machine
        assert time.monotonic() < deadline
        time.sleep(0.002)
    with pytest.raises(AssertionError), ledger.lock():  # taken over, although the dead child is still a zombie
        raise AssertionError
    child.communicate()
    assert not Path(ledger.path, "driver.json").exists()  # released by the error too
    assert ledger.events()[-1]["kind"] == "lock_taken_over"
    assert ledger.events()[-1]["pid"] == child.pid
    with ledger.lock(), pytest.raises(LedgerError, match=f"process {os.getpid()}"), ledger.lock():
        pass


@pytest.mark.parametrize(("change", "taken"), [({"started": 1.0}, True), ({"host": "elsewhere"}, False)])
def test_a_used_again_process_id_and_another_host(ledger, change, taken):
    with ledger.lock():
        holder = json.loads(Path(ledger.path, "driver.json").read_text())
    Path(ledger.path, "driver.json").write_text(json.dumps({**holder, **change}))
    if taken:
        with ledger.lock():
            pass
    else:
        with pytest.raises(LedgerError, match=r"on elsewhere .*delete driver\.json"), ledger.lock():
            pass


def test_one_of_many_takes_a_stale_lock_over(ledger):
    stale = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0, "token": "x", "time": "then"}
    Path(ledger.path, "driver.json").write_text(json.dumps(stale))
    start, end = threading.Barrier(6), threading.Event()
    outcomes: list[str] = []

    def drive():
        start.wait()
        try:
            with ledger.lock():
                outcomes.append("drives")
                end.wait(10)
        except LedgerError:
            outcomes.append("refused")

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 6:
        time.sleep(0.01)
    end.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["drives"] + ["refused"] * 5
