"""How a model is spread over train workers: one class a strategy, behind one small interface."""

import importlib.util
from typing import Any

from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.strategies.base import Strategy


def make_strategy(model: Any, config: TrainingConfig, device: str) -> Strategy:
    """The strategy that `config.strategy` names, around a causal language model on the CPU.

    Raises TrainingError where it needs a package that is not installed.
    """
    if config.strategy == "ddp":
        from pipelines.training.strategies.ddp import DataParallel

        return DataParallel(model, config, device)
    if config.strategy == "fsdp2":
        from pipelines.training.strategies.fsdp2 import FullyShardedDataParallel

        return FullyShardedDataParallel(model, config, device)
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(f"strategy={config.strategy} needs the package deepspeed: pip install deepspeed")
    from pipelines.training.strategies.zero import ZeroRedundancy

    return ZeroRedundancy(model, config, device)
