"""Versioned weights: publish a checkpoint, then move every replica of a model to it, or none.

`sync` has two phases. *Prepare*: each replica fetches and checks the tensors while it still serves the old version.
*Load*: each replica closes its gate (requests wait), loads, and keeps the gate closed until all have loaded; then all
open with the new version, or, if any failed, all go back to the old one. No reply is ever made by two versions.
"""

import dataclasses
import logging
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray

from actors.checkpoints import TensorInfo, compare_manifests, read_manifest, weight_files
from actors.engine import WeightError

logger = logging.getLogger("ray.serve")
Manifest = dict[str, TensorInfo]


@dataclass(frozen=True)
class WeightSource:
    """One published version: where its tensors are, and what they must look like."""

    model: str
    version: str
    transport: str
    folder: str  # the checkpoint on shared storage; object_store needs it only for configuration and tokenizer
    manifest: Manifest
    buckets: dict[str, Any] = field(default_factory=dict)  # shard name -> object reference of its bytes


class Held(NamedTuple):
    """What a replica serves, and the folder on its host that has the tensors."""

    source: WeightSource
    folder: str


class Transport(ABC):
    """How tensors travel from a checkpoint to a replica's host."""

    @abstractmethod
    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        """Offer the checkpoint in `folder` as `version`."""

    @abstractmethod
    def fetch(self, source: WeightSource, held: "Held | None") -> str:
        """Folder on this host whose safetensors shards hold `source`; not yet checked. `held` is what is served now."""


class CheckpointTransport(Transport):
    """Safetensors on storage that every node sees."""

    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        return WeightSource(model, version, "checkpoint", folder, dict(read_manifest(folder)))

    def fetch(self, source: WeightSource, held: Held | None) -> str:
        return source.folder


COPY_PREFIX = "appellate-weights-"


