"""One replica of a model: an engine behind a gate that opens only on one weight version at a time."""

import asyncio
import dataclasses
import os
import shutil
from typing import Any

from ray import serve
from ray.exceptions import RayActorError

from actors.engine import Completion, Engine, EngineError, Request
from actors.registry import application_name, find_registry
from actors.weights import WeightSource, fetch_checked
from pipelines.config import ModelConfig

LEASE_PERIOD_S = 2.0


async def start_engine(folder: str, config: ModelConfig) -> Engine:
    """The engine named by `config.engine` on the checkpoint in `folder`."""
    if config.engine == "vllm":
        from actors.vllm_engine import VllmEngine

        return await VllmEngine.start(folder, config)
    from actors.torch_engine import TorchEngine

    return await TorchEngine.start(folder, config)


class ModelReplica:
    """What Ray Serve replicates for one model of one run."""

    def __init__(self, engine: Engine, source: WeightSource, model_folder: str):
        self._engine = engine
        self._source = source  # what the engine serves
        self._folder = model_folder  # where its tensors lie on this host
        self._prepared: tuple[WeightSource, str] | None = None
        self._loaded = False  # the prepared version is in the engine, the gate is still closed
        self._gate = asyncio.Event()
        self._gate.set()
        self._running: dict[str, bool] = {}  # request id -> must be started again
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken: str | None = None

    # -- answering ----------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> list[Completion]:
        """Answer with one weight version, stamped on every completion; waits while weights are being loaded."""
        while True:
            await self._gate.wait()
            completions = await self._tracked(request.request_id, self._engine.generate(request))
            if completions is not None:
                return [dataclasses.replace(c, weight_version=self._source.version) for c in completions]

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> tuple[list[list[float]], str]:
        """Log-probabilities of responses, and the version they come from."""
        await self._gate.wait()
        scores = await self._tracked(f"score-{id(responses)}", self._engine.score(prompt_ids, responses))
        assert scores is not None  # scoring is never restarted
        return scores, self._source.version

    async def _tracked(self, request_id: str, work: Any) -> Any:
        """Run `work` as in flight; None when a weight update asked for it to be started again."""
        while request_id in self._running:  # the same request twice at once, e.g. a retry beside its first try
            request_id += "'"
        self._running[request_id] = False
        self._idle.clear()
        try:
            result = await work
            return None if self._running[request_id] else result
        finally:
            del self._running[request_id]
            if not self._running:
                self._idle.set()

    # -- weights ------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Who this is and what it serves."""
        return self._outcome()

    async def prepare_weights(self, source: WeightSource) -> dict[str, Any]:
        """Fetch and check `source` while the old version is served."""
        try:
            if source.version != self._source.version:
                self._discard()
                folder = await asyncio.to_thread(fetch_checked, source, self._source.manifest)
                self._prepared = (source, folder)
            return self._outcome()
        except Exception as error:
            return self._outcome(error)

    async def load_weights(self, version: str, drain_s: float) -> dict[str, Any]:
        """Close the gate, let running replies end for `drain_s` (the rest start again later), load the weights."""
        try:
            if version == self._source.version:
                return self._outcome()
            if self._prepared is None or self._prepared[0].version != version:
                raise EngineError(f"version {version} was not prepared here")
            self._gate.clear()
            await self._drain(drain_s)
            self._loaded = True
            await self._engine.load_weights(self._prepared[1])
            return self._outcome()
        except Exception as error:
            return self._outcome(error)

    async def resume(self, version: str) -> dict[str, Any]:
        """Serve the loaded version."""
        try:
            if self._loaded and self._prepared is not None and self._prepared[0].version == version:
                old_source, old_folder = self._source, self._folder
                self._source, self._folder = self._prepared
                self._prepared, self._loaded = None, False
                _remove_copy(old_source, old_folder)
            elif version != self._source.version:
                raise EngineError(f"version {version} is not loaded here")
            self._gate.set()
            return self._outcome()
        except Exception as error:
            return self._outcome(error)

    async def restore_weights(self) -> dict[str, Any]:
        """Undo an update that failed somewhere: back to the version served before it."""
        try:
            if self._loaded:
                await self._engine.load_weights(self._folder)
            self._loaded = False
            self._discard()
            self._gate.set()
            return self._outcome()
        except Exception as error:
            self._broken = f"cannot return to version {self._source.version}: {error}"
            return self._outcome(error)

    async def _drain(self, drain_s: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), drain_s)
        except TimeoutError:
            for request_id in list(self._running):
                if not request_id.startswith("score-"):
                    self._running[request_id] = True
                    await self._engine.abort(request_id)
            await asyncio.wait_for(self._idle.wait(), 120)

    def _discard(self) -> None:
        if self._prepared is not None:
            _remove_copy(*self._prepared)
            self._prepared = None

    def _outcome(self, error: Exception | None = None) -> dict[str, Any]:
        return {
            "replica": f"{os.uname().nodename}:{os.getpid()}",
            "ok": error is None,
            "version": self._source.version,
            "error": str(error) if error else None,
        }

    async def check_health(self) -> None:
        """Called by Ray Serve; raising gets this replica replaced."""
        if self._broken:
            raise EngineError(self._broken)
        await self._engine.check_health()

    async def close(self) -> None:
        """End the engine."""
        await self._engine.shutdown()


def _remove_copy(source: WeightSource, folder: str) -> None:
    if folder != source.folder:
        shutil.rmtree(folder, ignore_errors=True)


@serve.deployment
class ModelDeployment(ModelReplica):
    """A ModelReplica that starts from the run's current weights and ends with the run."""

    async def __init__(self, run: str, model: str, config: dict[str, Any]):
        self._run, self._registry = run, find_registry(run)
        settings = ModelConfig.model_validate(config)
        source: WeightSource = await self._registry.current.remote(model)
        folder = await asyncio.to_thread(fetch_checked, source, None)
        engine = await start_engine(source.folder, settings)
        if folder != source.folder:
            await engine.load_weights(folder)
        super().__init__(engine, source, folder)
        self._lease = asyncio.create_task(self._watch_lease())

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_PERIOD_S)
            try:
                await asyncio.wait_for(_ping(self._registry), 60)
            except RayActorError:
                break  # the driver is gone
            except TimeoutError:
                continue  # slow is not dead
        await self.close()
        prefix = application_name(self._run, "")
        await asyncio.to_thread(delete_applications, prefix)

    async def __del__(self) -> None:
        lease = getattr(self, "_lease", None)
        if lease is not None:
            lease.cancel()
            await self.close()


async def _ping(registry: Any) -> str:
    return await registry.ping.remote()


def delete_applications(prefix: str) -> list[str]:
    """Delete every Serve application whose name starts with `prefix`; returns their names."""
    names = [name for name in serve.status().applications if name.startswith(prefix)]
    for name in names:
        serve.delete(name, _blocking=False)
    return names
