"""The terminal belongs to the command: what Ray, vLLM and other libraries print goes to a log file."""

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from actors.checkpoints import cache_dir


def log_of(run_folder: str) -> Path:
    """The run's driver.log; of a run folder that is no local path, a file in the cache folder."""
    return Path(run_folder) / "driver.log" if "://" not in run_folder else cached_log(Path(run_folder).name)


def cached_log(name: str) -> Path:
    """A log of this machine that belongs to no run folder."""
    return cache_dir() / "logs" / f"{name}.log"


@contextlib.contextmanager
def captured_output(log: Path) -> Generator[TextIO]:
    """Send file descriptors 1 and 2 to the file `log`; yields the real standard output.

    Works below Python, since Ray's core prints from C++, and engines from processes of their own.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with os.fdopen(os.dup(kept[0]), "w", buffering=1) as terminal:
            os.dup2(target, 1)
            os.dup2(target, 2)
            try:
                yield terminal
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(kept[0], 1)
                os.dup2(kept[1], 2)
    finally:
        for descriptor in (*kept, target):
            os.close(descriptor)