def sweep_copies(folder: str = "/dev/shm") -> None:
    """Remove fetched copies whose process was killed before it could."""
    for copy in Path(folder).glob(f"{COPY_PREFIX}*"):
        pid = copy.name.removeprefix(COPY_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(copy, ignore_errors=True)


class ObjectStoreTransport(Transport):
    """Shards as Ray objects: no shared storage needed, one copy a node."""

    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        buckets = {shard.name: ray.put(np.fromfile(shard, dtype=np.uint8)) for shard in weight_files(folder)}
        return WeightSource(model, version, "object_store", folder, dict(read_manifest(folder)), buckets)

    def fetch(self, source: WeightSource, held: Held | None) -> str:
        folder = _new_copy(source)
        _write_buckets(source, Path(folder))
        return folder


class AdapterTransport(CheckpointTransport):
    """Adapters alone: a replica that holds the weights they were trained on makes the new ones itself.

    Everybody else (a new replica, one that missed a version) reads the checkpoint, and so does all the world where
    nothing but the checkpoint was trained.
    """

    def publish(self, model: str, version: str, folder: str) -> WeightSource:
        from pipelines.training import adapters  # not above: torch is heavy, and most who import this need none

        source, adapter = super().publish(model, version, folder), Path(folder) / adapters.FOLDER
        buckets = {name: ray.put(np.fromfile(adapter / name, dtype=np.uint8)) for name in adapters.FILES
                   if (adapter / name).is_file()}
        return dataclasses.replace(source, transport="adapter", buckets=buckets)

    def fetch(self, source: WeightSource, held: Held | None) -> str:
        from pipelines.training import adapters

        if held is None or len(source.buckets) < len(adapters.FILES):
            return source.folder
        folder = _new_copy(source)
        with tempfile.TemporaryDirectory() as received:
            _write_buckets(source, Path(received))
            adapter = adapters.read_adapter(Path(received))
        if adapter.base != adapters.weights_digest(held.source.manifest):
            shutil.rmtree(folder)
            return source.folder
        adapters.merge_checkpoint(adapter, held.folder, folder)
        return folder


def _new_copy(source: WeightSource) -> str:
    memory = Path("/dev/shm")
    prefix = f"{COPY_PREFIX}{os.getpid()}-{source.version}-"
    return tempfile.mkdtemp(prefix=prefix, dir=memory if memory.is_dir() else None)


def _write_buckets(source: WeightSource, folder: Path) -> None:
    for name, reference in source.buckets.items():
        ray.get(reference, timeout=300).tofile(folder / name)


TRANSPORTS: dict[str, Transport] = {
    "checkpoint": CheckpointTransport(), "object_store": ObjectStoreTransport(), "adapter": AdapterTransport()
}


def publish(model: str, version: str, folder: str, transport: str) -> WeightSource:
    """Offer the checkpoint in `folder` to the replicas of `model`; loads nothing yet."""
    return TRANSPORTS[transport].publish(model, version, folder)


def fetch_checked(source: WeightSource, held: Held | None) -> str:
    """Fetch `source` and check every tensor's name, shape, dtype and checksum; raises WeightError naming what differs.

    `held` is what the replica serves; None for one that is just starting. Weights that were made from adapters and are
    not the published ones, as on a processor that computes otherwise, are read from the checkpoint instead.
    """
    folder = TRANSPORTS[source.transport].fetch(source, held)
    try:
        _check(source, read_manifest(folder), held)
    except Exception as error:
        remove_copy(source, folder)
        if source.transport != "adapter" or folder == source.folder or not isinstance(error, WeightError):
            raise
        logger.warning("weights made from adapters differ, reading the checkpoint: %s", error)
        return fetch_checked(dataclasses.replace(source, transport="checkpoint"), held)
    return folder


def _check(source: WeightSource, found: Manifest, held: Held | None) -> None:
    problems = compare_manifests(source.manifest, found)
    problems += [
        f"{name}: checksum differs from the published one"
        for name, info in source.manifest.items()
        if name in found and found[name].sha256 != info.sha256
    ]
    if held is not None:
        problems += compare_manifests(held.source.manifest, source.manifest)
    if problems:
        raise WeightError(f"version {source.version}: " + "; ".join(problems[:5]))


def remove_copy(source: WeightSource, folder: str) -> None:
    """Delete what `fetch` copied to this host; a folder that is the checkpoint itself stays."""
    if folder != source.folder:
        shutil.rmtree(folder, ignore_errors=True)


LATE_PERIOD_S = 0.5


class SyncError(RuntimeError):
    """No replica serves the new version, or some do not follow it; the message names replica, phase, version, cause."""


@dataclass(frozen=True)
class SyncReport:
    """Seconds each phase took, and how many replicas took part."""

    version: str
    replicas: int
    prepare_s: float
    load_s: float  # gates closed: what a waiting request can see


def sync(
    broadcast: Callable[..., list[dict[str, Any]]],
    set_current: Callable[[WeightSource], None],
    source: WeightSource,
    deadline_s: float,
    drain_s: float,
) -> SyncReport:
    """Move all replicas to `source`, or leave all on the version they have; raises SyncError.

    `broadcast(method, *args, timeout_s=...)` calls every replica and returns one outcome each: {"replica", "ok",
    "version", "error"}. `set_current` records the version that a starting replica loads.
    """
    end = time.monotonic() + deadline_s

    def call(phase: str, *args: Any) -> list[dict[str, Any]]:
        outcomes = broadcast(phase, *args, timeout_s=max(1.0, end - time.monotonic()))
        bad = [outcome for outcome in outcomes if not outcome["ok"]]
        if bad or not outcomes:
            names = "; ".join(f"replica {outcome['replica']}: {outcome['error']}" for outcome in bad)
            raise SyncError(f"weights {source.model}@{source.version}, {phase}: {names or 'no replica answered'}")
        return outcomes

    def undo() -> None:
        broadcast("restore_weights", timeout_s=max(60.0, end - time.monotonic()))

    started = time.monotonic()
    try:
        call("prepare_weights", source)
        prepared = time.monotonic()
        loaded = call("load_weights", source.version, drain_s)
        set_current(source)
    except SyncError:
        undo()
        raise
    except Exception as error:
        undo()
        raise SyncError(f"weights {source.model}@{source.version}: {error!r}") from error
    outcomes = broadcast("resume", source.version, timeout_s=60.0)
    done = time.monotonic()
    # The new version is current now. A replica that started meanwhile may hold the old one, and one that died is being
    # replaced: bring them along before anyone relies on the new version.
    while late := [outcome for outcome in outcomes if not outcome["ok"]]:
        if time.monotonic() > end:
            names = "; ".join(f"replica {outcome['replica']}: {outcome['error']}" for outcome in late)
            raise SyncError(f"weights {source.model}@{source.version} are current, late at the deadline: {names}")
        time.sleep(LATE_PERIOD_S)
        broadcast("follow", source, drain_s, timeout_s=max(1.0, end - time.monotonic()))
        outcomes = broadcast("resume", source.version, timeout_s=60.0)
    return SyncReport(source.version, len(loaded), prepared - started, done - prepared)
