"""Weight updates of all replicas of a model: all go, or none does. Engines are scripted."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors import replica as replica_module
from actors import weights
from actors.engine import WeightError
from actors.weights import Held, SyncError, WeightSource
from tests.actors.scripted import NAME, WAIT_S, Fleet, fleets


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    with fleets(tmp_path, monkeypatch) as make:
        yield make


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

    def fetch_checked(source: WeightSource, held: Held | None) -> str:
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


# ---- copies


class CopyTransport(weights.CheckpointTransport):
    """Like the object store: every fetch makes a copy on the host."""

    def __init__(self, folder: Path):
        self.folder = folder

    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        source = super().publish(model, version, folder)
        return WeightSource(source.model, version, "copy", folder, source.manifest)

    def fetch(self, source: WeightSource, held: Held | None) -> str:
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
