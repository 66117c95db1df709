"""What each Ray Train worker runs."""

import os
from typing import Any

import torch

from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.fit import Job, fit


def train_loop(settings: dict[str, Any]) -> None:
    """Train on this worker. `settings` are a Job's fields, with `config` as plain data.

    A TrainingError would come again after a restart, so it goes to the driver through the run folder and ends the loop
    without a failure that Ray Train retries; every worker meets it at the same step.
    """
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    fields: dict[str, Any] = {**settings, "config": TrainingConfig.model_validate(settings["config"])}
    job = Job(**fields)
    # Ray gives a worker as many threads as it reserves CPUs; a fraction would leave it at one.
    torch.set_num_threads(job.config.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    device = "cpu"
    if job.config.num_gpus:
        device = str(ray.train.torch.get_device())
        torch.cuda.set_device(device)

    last: dict[str, Any] = {}
    try:
        fit(job, device, last.update)
        if last:  # once: each report waits until the controller looks, which it does every two seconds
            ray.train.report({name: value for name, value in last.items() if not isinstance(value, str)})
    except TrainingError as error:
        if context.get_world_rank() == 0:
            job.ledger.append_metrics(job.iteration, {"event": "error", "message": str(error)})
