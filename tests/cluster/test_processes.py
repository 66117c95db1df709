import os
import subprocess
import sys
import time

import psutil
import pytest

from cluster.processes import describe, find_processes, is_alive, run_environment, run_of, stop_processes

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPS
RENAMED = "import setproctitle; setproctitle.setproctitle('VLLM::EngineCore');" + SLEEPS


@pytest.fixture
def start():
    """Start a Python child of a run that has said it is up; all are killed at the end."""
    children = []

    def launch(code, run=None, extra=()):
        env = {k: v for k, v in os.environ.items() if k not in ("APPELLATE_RUN", "SPT_NOENV")}
        env |= run_environment(run) if run else {}
        child = subprocess.Popen([sys.executable, "-c", code, *extra], env=env, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child

    yield launch
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def pids(processes):
    return [process.pid for process in processes]


def test_a_run_is_found_by_its_mark_alone(start):
    mine, other, stranger = start(SLEEPS, "test-a"), start(SLEEPS, "test-b"), start(SLEEPS)
    assert pids(find_processes("test-a")) == [mine.pid]
    everyone = pids(find_processes(None))
    assert mine.pid in everyone
    assert other.pid in everyone
    assert stranger.pid not in everyone
    assert run_of(psutil.Process(other.pid)) == "test-b"


def test_a_renamed_engine_is_still_found(start):
    engine = start(RENAMED, "test-renamed")
    (found,) = find_processes("test-renamed")
    assert found.pid == engine.pid
    assert describe(found) == f"{engine.pid} VLLM::EngineCore"


def test_orphans_are_found_and_children_without_the_mark_follow_their_parent(start):
    clean = "{k: v for k, v in os.environ.items() if k != 'APPELLATE_RUN'}"
    code = (
        "import os, subprocess;"
        f"a = subprocess.Popen(['sleep', '61']); b = subprocess.Popen(['sleep', '62'], env={clean});"
    )
    parent = start(code + SLEEPS, "test-tree")
    by_words = {child.cmdline()[-1]: child.pid for child in psutil.Process(parent.pid).children()}
    marked, unmarked = by_words["61"], by_words["62"]
    assert set(pids(find_processes("test-tree"))) == {parent.pid, marked, unmarked}
    parent.kill()
    parent.wait()
    try:
        assert pids(find_processes("test-tree")) == [marked]
    finally:
        stop_processes([psutil.Process(pid) for pid in (marked, unmarked)], grace_s=5)
    assert find_processes("test-tree") == []


def test_the_caller_and_its_parents_are_spared():
    code = (
        "import os; from cluster.processes import find_processes;"
        "print([p.pid for p in find_processes('test-self') if p.pid in (os.getpid(), os.getppid())])"
    )
    env = os.environ | run_environment("test-self")
    shell = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}"; true'], env=env, capture_output=True, text=True, check=True
    )
    assert shell.stdout.strip() == "[]"


def test_stop_ends_a_polite_process_before_the_grace_is_over(start):
    child = start(SLEEPS, "test-stop")
    began = time.monotonic()
    assert stop_processes(find_processes("test-stop"), grace_s=60) == []
    assert time.monotonic() - began < 60
    assert child.wait(timeout=5) == -15
    assert find_processes("test-stop") == []


def test_stop_kills_what_ignores_sigterm(start):
    child = start(IGNORES_TERM, "test-stubborn")
    assert stop_processes(find_processes("test-stubborn"), grace_s=0.2) == []
    assert child.wait(timeout=5) == -9


def test_stop_of_nothing_and_of_the_dead_is_nothing(start):
    assert stop_processes([]) == []
    child = start(SLEEPS, "test-dead")
    process = psutil.Process(child.pid)
    child.kill()
    assert stop_processes([process], grace_s=5) == []
    assert not is_alive(process)
