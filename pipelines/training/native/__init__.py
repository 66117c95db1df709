"""The trainer's inner loops in C++, for CPUs with bfloat16 products (AVX-512): compiled once a machine, on first use.

Everything here has a form in torch that gives the same numbers up to rounding, in `lean.py` and `attention.py`; it is
used where there is no such CPU or no C++ compiler, and for what the loops do not know (`fits`).
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
SOURCES = ("attention.cpp", "rows.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-w")
NEEDED = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})
COMPILE_TIMEOUT_S = 300


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops; None where this machine cannot have them. APPELLATE_NATIVE=0 does without."""
    if os.environ.get("APPELLATE_NATIVE") == "0" or not cpu_flags() >= NEEDED:
        return None
    compiler = find_compiler()
    if compiler is None:
        logger.warning("no C++ compiler: training on this CPU takes up to twice as long; install g++ (or set CXX)")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning("the C++ loops could not be compiled, training goes on without them: %s", said[-2000:])
        return None


def find_compiler() -> str | None:
    """The C++ compiler: $CXX, g++ or clang++."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def cpu_flags() -> frozenset[str]:
    """What this CPU can do, as Linux names it; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _built(compiler: str) -> Path:
    """The library's file, made from the sources unless the same sources were compiled for such a CPU before."""
    here = Path(__file__).parent
    sources = [here / name for name in SOURCES]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    parts = [file.read_text("utf-8") for file in (here / "bfloat16.h", *sources)]
    key = hashlib.sha256("\0".join([*parts, *FLAGS, version, *sorted(cpu_flags())]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("APPELLATE_CACHE") or "~/.cache/appellate").expanduser() / "native"
    target = folder / f"loops-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:  # workers compile side by side; the last rename wins
            partial = Path(made) / target.name
            command = [compiler, *FLAGS, *map(str, sources), "-o", str(partial)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_TIMEOUT_S)
            os.replace(partial, target)
    return target


def fits(*tensors: "Tensor") -> bool:
    """Whether the loops are there and know these: bfloat16 on the CPU."""
    import torch  # not above: `appellate doctor` asks this module, too

    return all(t.dtype == torch.bfloat16 and t.device.type == "cpu" for t in tensors) and library() is not None


def call(name: str, *arguments: "Tensor | int | float | None") -> None:
    """Call a loop: tensors as their memory (kept alive by the caller), integers as long, numbers as float."""
    found = library()
    assert found is not None
    getattr(found, name)(*map(_argument, arguments))


def _argument(value: "Tensor | int | float | None") -> ctypes.c_void_p | ctypes.c_long | ctypes.c_float:
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())
