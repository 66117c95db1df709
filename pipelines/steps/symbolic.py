"""Equality of two mathematical expressions, asked of math-verify in a process of its own.

math-verify guards itself with SIGALRM, which works in main threads only and cannot stop `9^(9^9)` inside the integer
arithmetic. Here the kernel ends a helper process that used up its CPU time or memory, so a comparison can neither hang
nor take the caller down, from any thread, and the limit does not depend on how busy the machine is.
"""

import atexit
import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import threading
from functools import lru_cache

CPU_SECONDS = 2.0
START_SECONDS = 30.0  # importing sympy
MEMORY_BYTES = 4 << 30
WALL_SECONDS = 60.0  # when the machine itself stands still

_lock = threading.Lock()
_helper: subprocess.Popen[bytes] | None = None
_owner = 0


@lru_cache(maxsize=65_536)
def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds `answer` equal to `gold` (LaTeX or plain); False when it finds no answer in time."""
    with _lock:
        reply = _ask(_running(), json.dumps([gold, answer]).encode() + b"\n")
        if not reply:
            _stop()
        return reply == b"1\n"


def _running() -> subprocess.Popen[bytes]:
    """The helper of this process; a forked child gets its own."""
    global _helper, _owner
    if _helper is not None and _owner == os.getpid() and _helper.poll() is None:
        return _helper
    # -P keeps this folder, whose `select` is not Python's, out of the helper's import path
    _helper = subprocess.Popen(
        [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    _owner = os.getpid()
    return _helper


def _ask(helper: subprocess.Popen[bytes], line: bytes) -> bytes:
    """One reply line; empty when the helper ended or the wall limit passed."""
    assert helper.stdin and helper.stdout
    with contextlib.suppress(BrokenPipeError):
        helper.stdin.write(line)
        helper.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(helper.stdout, selectors.EVENT_READ)
        return helper.stdout.readline() if selector.select(START_SECONDS + WALL_SECONDS) else b""


@atexit.register
def _stop() -> None:
    global _helper
    if _helper is not None and _owner == os.getpid():
        _helper.kill()
        _helper.wait()
        for pipe in (_helper.stdin, _helper.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    _helper = None


def _serve() -> None:
    """The helper: a JSON line [gold, answer] in, `1` or `0` out. SIGPROF without a handler ends it at the CPU limit."""
    import logging
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; its end closes stdin
    signal.setitimer(signal.ITIMER_PROF, START_SECONDS)
    out, sys.stdout = sys.stdout, sys.stderr
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    latex = [LatexExtractionConfig()]  # the whole text as one expression: a number somewhere in it is not the answer
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            gold, answer = (parse(f"${_latex(text)}$", latex, parsing_timeout=0) for text in json.loads(line))
            same = bool(gold and answer) and verify(gold, answer, timeout_seconds=0)
        except Exception:
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write("1\n" if same else "0\n")
        out.flush()


def _latex(text: str) -> str:
    text = re.sub(r"(?<!\\)\bsqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    return re.sub(r"(?<!\\)\bpi\b", r"\\pi", text).replace("**", "^")


if __name__ == "__main__":
    _serve()
