"""What a Ray Train worker does around a training: settings in, metrics out, and whose failure an error is."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import ray.train.torch
import torch

from pipelines.ledger import Ledger
from pipelines.training import worker
from pipelines.training.attention import TreeAttentionError
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.fit import Job


class Place:
    """A worker of a faked group: what `fit` is called with, and what goes to Ray."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: Ledger):
        self.ledger, self.rank, self.local_workers = ledger, 0, 1
        self.reported: list[dict[str, Any]] = []
        self.threads: list[int] = []
        self.jobs: list[tuple[Job, str]] = []
        self.says: list[dict[str, Any]] = []
        self.error: Exception | None = None
        context = SimpleNamespace(
            get_world_rank=lambda: self.rank, get_local_world_size=lambda: self.local_workers
        )
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray.train, "report", self.reported.append)
        monkeypatch.setattr(torch, "set_num_threads", self.threads.append)
        monkeypatch.setattr(worker, "fit", self.fit)

    def fit(self, job: Job, device: str, report: Any) -> None:
        self.jobs.append((job, device))
        for metrics in self.says:
            report(metrics)
        if self.error:
            raise self.error

    def run(self, **changes: Any) -> None:
        config = TrainingConfig(**changes).model_dump()
        worker.train_loop({
            "config": config, "ledger": self.ledger, "iteration": 3, "model": "/m", "version": "v2",
            "reference_version": "v0", "seed": 9,
        })  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    return Place(monkeypatch, Ledger.create(str(tmp_path), "r", {}, {}))


def test_a_worker_trains_the_job_that_it_is_given(place):
    place.run(loss="dpo + nll", num_workers=(1, 2))
    config = TrainingConfig(loss="dpo + nll", num_workers=(1, 2))
    assert place.jobs == [(Job(config, place.ledger, 3, "/m", "v2", "v0", 9), "cpu")]


def test_ray_gets_the_numbers_of_the_last_step_once(place):
    place.says = [{"loss": 0.5, "step": 0}, {"loss": float("nan"), "step": 1, "bad_pair_ids": "pair-1"}]
    place.run()
    assert place.reported == [{"loss": pytest.approx(float("nan"), nan_ok=True), "step": 1}]


def test_a_training_without_a_step_reports_nothing(place):
    place.run()
    assert place.reported == []


@pytest.mark.parametrize("error", [TrainingError, TreeAttentionError])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_the_training_goes_to_the_driver_once_and_is_not_tried_again(place, rank, error):
    place.rank, place.error = rank, error("pair x: not finite")
    place.run()
    told = [{"event": "error", "message": "pair x: not finite"}] if rank == 0 else []
    assert place.ledger.read_metrics(3) == told


def test_a_failure_of_the_worker_is_rays_to_try_again(place):
    place.error = RuntimeError("connection reset by peer")
    with pytest.raises(RuntimeError, match="connection reset"):
        place.run()
    assert place.ledger.read_metrics(3) == []


@pytest.mark.parametrize(("cores", "workers", "asked", "threads"), [(8, 2, None, 4), (2, 4, None, 1), (8, 2, 3, 3),
                                                                 (None, 1, None, 1)])  # fmt: skip
def test_the_workers_of_a_node_share_its_cores(place, monkeypatch, cores, workers, asked, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    place.local_workers = workers
    place.run(threads=asked)
    assert place.threads == [threads]


def test_a_worker_with_a_gpu_trains_on_its_own(place, monkeypatch):
    used: list[str] = []
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda", 3))
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    place.run(num_gpus=1)
    assert place.jobs[0][1] == "cuda:3"
    assert used == ["cuda:3"]
