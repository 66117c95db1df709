"""A run's stay on a Ray cluster: start or join it, bring the models up, and leave nothing behind."""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve

from actors.pool import PoolClient, delete_pools, deploy_pool, sync_pool, wait_ready
from actors.registry import NAMESPACE, start_registry
from actors.weights import SyncReport, WeightSource, publish, sweep_copies
from cluster.down import driver_note
from cluster.processes import find_processes, run_environment, stop_processes
from pipelines.config import ModelConfig, ServeConfig, SyncConfig

ROOT = Path(__file__).resolve().parent.parent


class SessionError(RuntimeError):
    """The cluster cannot be used; the message says what to do."""


class Session:
    """The models of one run on a cluster. Made by `open_session`."""

    def __init__(self, run: str, models: dict[str, ModelConfig], sync: SyncConfig, registry: Any):
        self.run, self.models, self._sync, self._registry = run, models, sync, registry
        self.clients = {model: PoolClient(run, model) for model in models}
        self.url: str | None = None
        self.route = "/"

    def start_models(self, sources: dict[str, tuple[str, str]], waiting: Callable[[list[str]], None]) -> None:
        """Start every model from its (version, folder) and wait until all answer; raises ModelUnavailable."""
        for model, (version, folder) in sources.items():
            self._set_current(publish(model, version, folder, self._sync.transport))
            deploy_pool(self.run, model, self.models[model])
        wait_ready(self.run, self.models, waiting)

    def start_judge(self, model: str, folder: str, run_folder: str | None = None) -> str | None:
        """Put the judge, and a run's page, on HTTP; returns the URL, None where a cluster's HTTP address is another."""
        from serve.app import deploy_judge

        deploy_judge(self.run, model, folder, self.models[model].max_model_len, self.route, run_folder)
        wait_ready(self.run, {"http": ModelConfig(start_timeout_s=120)})
        with contextlib.suppress(httpx.HTTPError):
            if self.url and httpx.get(f"{self.url}/healthz", timeout=30, trust_env=False).status_code == 200:
                return self.url
        self.url = None
        return None

    def sync(self, model: str, version: str, folder: str) -> SyncReport:
        """Move the live replicas of `model` to the checkpoint in `folder`; raises SyncError, all on the old version."""
        source = publish(model, version, folder, self._sync.transport)
        return sync_pool(self.clients[model], self._registry, source, self._sync.deadline_s, self._sync.drain_s)

    def _set_current(self, source: WeightSource) -> None:
        ray.get(self._registry.set_current.remote(source.model, source), timeout=60)


def check_capacity(cpus: float, gpus: float) -> None:
    """Raise SessionError when the cluster has less than the run needs at once, before anything starts."""
    there = ray.cluster_resources()
    missing = [
        f"{need - there.get(name, 0):g} more {name}s ({need:g} needed, {there.get(name, 0):g} there)"
        for name, need in (("CPU", cpus), ("GPU", gpus))
        if need > there.get(name, 0) + 1e-6
    ]
    if missing:
        raise SessionError(
            f"the cluster lacks {' and '.join(missing)}; lower replicas, num_cpus or num_gpus of models or training"
        )


@contextlib.contextmanager
def open_session(
    run: str, models: dict[str, ModelConfig], sync: SyncConfig, http: ServeConfig, address: str | None
) -> Generator[Session]:
    """A stay on a cluster with models and their HTTP endpoint, all of which end with it.

    On a shared cluster the replicas of a driver that is killed notice that the registry is gone and take the run's
    applications down.
    """
    mine = False  # the run's applications are this process's own once it holds the registry
    with open_cluster(run, address):
        try:
            port = http.port or (free_port(8000) if address is None else 8000)
            serve.start(
                proxy_location="HeadOnly" if http.enabled else "Disabled",
                http_options={"host": http.host, "port": port},
                logging_config={"log_level": "WARNING"},
            )
            try:
                registry = start_registry(run)
            except ValueError as error:
                raise SessionError(f"run {run} is live on this cluster already; stop it: appellate down") from error
            mine = True
            session = Session(run, models, sync, registry)
            # Runs of a shared cluster share its HTTP address, so each has a path of its own.
            session.route = "/" if address is None else f"/{run}"
            session.url = f"http://{http.host}:{port}{session.route}".rstrip("/") if http.enabled else None
            yield session
        finally:
            _ignore_signals()
            if mine:
                with contextlib.suppress(Exception):
                    delete_pools(run)
            if ray.is_initialized() and address is None:
                with contextlib.suppress(Exception):
                    serve.shutdown()


@contextlib.contextmanager
def open_cluster(run: str, address: str | None) -> Generator[None]:
    """Start a local cluster, or join the one at `address`; on the way out stop every process of the run.

    Ctrl-C and SIGTERM leave through the same door. A driver that is killed takes its local cluster with it.
    """
    os.environ.update(run_environment(run))  # inherited by every process that a local cluster starts
    for name in ("ray", "ray.serve", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    with driver_note(run, address), _terminate_as_interrupt():
        try:
            _connect(run, address)
            _interrupt_on_terminate()  # Ray has put its own handler in place, which ends the process at once
            yield
        finally:
            _leave(run, address)


def _connect(run: str, address: str | None) -> None:
    environment = run_environment(run) | {"HF_HUB_OFFLINE": "1"}
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Workers run this source tree itself; a local cluster needs no copy of it.
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        options |= {
            "address": "local",
            "num_cpus": max(4, os.cpu_count() or 1),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": _object_store_bytes(),
            "runtime_env": {"env_vars": environment | {"PYTHONPATH": path}},
        }
    else:
        excludes = [".venv", ".git", "runs", "tests", "docs", "benchmarks", "**/__pycache__"]
        runtime = {"env_vars": environment, "working_dir": str(ROOT), "excludes": excludes}
        options |= {"address": address, "runtime_env": runtime}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise SessionError(f"no Ray cluster at {address}: {error}") from error


def _leave(run: str, address: str | None) -> None:
    _ignore_signals()
    try:
        ray.shutdown()
        if address is None:
            stop_processes(find_processes(run), grace_s=5)
            sweep_copies()
    finally:
        for name in run_environment(run):
            os.environ.pop(name, None)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _ignore_signals() -> None:
    """While leaving: a second Ctrl-C or SIGTERM must not leave engines behind."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Generator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    _interrupt_on_terminate()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, previous)


def _interrupt_on_terminate() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not the main thread, e.g. under a test runner
        signal.signal(signal.SIGTERM, interrupt)


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on at the loopback address."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SessionError(f"no free port between {first} and {first + 99}; set serve.port=...")


def _object_store_bytes() -> int:
    import psutil

    return int(min(2 * 2**30, psutil.virtual_memory().total * 0.1))
