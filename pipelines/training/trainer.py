"""Starts the train workers: Ray Train's TorchTrainer over the run's pairs."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from pipelines.ledger import Ledger
from pipelines.progress import RunProgress
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError


def train(
    settings: TrainingConfig, seed: int, ledger: Ledger, iteration: int, version: str, model_folder: str,
    reference_version: str | None = None,
) -> dict[str, Any]:
    """Train on the iteration's pairs from weights `version` in `model_folder`; returns `training_summary`.

    The pairs' reference log-probabilities must come from `reference_version`, the start weights when not given. The
    new checkpoint is in `ledger.checkpoint_dir(iteration)`. A worker group that loses a worker, or is given more, goes
    on from its last state with the same batches, after failures up to `max_failures` times. Raises TrainingError with
    the workers' own message, or when they do not start within `start_timeout_s` or end within `timeout_s`.
    """
    import ray.train
    import ray.train.torch

    from pipelines.training.worker import train_loop

    api: Any = ray.train  # its annotations are unions of two API generations, which no call can satisfy
    trainer = api.torch.TorchTrainer(
        train_loop,
        train_loop_config={
            "config": settings.model_dump(),
            "ledger": ledger,
            "iteration": iteration,
            "model": model_folder,
            "version": version,
            "reference_version": reference_version or version,
            "seed": seed,
        },
        torch_config=api.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if settings.num_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=settings.num_workers,
            elastic_resize_monitor_interval_s=settings.resize_every_s,
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
    """First and last step, and what was left out, from the iteration's metrics."""
    records = ledger.read_metrics(iteration)
    steps = current_steps(records)
    taken = [step for step in steps if not step["skipped"]]
    left_out = [record["count"] for record in records if record.get("event") == "left_out"]
    validated = [record["loss"] for record in records if record.get("event") == "validation"]
    validated = [loss for loss in validated if loss is not None]
    summary: dict[str, Any] = {"steps": len(taken), "skipped_steps": len(steps) - len(taken)}
    summary |= {"left_out_pairs": left_out[-1]} if left_out else {}
    summary |= {"best_validation_loss": min(validated)} if validated else {}
    if not taken:  # a skipped step may have no finite number at all
        return summary
    first, last = taken[0], taken[-1]
    return summary | {
        "first_loss": first["loss"],
        "last_loss": last["loss"],
        "first_dpo_loss": first.get("dpo_loss"),
        "last_dpo_loss": last.get("dpo_loss"),
        "last_accuracy": last["accuracy"],
        "last_margin": last["margin"],
        "seconds": sum(step["seconds"] for step in steps),
        "tokens_per_s": sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps),
        "peak_memory_gib": max(step["peak_memory_gib"] for step in steps),
    }


def current_steps(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every step once, in order: a worker group that starts again takes the steps after its state anew."""
    steps: dict[int, dict[str, Any]] = {}
    for record in metrics:
        if record.get("event") == "start":
            steps = {number: step for number, step in steps.items() if number < record["first_step"]}
        elif "step" in record:
            steps[record["step"]] = record
    return [steps[number] for number in sorted(steps)]


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
                loss = steps[-1].get("loss")
                progress.update(len(steps), tokens, note="skipped a step" if loss is None else f"loss {loss:.4f}")

    thread = threading.Thread(target=follow, name="watch-training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
