"""One replica of a model: an engine behind a gate that opens only on one weight version at a time."""

import asyncio
import dataclasses
import logging
import os
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError

from actors.engine import Completion, Engine, EngineError, Request
from actors.engines import start_engine
from actors.registry import application_name, find_registry
from actors.weights import Held, WeightSource, fetch_checked, remove_copy
from pipelines.config import ModelConfig

logger = logging.getLogger("ray.serve")
LEASE_PERIOD_S = 2.0
ABORT_TIMEOUT_S = 120.0


class ModelReplica:
    """What Ray Serve replicates for one model of one run."""

    def __init__(self, engine: Engine, source: WeightSource, model_folder: str):
        self._engine = engine
        self._source = source  # what the engine serves
        self._folder = model_folder  # where its tensors lie on this host
        self._prepared: tuple[WeightSource, str] | None = None
        self._touched = False  # the engine may hold something else than `_source`
        self._loaded = False  # the prepared version is in the engine, the gate is still closed
        self._gate = asyncio.Event()
        self._gate.set()
        self._update = asyncio.Lock()  # a call whose caller gave up still ends before the next one begins
        self._running: dict[str, bool] = {}  # request id -> must be started again
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken: str | None = None

    # -- answering ----------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> list[Completion]:
        """Answer with one weight version, stamped on every completion; waits while weights are being loaded."""
        while True:
            await self._opened()
            completions = await self._tracked(request.request_id, self._engine.generate(request))
            if completions is not None:
                return [dataclasses.replace(c, weight_version=self._source.version) for c in completions]

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> tuple[list[list[float]], str]:
        """Log-probabilities of responses, and the version they come from."""
        await self._opened()
        scores = await self._tracked(f"score-{id(responses)}", self._engine.score(prompt_ids, responses))
        assert scores is not None  # scoring is never restarted
        return scores, self._source.version

    async def _opened(self) -> None:
        while not self._gate.is_set():  # it may close again before a waiting request gets to run
            await self._gate.wait()

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
        async with self._update:
            try:
                if source.version != self._source.version:
                    self._discard()
                    folder = await asyncio.to_thread(fetch_checked, source, Held(self._source, self._folder))
                    self._prepared = (source, folder)
                return self._outcome()
            except Exception as error:
                return self._outcome(error)

    async def load_weights(self, version: str, drain_s: float) -> dict[str, Any]:
        """Close the gate, let running replies end for `drain_s` (the rest start again later), load the weights."""
        async with self._update:
            try:
                if version == self._source.version:
                    return self._outcome()
                if self._prepared is None or self._prepared[0].version != version:
                    raise EngineError(f"version {version} was not prepared here")
                self._gate.clear()
                await self._drain(drain_s)
                self._touched, self._loaded = True, False
                await self._engine.load_weights(self._prepared[1])
                self._loaded = True
                return self._outcome()
            except Exception as error:
                return self._outcome(error)

    async def resume(self, version: str) -> dict[str, Any]:
        """Serve the loaded version."""
        async with self._update:
            if self._loaded and self._prepared is not None and self._prepared[0].version == version:
                old_source, old_folder = self._source, self._folder
                self._source, self._folder = self._prepared
                self._prepared, self._touched, self._loaded = None, False, False
                remove_copy(old_source, old_folder)
            elif version != self._source.version:
                return self._outcome(EngineError(f"version {version} is not loaded here"))
            self._gate.set()
            return self._outcome()

    async def restore_weights(self) -> dict[str, Any]:
        """Undo an update that failed somewhere: back to the version served before it."""
        async with self._update:
            try:
                if self._touched:
                    await self._engine.load_weights(self._folder)
                self._touched = self._loaded = False
                self._discard()
                self._gate.set()
                return self._outcome()
            except Exception as error:
                self._broken = f"cannot return to version {self._source.version}: {error!r}"
                return self._outcome(error)

    async def follow(self, source: WeightSource, drain_s: float = 5.0) -> dict[str, Any]:
        """Go to a version that was committed without this replica, e.g. while it was starting."""
        outcome = await self.resume(source.version)
        if outcome["ok"]:
            return outcome
        outcome = await self.prepare_weights(source)
        if outcome["ok"]:
            outcome = await self.load_weights(source.version, drain_s)
        if outcome["ok"]:
            return await self.resume(source.version)
        await self.restore_weights()
        return outcome

    async def _drain(self, drain_s: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), drain_s)
        except TimeoutError:
            for request_id in list(self._running):
                if not request_id.startswith("score-"):
                    self._running[request_id] = True
                    await self._engine.abort(request_id.rstrip("'"))
            try:
                await asyncio.wait_for(self._idle.wait(), ABORT_TIMEOUT_S)
            except TimeoutError:
                names = ", ".join(self._running)
                raise EngineError(f"still running {ABORT_TIMEOUT_S:.0f} s after they were aborted: {names}") from None

    def _discard(self) -> None:
        if self._prepared is not None:
            remove_copy(*self._prepared)
            self._prepared = None

    def _outcome(self, error: Exception | None = None) -> dict[str, Any]:
        return {
            "replica": f"{os.uname().nodename}:{os.getpid()}",
            "ok": error is None,
            "version": self._source.version,
            "error": str(error) or repr(error) if error else None,
        }

    async def check_health(self) -> None:
        """Called by Ray Serve; raising gets this replica replaced."""
        if self._broken:
            raise EngineError(self._broken)
        await self._engine.check_health()

    async def close(self) -> None:
        """End the engine and remove what was copied to this host for it."""
        await self._engine.shutdown()
        self._discard()
        remove_copy(self._source, self._folder)


@serve.deployment
class ModelDeployment(ModelReplica):
    """A ModelReplica that starts from the run's current weights and ends with the run."""

    async def __init__(self, run: str, model: str, config: dict[str, Any]):
        self._run, self._model, self._registry = run, model, find_registry(run)
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
                source = await asyncio.wait_for(_current(self._registry, self._model), 60)
                if source.version != self._source.version:
                    await self.follow(source)
            except ActorDiedError:
                break  # the driver is gone
            except Exception as error:  # slow or out of reach for a moment is not dead, and the watch must go on
                logger.warning("lease of run %s: %r", self._run, error)
        await self.close()
        prefix = application_name(self._run, "")
        await asyncio.to_thread(delete_applications, prefix)

    async def __del__(self) -> None:
        lease = getattr(self, "_lease", None)
        if lease is not None:
            lease.cancel()
            await self.close()


async def _current(registry: Any, model: str) -> WeightSource:
    return await registry.current.remote(model)


def delete_applications(prefix: str) -> list[str]:
    """Delete every Serve application whose name starts with `prefix`; returns their names."""
    names = [name for name in serve.status().applications if name.startswith(prefix)]
    for name in names:
        serve.delete(name, _blocking=False)
    return names
