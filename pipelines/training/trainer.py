"""Starts the train workers: Ray Train's TorchTrainer over the run's pairs."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from pipelines.config import RunConfig, TrainingConfig
from pipelines.ledger import Ledger
from pipelines.progress import RunProgress
from pipelines.training.errors import TrainingError


def train(config: RunConfig, ledger: Ledger, iteration: int, version: str, model_folder: str) -> dict[str, Any]:
    """Train on the iteration's pairs from weights `version` in `model_folder`; returns `training_summary`.

    The new checkpoint is in `ledger.checkpoint_dir(iteration)`. A worker group that loses a worker starts again from
    `model_folder` with the same batches, up to `training.max_failures` times. Raises TrainingError with the workers'
    own message, or when they do not start within `training.start_timeout_s` or end within `training.timeout_s`.
    """
    import ray.train
    import ray.train.torch

    from pipelines.training.worker import train_loop

    settings = config.training
    api: Any = ray.train  # its annotations are unions of two API generations, which no call can satisfy
    trainer = api.torch.TorchTrainer(
        train_loop,
        train_loop_config={
            "config": settings.model_dump(),
            "ledger": ledger,
            "iteration": iteration,
            "model": model_folder,
            "version": version,
            "seed": config.seed,
        },
        torch_config=api.torch.TorchConfig(backend="nccl" if settings.num_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=settings.num_workers,
            use_gpu=settings.num_gpus > 0,
            resources_per_worker={"CPU": settings.num_cpus} | ({"GPU": settings.num_gpus} if settings.num_gpus else {}),
        ),
        run_config=api.RunConfig(
            name=f"iteration-{iteration:04d}",
            storage_path=f"{ledger.path}/train",
            failure_config=api.FailureConfig(max_failures=settings.max_failures, controller_failure_limit=3),
        ),
    )
    before = len(ledger.read_metrics(iteration))
    _fit(trainer, settings, lambda: ledger.read_metrics(iteration)[before:])
    return training_summary(ledger, iteration)


def _fit(trainer: Any, settings: TrainingConfig, records: Callable[[], list[dict[str, Any]]]) -> None:
    """`trainer.fit()` with deadlines, on a thread of its own: in the main thread Ray Train would take over Ctrl-C."""
    outcome: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer.fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    threading.Thread(target=fit, name="train", daemon=True).start()
    begun, started = time.monotonic(), False
    while not outcome:
        time.sleep(0.5)
        elapsed = time.monotonic() - begun
        started = started or bool(records())
        if not started and elapsed > settings.start_timeout_s:
            raise TrainingError(f"the train workers did not start within {settings.start_timeout_s:.0f} s")
        if elapsed > settings.start_timeout_s + settings.timeout_s:
            raise TrainingError(f"not done after training.timeout_s={settings.timeout_s:.0f}")
    failures = [record["message"] for record in records() if record.get("event") == "error"]
    if failures:
        raise TrainingError(failures[-1])
    if outcome[0] is not None:
        raise outcome[0]


def training_summary(ledger: Ledger, iteration: int) -> dict[str, Any]:
    """First and last step of the last start of training, from the iteration's metrics."""
    steps = current_steps(ledger.read_metrics(iteration))
    taken = [step for step in steps if not step["skipped"]]
    skipped = len(steps) - len(taken)
    if not taken:  # a skipped step may have no finite number at all
        return {"steps": 0, "skipped_steps": skipped}
    first, last = taken[0], taken[-1]
    return {
        "steps": len(taken),
        "first_dpo_loss": first["dpo_loss"],
        "last_dpo_loss": last["dpo_loss"],
        "last_accuracy": last["accuracy"],
        "last_margin": last["reward_chosen"] - last["reward_rejected"],
        "skipped_steps": skipped,
        "seconds": sum(step["seconds"] for step in steps),
    }


def current_steps(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The step records after the last "start": earlier ones are of worker groups that died."""
    starts = [i for i, record in enumerate(metrics) if record.get("event") == "start"]
    return [record for record in metrics[starts[-1] + 1 if starts else 0 :] if "step" in record]


@contextlib.contextmanager
def watch(ledger: Ledger, iteration: int, progress: RunProgress) -> Generator[None]:
    """Show the training's steps while it runs: they come through the run folder, so no train worker waits for it."""
    stop = threading.Event()

    def follow() -> None:
        total = 0
        while not stop.wait(1.0):
            metrics = ledger.read_metrics(iteration)
            starts = [record for record in metrics if record.get("event") == "start"]
            steps = current_steps(metrics)
            if starts and starts[-1]["steps"] != total:
                total = starts[-1]["steps"]
                progress.stage(f"iteration {iteration}: training", total)
            if total and steps:
                tokens = int(sum(step["tokens"] for step in steps))
                loss = steps[-1].get("dpo_loss")
                progress.update(len(steps), tokens, note="skipped a step" if loss is None else f"loss {loss:.4f}")

    thread = threading.Thread(target=follow, name="watch-training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
