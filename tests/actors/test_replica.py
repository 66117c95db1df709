"""Weight updates of live replicas: all go, or none does, and no reply is of two versions. Engines are scripted."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors import replica as replica_module
from actors import weights
from actors.engine import Completion, EngineError, Request, WeightError
from actors.replica import ModelReplica
from actors.weights import SyncError, SyncReport, WeightSource, publish, sync

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


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LATE_PERIOD_S", 0.01)
    fleets = []

    def make(count: int = 3) -> Fleet:
        fleets.append(Fleet(tmp_path, count))
        return fleets[-1]

    yield make
    for made in fleets:
        made.loop.call_soon_threadsafe(made.loop.stop)


def refused(fleet: Fleet, source: WeightSource, match: str, **limits: float) -> str:
    """The message of a sync that fails and leaves every replica, its tensors and the registry as they were."""
    before = fleet.state()
    with pytest.raises(SyncError, match=match) as error:
        fleet.sync(source, **limits)
    assert fleet.state() == before
    assert fleet.current.version == before[0][0]
    return str(error.value)


# ---- all go


def test_all_replicas_move_and_the_commit_is_recorded_before_a_gate_opens(fleet):
    three = fleet()
    three.before["resume"] = lambda: three.calls.append(f"current is {three.current.version}")
    report = three.sync(three.source("v1", 1.0))
    assert three.state() == [("v1", "1")] * 3
    assert (report.version, report.replicas) == ("v1", 3)
    assert three.calls == ["prepare_weights", "load_weights", "resume", "current is v1"]


def test_a_second_sync_to_the_same_version_changes_nothing(fleet):
    two = fleet(2)
    source = two.source("v1", 1.0)
    two.sync(source)
    for engine in two.engines:
        engine.fails_on = {"v1"}  # it must not be loaded again
    assert two.sync(source).replicas == 2
    assert two.state() == [("v1", "1")] * 2


def test_versions_follow_one_another_back_too(fleet):
    two = fleet(2)
    two.sync(two.source("v1", 1.0))
    two.sync(two.source("v2", 2.0))
    two.sync(two.v0)
    assert two.state() == [("v0", "0")] * 2


def test_requests_that_come_during_the_load_wait_for_the_new_version(fleet):
    one = fleet(1)
    one.engines[0].load_s = 0.2
    moving = one.start(asyncio.to_thread(one.sync, one.source("v1", 1.0)))
    one.until(lambda: one.engines[0].value == -1.0)
    asked = [one.ask(0, f"r{i}") for i in range(3)]
    scored = one.start(one.replicas[0].score([1], [[2]]))
    assert one.engines[0].generated == []
    moving.result(WAIT_S)
    assert [(reply.weight_version, reply.text) for call in asked for reply in call.result(WAIT_S)] == [("v1", "1")] * 3
    assert scored.result(WAIT_S) == ([[1.0, 1.0]], "v1")


def test_a_reply_that_ends_while_draining_is_of_the_old_version(fleet):
    one = fleet(1)
    one.engines[0].reply_steps = 20
    asked, scored = one.ask(0), one.start(one.replicas[0].score([1], [[2]]))
    one.until(lambda: one.engines[0].generated == ["r"])
    one.sync(one.source("v1", 1.0), drain_s=5.0)
    assert [(reply.weight_version, reply.text) for reply in asked.result(WAIT_S)] == [("v0", "0")]
    assert scored.result(WAIT_S) == ([[0.0, 0.0]], "v0")
    assert one.engines[0].generated == ["r"]


def test_a_reply_that_outlasts_the_drain_is_made_again_by_one_version(fleet):
    one = fleet(1)
    one.engines[0].reply_steps, one.engines[0].load_s = 10_000, 0.2
    asked = one.ask(0)
    one.until(lambda: one.engines[0].generated == ["r"])
    moving = one.start(asyncio.to_thread(one.sync, one.source("v1", 1.0), 10.0, 0.02))
    one.until(lambda: one.engines[0].value == -1.0)
    one.engines[0].reply_steps = 3
    moving.result(WAIT_S)
    assert [(r.weight_version, r.text, r.finish_reason) for r in asked.result(WAIT_S)] == [("v1", "1", "stop")]
    assert one.engines[0].generated == ["r", "r"]


def test_of_two_requests_with_one_id_the_second_is_made_again_too(fleet):
    """A retry beside its first try: the engine knows both by the same id."""
    one = fleet(1)
    first = one.ask(0, "same")
    one.engines[0].reply_steps = 10_000
    second = one.ask(0, "same")
    one.until(lambda: len(one.engines[0].generated) == 2)
    one.engines[0].reply_steps = 1
    first.cancel()
    one.until(lambda: len(one.replicas[0]._running) == 1)
    one.sync(one.source("v1", 1.0), drain_s=0.02)
    assert [(reply.weight_version, reply.text) for reply in second.result(WAIT_S)] == [("v1", "1")]


def test_a_replica_that_joins_before_the_gates_open_is_brought_along(fleet):
    two = fleet(2)
    two.before["resume"] = lambda: two.join(two.v0)
    report = two.sync(two.source("v1", 1.0))
    assert two.state() == [("v1", "1")] * 3
    assert report.replicas == 2


def test_a_replica_that_dies_after_the_commit_does_not_undo_it(fleet):
    two = fleet(2)
    source = two.source("v1", 1.0)

    def replace() -> None:
        async def dead(*_: Any) -> None:
            raise ConnectionError("the actor died")

        two.replicas[1].resume = dead
        two.before["follow"] = lambda: (two.replicas.pop(1), two.engines.pop(1), two.join(two.current))

    two.before["resume"] = replace
    two.sync(source)
    assert two.state() == [("v1", "1")] * 2


def test_a_replica_that_never_follows_is_named_at_the_deadline(fleet):
    two = fleet(2)

    def stuck() -> None:
        two.join(two.v0)
        two.engines[2].fails_on = {"v1"}

    two.before["resume"] = stuck
    with pytest.raises(SyncError, match=rf"actor@v1 are current, late at the deadline: replica {NAME}: version v1 is"):
        two.sync(two.source("v1", 1.0), deadline_s=0.3)
    assert two.state() == [("v1", "1"), ("v1", "1"), ("v0", "0")]


def test_a_replica_follows_a_version_that_was_committed_without_it(fleet):
    one = fleet(1)
    source = one.source("v1", 1.0)
    assert one.run(one.replicas[0].follow(source))["ok"]
    assert one.state() == [("v1", "1")]
    one.engines[0].fails_on = {"v2"}
    outcome = one.run(one.replicas[0].follow(one.source("v2", 2.0)))
    assert (outcome["ok"], outcome["version"]) == (False, "v1")
    assert one.state() == [("v1", "1")]


# ---- none goes


def test_a_load_that_fails_leaves_all_on_the_old_version(fleet):
    three = fleet()
    three.engines[1].fails_on = {"v1"}
    source = three.source("v1", 1.0)
    message = refused(three, source, "out of memory at embed")
    assert message.startswith(f"weights actor@v1, load_weights: replica {NAME}: ")
    three.engines[1].fails_on = set()
    three.sync(source)
    assert three.state() == [("v1", "1")] * 3


def test_corrupted_bytes_are_found_by_checksum_before_anything_is_loaded(fleet):
    two = fleet(2)
    source = two.source("v1", 1.0)
    file = Path(source.folder) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    message = refused(two, source, "norm: checksum differs from the published one")
    assert message.startswith(f"weights actor@v1, prepare_weights: replica {NAME}: version v1: ")
    assert "embed" not in message
    assert "load_weights" not in two.calls


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shape": (3, 2)}, r"embed: shape \[3, 2\], expected \[2, 3\]"),
        ({"without": ("embed",)}, "embed: missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(fleet, changes, named):
    two = fleet(2)
    message = refused(two, two.source("v1", 1.0, **changes), named)
    assert message.startswith(f"weights actor@v1, prepare_weights: replica {NAME}: version v1: ")
    assert "load_weights" not in two.calls


def test_tensors_that_go_missing_after_publishing_are_named(fleet):
    two = fleet(2)
    source = two.source("v1", 1.0)
    save_file({"norm": np.full(4, 1.0, dtype=np.float32)}, Path(source.folder) / "model.safetensors")
    refused(two, source, "embed: missing")
    (Path(source.folder) / "model.safetensors").write_bytes(b"cut")
    refused(two, source, "3 bytes is no safetensors file")


def test_one_replica_that_cannot_fetch_holds_all_back(fleet, monkeypatch):
    three = fleet()
    fetched = []

    def fetch_checked(source: WeightSource, expected: Any) -> str:
        fetched.append(source.version)
        if len(fetched) == 2:
            raise WeightError(f"version {source.version}: embed: cannot be read")
        return source.folder

    monkeypatch.setattr(replica_module, "fetch_checked", fetch_checked)
    refused(three, three.source("v1", 1.0), "prepare_weights: replica .*embed: cannot be read")
    assert len(fetched) == 3


def test_an_error_without_words_is_still_named(fleet):
    two = fleet(2)

    async def late(path: str) -> None:
        raise TimeoutError

    load = two.engines[0].load_weights
    two.engines[0].load_weights = late
    two.before["restore_weights"] = lambda: setattr(two.engines[0], "load_weights", load)
    refused(two, two.source("v1", 1.0), r"load_weights: replica .*: TimeoutError\(\)")


def test_a_failed_commit_leaves_all_on_the_old_version(fleet, monkeypatch):
    two = fleet(2)

    def broken(source: WeightSource) -> None:
        raise TimeoutError("the registry did not answer")

    monkeypatch.setattr(two, "set_current", broken)
    refused(two, two.source("v1", 1.0), "the registry did not answer")


def test_no_replica_at_all_is_an_error(fleet):
    none = fleet(0)
    with pytest.raises(SyncError, match=r"actor@v1, prepare_weights: no replica answered"):
        none.sync(none.source("v1", 1.0))
    assert none.current.version == "v0"


def test_a_deadline_that_passes_leaves_all_on_the_old_version(fleet):
    """The late load goes on after its caller gave up; the restore waits for it and has the last word."""
    two = fleet(2)
    given_up = threading.Event()

    async def stuck(path: str) -> None:
        if path.endswith("v1"):
            await asyncio.to_thread(given_up.wait, WAIT_S)
        await load(path)

    load, two.engines[1].load_weights = two.engines[1].load_weights, stuck
    two.before["restore_weights"] = given_up.set
    message = refused(two, two.source("v1", 1.0), "actor@v1, load_weights: .*TimeoutError", deadline_s=2.0)
    assert "replica" in message
    assert two.engines[1].value == 0.0


def test_a_load_that_outlived_its_sync_cannot_load_behind_an_open_gate(fleet, monkeypatch):
    """It was still draining when its sync was undone; the next sync prepares the same version again."""
    one = fleet(1)
    monkeypatch.setattr(replica_module, "ABORT_TIMEOUT_S", 0.3)
    engine, source = one.engines[0], one.source("v1", 1.0)
    engine.deaf, engine.reply_steps = True, 60
    asked = one.ask(0)
    one.until(lambda: engine.generated == ["r"])

    async def overlap() -> None:
        replica = one.replicas[0]
        await replica.prepare_weights(source)
        zombie = asyncio.create_task(replica.load_weights("v1", 0.02))
        await asyncio.sleep(0.05)
        undo = asyncio.create_task(replica.restore_weights())
        again = asyncio.create_task(replica.prepare_weights(source))
        await asyncio.gather(zombie, undo, again)

    one.run(overlap())
    assert asked.result(WAIT_S)[0].text == "0"
    engine.reply_steps = 1
    assert one.state() == [("v0", "0")]


def test_replies_that_cannot_be_aborted_are_named(fleet, monkeypatch):
    one = fleet(1)
    monkeypatch.setattr(replica_module, "ABORT_TIMEOUT_S", 0.05)
    one.engines[0].deaf, one.engines[0].reply_steps = True, 100
    asked = one.ask(0, "stubborn")
    one.until(lambda: one.engines[0].generated == ["stubborn"])
    with pytest.raises(SyncError, match=r"load_weights: .*still running 0 s after they were aborted: stubborn"):
        one.sync(one.source("v1", 1.0), drain_s=0.02)
    assert asked.result(WAIT_S)[0].weight_version == "v0"


def test_a_replica_that_cannot_go_back_asks_to_be_replaced(fleet):
    two = fleet(2)
    two.engines[1].fails_on = {"v0", "v1"}
    with pytest.raises(SyncError, match="load_weights"):
        two.sync(two.source("v1", 1.0))
    assert two.ask(0).result(WAIT_S)[0].text == "0"
    two.run(two.replicas[0].check_health())
    with pytest.raises(EngineError, match=r"cannot return to version v0: .*out of memory at embed"):
        two.run(two.replicas[1].check_health())
    with pytest.raises(TimeoutError):  # its gate stays closed: half-loaded weights answer nobody
        two.ask(1).result(0.1)


def test_health_is_the_engines(fleet):
    one = fleet(1)
    one.run(one.replicas[0].check_health())
    one.run(one.replicas[0].close())
    with pytest.raises(EngineError, match="shut down"):
        one.run(one.replicas[0].check_health())


def test_a_version_that_was_never_prepared_or_loaded_is_refused(fleet):
    one = fleet(1)
    (outcome,) = one.broadcast("load_weights", "v7", 0.1, timeout_s=WAIT_S)
    assert (outcome["ok"], outcome["error"], outcome["version"]) == (False, "version v7 was not prepared here", "v0")
    (outcome,) = one.broadcast("resume", "v7", timeout_s=WAIT_S)
    assert (outcome["ok"], outcome["error"]) == (False, "version v7 is not loaded here")
    one.engines[0].fails_on = {"v1"}
    one.broadcast("prepare_weights", one.source("v1", 1.0), timeout_s=WAIT_S)
    one.broadcast("load_weights", "v1", 0.1, timeout_s=WAIT_S)
    (outcome,) = one.broadcast("resume", "v1", timeout_s=WAIT_S)  # prepared, but its load failed
    assert (outcome["ok"], outcome["error"]) == (False, "version v1 is not loaded here")


# ---- copies


class CopyTransport(weights.CheckpointTransport):
    """Like the object store: every fetch makes a copy on the host."""

    def __init__(self, folder: Path):
        self.folder = folder

    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        source = super().publish(model, version, folder)
        return WeightSource(source.model, version, "copy", folder, source.manifest)

    def fetch(self, source: WeightSource) -> str:
        import shutil
        import tempfile

        copy = tempfile.mkdtemp(prefix=f"{source.version}-", dir=self.folder)
        shutil.copytree(source.folder, copy, dirs_exist_ok=True)
        return copy


def test_copies_of_weights_that_nobody_serves_are_deleted(fleet, tmp_path, monkeypatch):
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setitem(weights.TRANSPORTS, "copy", CopyTransport(copies))

    def kept() -> list[str]:
        return sorted(path.name.split("-")[0] for path in copies.iterdir())

    two = fleet(2)
    two.sync(two.source("v1", 1.0, "copy"))
    assert kept() == ["v1", "v1"]
    two.engines[1].fails_on = {path.name for path in copies.iterdir()}
    wrong = two.source("v2", 2.0, "copy", shape=(3, 2))
    refused(two, wrong, "embed: shape")
    assert kept() == ["v1", "v1"]
    two.engines[1].fails_on = set()
    two.sync(two.source("v3", 3.0, "copy"))
    assert kept() == ["v3", "v3"]
    assert Path(two.v0.folder).is_dir()
