"""What Ray Train is asked for, when it is not waited for any longer, and what is read from the steps. Ray is faked."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import ray.train.torch

from pipelines.ledger import Ledger
from pipelines.training import trainer
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.trainer import current_steps, train, training_summary, watch
from pipelines.training.worker import train_loop

STEP: dict[str, Any] = {
    "skipped": 0.0, "loss": 0.5, "dpo_loss": 0.25, "accuracy": 1.0, "margin": 0.75, "seconds": 2.0, "tokens": 60.0,
    "peak_memory_gib": 3.0,
}


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger.create(str(tmp_path), "r", {}, {})


def step(number: int, **changes: Any) -> dict[str, Any]:
    return {"step": number, **STEP, **changes}


def start(first_step: int, steps: int = 9) -> dict[str, Any]:
    return {"event": "start", "first_step": first_step, "steps": steps}


def noted(ledger: Ledger, *records: dict[str, Any]) -> None:
    for record in records:
        ledger.append_metrics(0, record)


# ---- steps over restarts


def test_steps_that_were_taken_anew_count_once():
    first = [start(0), *(step(i, loss=i) for i in range(5))]
    again = [start(3), step(3, loss=30), step(4, loss=40), step(5, loss=50)]
    assert [s["loss"] for s in current_steps(first + again)] == [0, 1, 2, 30, 40, 50]
    assert [s["loss"] for s in current_steps([*first, start(3)])] == [0, 1, 2]
    assert [s["loss"] for s in current_steps([*first, *again, start(0), step(0, loss=7)])] == [7]
    assert current_steps([{"event": "left_out", "count": 3}, start(0), {"event": "validation", "steps": 1}]) == []


def test_a_summary_is_of_the_steps_that_were_taken_and_of_all_their_time(ledger):
    noted(
        ledger, start(0), step(0, loss=9.0), start(0),
        step(0, loss=None, dpo_loss=None, accuracy=None, skipped=1.0, bad_pair_ids="pair-0", peak_memory_gib=5.0),
        step(1, loss=0.7, dpo_loss=0.6), step(2, loss=0.4, dpo_loss=0.3, margin=1.5, accuracy=0.5),
        step(3, loss=None, skipped=1.0),
    )
    assert training_summary(ledger, 0) == {
        "steps": 2, "skipped_steps": 2, "first_loss": 0.7, "last_loss": 0.4, "first_dpo_loss": 0.6,
        "last_dpo_loss": 0.3, "last_accuracy": 0.5, "last_margin": 1.5, "seconds": 8.0, "tokens_per_s": 30.0,
        "peak_memory_gib": 5.0,
    }


def test_a_summary_of_steps_without_a_finite_number(ledger):
    assert training_summary(ledger, 0) == {"steps": 0, "skipped_steps": 0}
    noted(ledger, start(0), step(0, loss=None, skipped=1.0))
    assert training_summary(ledger, 0) == {"steps": 0, "skipped_steps": 1}


def test_a_summary_names_what_was_left_out_and_the_best_validation(ledger):
    left_out = {"event": "left_out", "count": 4, "reason": "long", "pair_ids": []}
    losses = [{"event": "validation", "steps": i, "loss": loss} for i, loss in enumerate([0.5, None, 0.25, 0.75])]
    noted(ledger, left_out, start(0), step(0), *losses, left_out, start(1), step(1))
    summary = training_summary(ledger, 0)
    assert (summary["left_out_pairs"], summary["best_validation_loss"], summary["steps"]) == (4, 0.25, 2)


def test_losses_without_a_reference_have_no_dpo_loss(ledger):
    plain = {name: value for name, value in STEP.items() if name != "dpo_loss"}
    noted(ledger, start(0), {"step": 0, **plain})
    assert training_summary(ledger, 0)["first_dpo_loss"] is None


# ---- the worker group


class FakeTrainer:
    """Ray Train's TorchTrainer: what it was asked for, and a `fit` that the test writes."""

    asked: dict[str, Any]
    work: Callable[[], None]

    def __init__(self, loop: Any, **options: Any):
        type(self).asked = {"loop": loop, **options}

    def fit(self) -> None:
        type(self).work()


@pytest.fixture
def group(monkeypatch) -> type[FakeTrainer]:
    """`group.work` is what the workers do; nobody sleeps longer than a moment."""

    class Fresh(FakeTrainer):
        work = staticmethod(lambda: None)

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Fresh)
    monkeypatch.setattr(trainer.time, "sleep", lambda seconds: threading.Event().wait(0.01))
    return Fresh


