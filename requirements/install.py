"""Build the environment from a pinned list: `python3.11 requirements/install.py [--venv .venv]`.

Standard library only. A second call finds the stamp of the same list and returns at once; a call that was cut off left
no stamp, so the next one goes on from what is there.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STAMP = "appellate-stamp"
LOCK = "appellate-lock"
# PyTorch's own index has CPU builds, which spare gigabytes of CUDA libraries. Optional: without it the main one does.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 3.0
# Cut short by a broken package, not by a missing one: pip and uv have checked that all are there.
SMOKE = "import ray, transformers, vllm, torch; print('torch', torch.__version__)"


class InstallError(RuntimeError):
    """The environment cannot be built; the message says what to do."""


def check_python(version: tuple[int, int], system: str, machine: str) -> None:
    """Raise InstallError unless the pinned lists fit this interpreter and machine."""
    if not (3, 11) <= version < (3, 13):
        raise InstallError(
            f"needs Python 3.11 or 3.12, this is {version[0]}.{version[1]};"
            " name one: make env PYTHON=/path/to/python3.11"
        )
    if (system, machine) != ("Linux", "x86_64"):
        raise InstallError(
            f"the pinned lists are for Linux on x86_64, this is {system} on {machine};"
            " there, make an environment by hand from the extras in pyproject.toml"
        )


def choose_profile(env: dict[str, str], device: Path = Path("/dev/nvidiactl")) -> str:
    """`cpu` or `gpu`: APPELLATE_PROFILE when set, else whether an NVIDIA GPU answers."""
    named = env.get("APPELLATE_PROFILE")
    if named:
        if named not in ("cpu", "gpu"):
            raise InstallError(f"APPELLATE_PROFILE={named}: valid are cpu and gpu")
        return named
    if device.exists():
        return "gpu"
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if answer.returncode == 0 and "GPU" in answer.stdout else "cpu"


def read_pins(text: str) -> dict[str, str]:
    """Name -> version of every `name==version` line of a pinned list."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE))


def stamp_text(profile: str, pins: bytes) -> str:
    """What a finished environment carries: profile, list, and how this script installs."""
    digest = hashlib.sha256(pins + Path(__file__).read_bytes()).hexdigest()
    return f"{profile} {digest}\n"


def is_done(venv: Path, stamp: str) -> bool:
    """Whether `venv` was finished with exactly this stamp."""
    file = venv / STAMP
    return file.is_file() and file.read_text() == stamp and (venv / "bin" / "python").exists()


def index_answers(url: str, opener: Callable[..., Any] = urllib.request.urlopen) -> bool:
    """One short look whether an optional index can be reached, so that pip never waits for it."""
    try:
        with opener(url, timeout=PROBE_TIMEOUT_S) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def has_distribution(venv: Path, name: str, version: str) -> bool:
    """Whether `venv` holds `name` in this version; a local build (2.13.0+cpu) counts as its version."""
    found = [p.name for p in venv.glob(f"lib/python3*/site-packages/{name}-*.dist-info")]
    return any(re.fullmatch(rf"{name}-{re.escape(version)}(\+\S+)?\.dist-info", folder) for folder in found)


def say(text: str) -> None:
    """One line of progress."""
    print(f"[env] {text}", flush=True)


def call(*command: str | Path, quiet: bool = False) -> bool:
    """Run a command and tell whether it succeeded."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(word) for word in command], check=False, stdout=sink, stderr=sink).returncode == 0


def make_venv(venv: Path) -> Path:
    """A virtual environment at `venv` whose Python runs; returns that Python."""
    python = venv / "bin" / "python"
    if (venv / "pyvenv.cfg").exists() and call(python, "-m", "pip", "--version", quiet=True):
        code = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))"
        if call(python, "-c", code, quiet=True):
            return python
    elif any(path.name != LOCK for path in venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise InstallError(f"{venv}: not empty and no virtual environment; move it away or name another with --venv")
    if not call(sys.executable, "-m", "venv", "--clear", venv):
        raise InstallError(f"{sys.executable} -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    return python


def install_torch(venv: Path, python: Path, version: str, pins: Path) -> None:
    """Torch and what its build needs: what is installed, else a local wheel, else the CPU index, else the main one."""
    if has_distribution(venv, "torch", version):
        return
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"torch=={version}"]
    index: list[str] = []
    if not call(*pip, "--no-index", "--no-deps", quiet=True):
        if index_answers(f"{CPU_INDEX}/torch/"):
            index = ["--extra-index-url", CPU_INDEX]
        else:
            say(f"{CPU_INDEX} does not answer; torch comes from the main index")
    if not call(*pip, "-c", pins, *index):
        raise InstallError(f"pip could not install torch=={version}; its message stands above")


def install_list(python: Path, pins: Path, uv_version: str) -> None:
    """Every package of the list as it stands; uv is several times faster, pip is the way that is always there."""
    if call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"uv=={uv_version}"):
        uv = python.parent / "uv"
        if call(uv, "pip", "install", "-q", "--python", python, "--no-deps", "-r", pins):
            return
        say("uv could not install the list; trying pip")
    if not call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", pins):
        raise InstallError(f"could not install {pins.name}; the message of pip stands above")


def write_command(venv: Path, root: Path) -> None:
    """Put `appellate` into the environment: it runs the source tree at `root`, as Ray's workers do."""
    command = venv / "bin" / "appellate"
    command.write_text(
        f"#!{venv / 'bin' / 'python'}\n"
        f"import sys\n\nsys.path.insert(0, {str(root)!r})\nfrom appellate import app\n\nsys.exit(app())\n"
    )
    command.chmod(0o755)


@contextmanager
def only_one(venv: Path) -> Generator[None]:
    """Two calls on the same folder go one after the other."""
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another call is at work on this folder; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(venv: Path, profile: str) -> None:
    """Bring `venv` to the pinned list of `profile` and stamp it; no-op when it is stamped already."""
    pins = HERE / f"{profile}.txt"
    stamp = stamp_text(profile, pins.read_bytes())
    if is_done(venv, stamp):
        return
    with only_one(venv):
        if is_done(venv, stamp):
            return
        began = time.monotonic()
        versions = read_pins(pins.read_text())
        free = shutil.disk_usage(venv).free / 2**30
        need = 25 if profile == "gpu" else 10
        say(f"{venv}: {len(versions)} packages of requirements/{pins.name} for Python {platform.python_version()}")
        if free < need and not (venv / "pyvenv.cfg").exists():
            say(f"only {free:.0f} GiB of disk free, this may need {need}")
        (venv / STAMP).unlink(missing_ok=True)
        python = make_venv(venv)
        if profile == "cpu":
            say(f"torch {versions['torch']}")
            install_torch(venv, python, versions["torch"], pins)
        say("the other packages")
        install_list(python, pins, versions["uv"])
        say("trying the imports")
        if not call(python, "-c", SMOKE):
            raise InstallError("installed, but the imports fail; the traceback stands above")
        write_command(venv, HERE.parent)
        (venv / STAMP).write_text(stamp)
        say(f"ready in {time.monotonic() - began:.0f} s")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Build the environment from the pinned list.")
    parser.add_argument("--venv", type=Path, default=HERE.parent / ".venv", help="where (default: .venv)")
    options = parser.parse_args(argv)
    try:
        check_python(sys.version_info[:2], platform.system(), platform.machine())
        build(options.venv.absolute(), choose_profile(dict(os.environ)))
    except InstallError as error:
        print(f"[env] {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("[env] cut off; the next call goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
