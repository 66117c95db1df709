"""A pool of two replicas on a real cluster: updates, a failed update, a killed replica, a missing model."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from actors.engine import Request
from actors.pool import ModelUnavailable, PoolClient
from actors.weights import SyncError
from pipelines.config import ModelConfig, ServeConfig, SyncConfig
from tests.e2e.commands import left_behind, wait_for

pytestmark = pytest.mark.slow
MODEL = ModelConfig(engine="transformers", replicas=2, num_cpus=0.1, dtype="float32", max_model_len=512, threads=1)


def _moved(folder: str, to: Path, scale: float, drop: str | None = None) -> str:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    tensors = {k: (v.float() * scale).to(v.dtype) for k, v in load_file(to / "model.safetensors").items() if k != drop}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


def _pids(client: PoolClient) -> list[int]:
    outcomes = client.broadcast("status", timeout_s=30)
    return [int(outcome["replica"].split(":")[1]) for outcome in outcomes if outcome["ok"]]


def test_pool_of_two(tiny_model: str, tmp_path: Path) -> None:
    from cluster.session import open_session

    good = _moved(tiny_model, tmp_path / "good", 1.1)
    other = _moved(tiny_model, tmp_path / "other", 0.9)
    unfit = _moved(tiny_model, tmp_path / "unfit", 1.0, drop="model.norm.weight")
    request = Request("r", [5, 6, 7], n=2, temperature=1.0, max_tokens=4, seed=3)
    http = ServeConfig(enabled=False)
    with open_session("pooltest", {"m": MODEL}, SyncConfig(transport="object_store"), http, None) as session:
        session.start_models({"m": ("v0", tiny_model)}, lambda waiting: None)
        client = session.clients["m"]
        first = asyncio.run(PoolClient("pooltest", "m").generate(request))
        assert {c.weight_version for c in first} == {"v0"}
        assert [c.seed for c in first] == [3, 4]

        report = session.sync("m", "v1", good)
        assert report.replicas == 2
        assert client.versions() == ["v1", "v1"]
        assert len(list(Path("/dev/shm").glob("appellate-weights-*-v1-*"))) == 2
        assert not list(Path("/dev/shm").glob("appellate-weights-*-v0-*")), "copies of old versions are removed"

        with pytest.raises(SyncError, match=r"m@v2.*model\.norm\.weight: missing"):
            session.sync("m", "v2", unfit)
        assert client.versions() == ["v1", "v1"]
        scores_before = asyncio.run(PoolClient("pooltest", "m").score([5, 6], [[7, 8]]))

        victim = _pids(client)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: len(_pids(client)) == 2 and victim not in _pids(client), 120, "the killed replica to be replaced"
        )
        assert client.versions() == ["v1", "v1"], "a new replica starts from the current weights"
        for _ in range(6):
            assert asyncio.run(PoolClient("pooltest", "m").score([5, 6], [[7, 8]])) == scores_before

        assert session.sync("m", "v3", other).replicas == 2
        assert asyncio.run(PoolClient("pooltest", "m").generate(request, "v3"))[0].weight_version == "v3"
        with pytest.raises(ModelUnavailable, match="nobody"):
            asyncio.run(PoolClient("pooltest", "nobody", unavailable_timeout_s=2).generate(request))
        with pytest.raises(ModelUnavailable, match="v9"):
            asyncio.run(PoolClient("pooltest", "m", unavailable_timeout_s=2).generate(request, "v9"))
    assert left_behind("pooltest") == []
    assert not list(Path("/dev/shm").glob("appellate-weights-*"))