def ask(ledger: Ledger, reference_version: str | None = None, **changes: Any) -> dict[str, Any]:
    return train(TrainingConfig(**changes), 7, ledger, 0, "v2", "/model", reference_version)


def test_the_workers_get_all_that_a_job_is(ledger, group):
    group.work = staticmethod(lambda: noted(ledger, start(0), step(0)))
    summary = ask(ledger, loss="dpo + nll", num_workers=(2, 4), num_cpus=1.5, max_failures=5)
    assert summary["steps"] == 1
    asked = group.asked
    assert asked["loop"] is train_loop
    config = asked["train_loop_config"].pop("config")
    assert TrainingConfig.model_validate(config).losses == {"dpo": 1.0, "nll": 1.0}
    assert asked["train_loop_config"] == {
        "ledger": ledger, "iteration": 0, "model": "/model", "version": "v2", "reference_version": "v2", "seed": 7,
    }
    scaling = asked["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == ((2, 4), False, {"CPU": 1.5})
    assert asked["run_config"].failure_config.max_failures == 5
    assert asked["run_config"].storage_path == f"{ledger.path}/train"
    assert asked["torch_config"].backend == "gloo"


def test_workers_with_gpus_and_a_frozen_reference(ledger, group):
    ask(ledger, "frozen", num_gpus=1, num_workers=2)
    assert group.asked["train_loop_config"]["reference_version"] == "frozen"
    scaling = group.asked["scaling_config"]
    assert (scaling.use_gpu, scaling.resources_per_worker) == (True, {"CPU": 1.0, "GPU": 1.0})
    assert group.asked["torch_config"].backend == "cpu:gloo,cuda:nccl"


def test_an_error_of_the_training_is_told_in_its_own_words(ledger, group):
    """Those of an earlier attempt are not this one's."""
    noted(ledger, {"event": "error", "message": "of yesterday"})
    ask(ledger)

    def fail() -> None:
        noted(ledger, start(0), {"event": "error", "message": "pair x: DPO loss 7"})

    group.work = staticmethod(fail)
    with pytest.raises(TrainingError, match=r"^pair x: DPO loss 7$"):
        ask(ledger)


@pytest.mark.parametrize("error", [RuntimeError("a worker died 3 times"), KeyboardInterrupt()])
def test_another_failure_comes_through(ledger, group, error):
    def fail() -> None:
        raise error

    group.work = staticmethod(fail)
    with pytest.raises(type(error)) as caught:
        ask(ledger)
    assert caught.value is error


def test_workers_that_do_not_start_are_not_waited_for(ledger, group):
    end = threading.Event()
    group.work = staticmethod(lambda: end.wait(30) and None)
    noted(ledger, start(0), step(0))  # of an earlier attempt
    with pytest.raises(TrainingError, match=r"^the train workers did not start within 0 s$"):
        ask(ledger, start_timeout_s=0.05)
    end.set()


def test_a_training_that_does_not_end_is_not_waited_for(ledger, group):
    end = threading.Event()

    def work() -> None:
        noted(ledger, start(0))
        end.wait(30)

    group.work = staticmethod(work)
    with pytest.raises(TrainingError, match=r"^not done after training\.timeout_s=0$"):
        ask(ledger, start_timeout_s=0.3, timeout_s=0.1)
    end.set()


# ---- what is shown meanwhile


@pytest.mark.parametrize(
    ("records", "shown"),
    [
        (
            [start(0, 3), step(0), step(1), start(1, 3), step(1), step(2, loss=0.25)],
            (3, 180, "loss 0.2500"),
        ),
        ([start(0, 5), step(0), step(1, loss=None, skipped=1.0)], (2, 120, "skipped a step")),
    ],
)
def test_the_progress_follows_the_steps(ledger, records, shown):
    stages: list[tuple[str, int]] = []
    updates: list[tuple[int, int, str]] = []
    seen = threading.Event()

    def update(done: int, tokens: int, note: str) -> None:
        updates.append((done, tokens, note))
        seen.set()

    progress: Any = SimpleNamespace(stage=lambda name, total: stages.append((name, total)), update=update)
    noted(ledger, *records)
    with watch(ledger, 0, progress):
        assert seen.wait(30)
    assert stages == [("iteration 0: training", records[0]["steps"])]
    assert updates[0] == shown
