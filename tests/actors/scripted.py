"""A scripted engine, and replicas of it that are updated together; tests of replicas and of updates share them."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors import weights
from actors.engine import Completion, EngineError, Request, WeightError
from actors.replica import ModelReplica
from actors.weights import SyncReport, WeightSource, publish, sync

WAIT_S = 60  # a busy machine is no failure
NAME = f"{os.uname().nodename}:{os.getpid()}"


def checkpoint(folder: Path, value: float, shape: tuple[int, ...] = (2, 3), **other: Any) -> str:
    """A checkpoint of two tensors filled with `value`."""
    folder.mkdir()
    tensors = {"embed": np.full(shape, value, dtype=np.float32), "norm": np.full(4, value, dtype=np.float32)}
    save_file({**{k: v for k, v in tensors.items() if k not in other.get("without", ())}}, folder / "model.safetensors")
    return str(folder)


class ScriptedEngine:
    """The Engine protocol over one number: what its tensors are filled with. Delays and failures are attributes."""

    def __init__(self, folder: str):
        self.value = self._read(folder)
        self.load_s = 0.0
        self.reply_steps = 1
        self.fails_on: set[str] = set()  # names of folders whose load fails half way
        self.deaf = False  # abort is ignored
        self.health: str | None = None
        self.generated: list[str] = []  # request id of every attempt
        self._aborted: set[str] = set()
        self._loading = asyncio.Lock()  # real engines work off their calls one after another

    @staticmethod
    def _read(folder: str) -> float:
        return float(load_file(f"{folder}/model.safetensors")["norm"][0])

    async def generate(self, request: Request) -> list[Completion]:
        self.generated.append(request.request_id)
        seen = {self.value}
        for _ in range(self.reply_steps):
            await asyncio.sleep(0.005)
            seen.add(self.value)
            if request.request_id in self._aborted:
                self._aborted.discard(request.request_id)
                return [Completion(0, f"half of {seen}", [], "abort", None, "")]
        return [Completion(0, " and ".join(f"{value:g}" for value in sorted(seen)), [1], "stop", None, "")]

    async def abort(self, request_id: str) -> None:
        if not self.deaf:
            self._aborted.add(request_id)

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        before = self.value
        await asyncio.sleep(0.005 * self.reply_steps)
        return [[before, self.value] for _ in responses]

    async def load_weights(self, path: str) -> None:
        async with self._loading:
            self.value = -1.0
            await asyncio.sleep(self.load_s)
            if Path(path).name in self.fails_on:
                raise WeightError(f"{path}: out of memory at embed")
            self.value = self._read(path)

    async def check_health(self) -> None:
        if self.health:
            raise EngineError(self.health)

    async def shutdown(self) -> None:
        self.health = "shut down"


class Fleet:
    """Replicas on an event loop of their own, called as a Serve handle calls them: from another thread, all at once."""

    def __init__(self, folder: Path, count: int):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.folder = folder
        self.v0 = publish("actor", "v0", checkpoint(folder / "v0", 0.0), "checkpoint")
        self.current = self.v0
        self.replicas: list[ModelReplica] = []
        self.engines: list[ScriptedEngine] = []
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], Any]] = {}  # phase -> what happens just before it, once
        for _ in range(count):
            self.join(self.v0)

    def join(self, source: WeightSource) -> ModelReplica:
        async def make() -> tuple[ScriptedEngine, ModelReplica]:
            engine = ScriptedEngine(source.folder)
            return engine, ModelReplica(engine, source, source.folder)

        engine, replica = self.run(make())
        self.engines.append(engine)
        self.replicas.append(replica)
        return replica

    def source(self, version: str, value: float, transport: str = "checkpoint", **changes: Any) -> WeightSource:
        return publish("actor", version, checkpoint(self.folder / version, value, **changes), transport)

    def start(self, coroutine: Any) -> Future:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Any) -> Any:
        return self.start(coroutine).result(WAIT_S)

    def broadcast(self, method: str, *args: Any, timeout_s: float) -> list[dict[str, Any]]:
        self.calls.append(method)
        if method in self.before:
            self.before.pop(method)()
        end = time.monotonic() + timeout_s
        outcomes = []
        for call in [self.start(getattr(replica, method)(*args)) for replica in self.replicas]:
            try:
                outcomes.append(call.result(max(0.0, end - time.monotonic())))
            except Exception as error:  # as PoolClient.broadcast: late and dead replicas are failed outcomes
                outcomes.append({"replica": "?", "ok": False, "version": None, "error": repr(error)})
        return outcomes

    def set_current(self, source: WeightSource) -> None:
        self.current = source

    def sync(self, source: WeightSource, deadline_s: float = 10.0, drain_s: float = 1.0) -> SyncReport:
        return sync(self.broadcast, self.set_current, source, deadline_s, drain_s)

    def ask(self, replica: int, request_id: str = "r") -> Future:
        return self.start(self.replicas[replica].generate(Request(request_id, [1])))

    def state(self) -> list[tuple[str, str]]:
        """(version stamp, what the tensors say) of one reply of each replica: its gate must be open."""
        replies = [self.ask(i).result(WAIT_S)[0] for i in range(len(self.replicas))]
        return [(reply.weight_version, reply.text) for reply in replies]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"waited {WAIT_S} s"
            time.sleep(0.002)


@contextmanager
def fleets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[..., Fleet], None, None]:
    """Makes fleets of as many replicas as asked for (three), whose event loops end with the test."""
    monkeypatch.setattr(weights, "LATE_PERIOD_S", 0.01)
    made: list[Fleet] = []

    def make(count: int = 3) -> Fleet:
        made.append(Fleet(folder, count))
        return made[-1]

    try:
        yield make
    finally:
        for fleet in made:
            fleet.loop.call_soon_threadsafe(fleet.loop.stop)
