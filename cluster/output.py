"""The terminal belongs to the run: what Ray and other libraries print goes to a log file."""

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from actors.checkpoints import cache_dir


@contextlib.contextmanager
def captured_output(run_folder: str) -> Generator[TextIO]:
    """Send file descriptors 1 and 2 to the run's driver.log; yields the real standard output.

    Works below Python, since Ray's core prints from C++. A run folder that is no local path logs to the cache folder.
    """
    local = "://" not in run_folder
    log = Path(run_folder) / "driver.log" if local else cache_dir() / "logs" / f"{Path(run_folder).name}.log"
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
