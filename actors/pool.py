"""Pools: one Ray Serve application per model, and the client through which everyone talks to it.

Ray Serve brings replicas, health checks, restarts, routing and broadcast; here is only what it does not know: waiting
with a deadline for a model that is down, and refusing replies of another weight version.
"""

import asyncio
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from actors.engine import Completion, EngineError, Request
from actors.registry import application_name
from actors.replica import ModelDeployment
from actors.weights import SyncReport, WeightSource, sync
from pipelines.config import ModelConfig

DEPLOYMENT = "ModelDeployment"
_DOWN = (RayActorError, RayServeException)


class ModelUnavailable(RuntimeError):
    """A model stayed down past the deadline; the message names it and the last error."""


def deploy_pool(run: str, model: str, config: ModelConfig) -> None:
    """Start the replicas of `model`; its current weights must be in the registry. Returns at once."""
    options: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
    deployment: Any = ModelDeployment
    application = deployment.options(
        name=DEPLOYMENT,
        num_replicas=config.replicas,
        ray_actor_options=options,
        max_ongoing_requests=100_000,  # the engine schedules; replicas take everything routed to them
        health_check_period_s=5,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=20,
        graceful_shutdown_wait_loop_s=0.5,
    ).bind(run, model, config.model_dump())
    target = serve.RunTarget(application, name=application_name(run, model), route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


def wait_ready(run: str, models: dict[str, ModelConfig], poll: Any = None) -> None:
    """Wait until every pool runs, each within its `start_timeout_s`; raises ModelUnavailable naming pool and cause."""
    started = time.monotonic()
    while True:
        applications = serve.status().applications
        waiting = []
        for model, config in models.items():
            status = applications.get(application_name(run, model))
            state = status.status if status else "NOT_STARTED"
            message = status.message if status else ""
            if state == "RUNNING":
                continue
            if state == "DEPLOY_FAILED":
                raise ModelUnavailable(f"model {model}: its replicas do not start: {message[-2000:]}")
            if time.monotonic() - started > config.start_timeout_s:
                limit = f"{config.start_timeout_s:.0f} s"
                raise ModelUnavailable(f"model {model}: not ready after {limit}: {state} {message[-2000:]}")
            waiting.append(model)
        if not waiting:
            return
        if poll:
            poll(waiting)
        time.sleep(0.5)


def delete_pools(run: str) -> None:
    """Delete the run's applications and wait for their replicas to end."""
    names = [name for name in serve.status().applications if name.startswith(application_name(run, ""))]
    for name in names:
        serve.delete(name, _blocking=False)
    end = time.monotonic() + 60
    while time.monotonic() < end and set(names) & set(serve.status().applications):
        time.sleep(0.2)


class PoolClient:
    """Calls one model of one run. Picklable; each process makes its own Serve handle."""

    def __init__(self, run: str, model: str, request_timeout_s: float = 1800, unavailable_timeout_s: float = 300):
        self.run, self.model = run, model
        self.request_timeout_s, self.unavailable_timeout_s = request_timeout_s, unavailable_timeout_s
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    @property
    def handle(self) -> Any:
        """The Serve handle, made on first use."""
        if self._handle is None:
            self._handle = serve.get_app_handle(application_name(self.run, self.model))
        return self._handle

    async def generate(self, request: Request, version: str | None = None) -> list[Completion]:
        """The completions of one request, all made by `version` (any version when None).

        A request whose replica died is sent again with the same seed. Raises ModelUnavailable when the model stays
        down, or on another version, for `unavailable_timeout_s`.
        """
        return await self._retry(
            lambda: self.handle.generate.remote(request),
            lambda completions: version is None or all(c.weight_version == version for c in completions),
            f"version {version}",
        )

    async def score(
        self, prompt_ids: list[int], responses: list[list[int]], version: str | None = None
    ) -> tuple[list[list[float]], str]:
        """Per-token log-probabilities of `responses`, and the weight version they come from."""
        return await self._retry(
            lambda: self.handle.score.remote(prompt_ids, responses),
            lambda scored: version is None or scored[1] == version,
            f"version {version}",
        )

    async def _retry(self, call: Any, fits: Any, wanted: str) -> Any:
        down_since: float | None = None
        pause_s = 0.2
        while True:
            try:
                result = await asyncio.wait_for(call(), self.request_timeout_s)
                if fits(result):
                    return result
                problem = f"it does not serve {wanted}"
            except _DOWN as error:
                problem = repr(error)
            except RayTaskError as error:
                if not _engine_died(error):
                    raise
                problem = repr(error.cause)
            except TimeoutError as error:
                raise ModelUnavailable(
                    f"model {self.model} of run {self.run}: no reply within {self.request_timeout_s:.0f} s"
                ) from error
            down_since = down_since or time.monotonic()
            if time.monotonic() - down_since > self.unavailable_timeout_s:
                limit = f"{self.unavailable_timeout_s:.0f} s"
                raise ModelUnavailable(f"model {self.model} of run {self.run}: down for {limit}: {problem[:500]}")
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 1.5)

    def broadcast(self, method: str, *args: Any, timeout_s: float) -> list[dict[str, Any]]:
        """Call `method` on every replica; a replica that died or was late is a failed outcome."""
        results = self.handle.broadcast(method, *args).results(timeout_s=timeout_s, return_exceptions=True)
        return [
            {"replica": "?", "ok": False, "version": None, "error": repr(r)} if isinstance(r, BaseException) else r
            for r in results
        ]

    def versions(self) -> list[str]:
        """Weight version of every replica."""
        return [outcome["version"] for outcome in self.broadcast("status", timeout_s=60.0)]


def _engine_died(error: RayTaskError) -> bool:
    cause = error.cause
    return isinstance(cause, EngineError) or type(cause).__name__ == "EngineDeadError"


def sync_pool(client: PoolClient, registry: Any, source: WeightSource, deadline_s: float, drain_s: float) -> SyncReport:
    """Move every replica of the client's model to `source`; see actors.weights.sync."""

    def set_current(current: WeightSource) -> None:
        ray.get(registry.set_current.remote(current.model, current), timeout=60)

    return sync(client.broadcast, set_current, source, deadline_s, drain_s)
