"""Trainings over a run folder, without Ray, and what they leave there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.ledger import Ledger
from pipelines.records import Pair
from pipelines.training.config import TrainingConfig
from pipelines.training.fit import Job, fit
from tests.pipelines.training.tiny import EXACT

CONFIG = TrainingConfig.model_validate(
    EXACT.model_dump() | {"learning_rate": 3e-3, "batch_pairs": 3, "epochs": 2, "pairs_together": 2, "save_every_s": 0}
)
TIMES = ("seconds", "tokens_per_s", "mfu", "peak_memory_gib")


def make_job(folder: Path, model: str, pairs: list[Pair], **changes: Any) -> Job:
    """A training of seed 5 on these pairs, in two parts, over a new run in `folder`."""
    config = TrainingConfig.model_validate(CONFIG.model_dump() | changes)
    ledger = Ledger.create(str(folder), None, {}, {})
    ledger.commit_pairs(0, pairs[::2], "0")
    ledger.commit_pairs(0, pairs[1::2], "1")
    return Job(config, ledger, 0, model, "v0", "v0", 5)


def run(job: Job, stop_at: int | None = None) -> list[dict[str, Any]]:
    """Train and give what was reported; with `stop_at`, die in the report of that step."""
    reported: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any]) -> None:
        reported.append(metrics)
        if metrics["step"] == stop_at:
            raise KeyboardInterrupt

    if stop_at is None:
        fit(job, "cpu", report)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(job, "cpu", report)
    return reported


def records(job: Job, event: str) -> list[dict[str, Any]]:
    """The metrics records of a kind."""
    return [record for record in job.ledger.read_metrics(0) if record.get("event") == event]


def timeless(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what depends on the machine."""
    return [{k: v for k, v in step.items() if k not in TIMES} for step in steps]


def checkpoint(job: Job) -> dict[str, torch.Tensor]:
    """The weights that a training left."""
    return load_file(Path(job.ledger.checkpoint_dir(0)) / "model.safetensors")


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
