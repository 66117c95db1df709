import os
import subprocess
import sys

import psutil
import pytest

from cluster.processes import describe, find_processes, is_alive, run_environment, run_of, stop_processes

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPS
RENAMED = "import setproctitle; setproctitle.setproctitle('VLLM::EngineCore');" + SLEEPS

ME = os.getpid()  # two test sessions on one machine must not find each other's processes


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
    mine, other, stranger = start(SLEEPS, f"test-a-{ME}"), start(SLEEPS, f"test-b-{ME}"), start(SLEEPS)
    assert pids(find_processes(f"test-a-{ME}")) == [mine.pid]
    everyone = pids(find_processes(None))
    assert mine.pid in everyone
    assert other.pid in everyone
    assert stranger.pid not in everyone
    assert run_of(psutil.Process(other.pid)) == f"test-b-{ME}"


def test_a_renamed_engine_is_still_found(start):
    engine = start(RENAMED, f"test-renamed-{ME}")
    (found,) = find_processes(f"test-renamed-{ME}")
    assert found.pid == engine.pid
    assert describe(found) == f"{engine.pid} VLLM::EngineCore"


def test_orphans_are_found_and_children_without_the_mark_follow_their_parent(start):
    clean = "{k: v for k, v in os.environ.items() if k != 'APPELLATE_RUN'}"
    code = (
        "import os, subprocess;"
        f"a = subprocess.Popen(['sleep', '61']); b = subprocess.Popen(['sleep', '62'], env={clean});"
    )
    parent = start(code + SLEEPS, f"test-tree-{ME}")
    by_words = {child.cmdline()[-1]: child.pid for child in psutil.Process(parent.pid).children()}
    marked, unmarked = by_words["61"], by_words["62"]
    assert set(pids(find_processes(f"test-tree-{ME}"))) == {parent.pid, marked, unmarked}
    parent.kill()
    parent.wait()
    try:
        assert pids(find_processes(f"test-tree-{ME}")) == [marked]
    finally:
        stop_processes([psutil.Process(pid) for pid in (marked, unmarked)], grace_s=5)
    assert find_processes(f"test-tree-{ME}") == []


def test_the_caller_and_its_parents_are_spared():
    code = (
        "import os; from cluster.processes import find_processes;"
        "print([p.pid for p in find_processes(os.environ['APPELLATE_RUN']) if p.pid in (os.getpid(), os.getppid())])"
    )
    env = os.environ | run_environment(f"test-self-{ME}")
    shell = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}"; true'], env=env, capture_output=True, text=True, check=True
    )
    assert shell.stdout.strip() == "[]"


def test_stop_ends_a_polite_process_before_the_grace_is_over(start):
    child = start(SLEEPS, f"test-stop-{ME}")
    assert stop_processes(find_processes(f"test-stop-{ME}"), grace_s=60) == []
    assert child.wait(timeout=5) == -15
    assert find_processes(f"test-stop-{ME}") == []


def test_stop_kills_what_ignores_sigterm(start):
    child = start(IGNORES_TERM, f"test-stubborn-{ME}")
    assert stop_processes(find_processes(f"test-stubborn-{ME}"), grace_s=0.2) == []
    assert child.wait(timeout=5) == -9


def test_stop_of_nothing_and_of_the_dead_is_nothing(start):
    assert stop_processes([]) == []
    child = start(SLEEPS, f"test-dead-{ME}")
    process = psutil.Process(child.pid)
    child.kill()
    assert stop_processes([process], grace_s=5) == []
    assert not is_alive(process)
