"""The interface of the strategies, and what they share."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.training.config import TrainingConfig
from pipelines.training.lean import make_lean
from pipelines.training.logprobs import PackedModel

# Of every trained parameter, whole and on the CPU: NAME, and AdamW's NAME.step, NAME.exp_avg, NAME.exp_avg_sq.
# The tensors may be the very ones that are trained: whoever keeps them over a step makes copies.
State = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")


class Strategy(ABC):
    """A model, its optimizer, and how gradients and weights are spread over the workers.

    Methods marked collective must be called by every worker at the same point.
    """

    model: nn.Module  # reads a Pack, as PackedModel does
    lockstep = False  # whether every worker must make the same number of forward and backward passes

    def __init__(self, config: TrainingConfig, device: str):
        self.config, self.device = config, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of `loss`, a scalar; `last` in a step. Gradients are summed over the workers. Collective
        where `lockstep`."""

    @abstractmethod
    def gradient_norm(self) -> float:
        """L2 norm of the whole model's gradient over all workers, after the last backward of a step. Collective."""

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """Clip to `max_grad_norm`, update the weights, and forget the gradients. Collective."""

    @abstractmethod
    def discard(self) -> None:
        """Forget the gradients without an update. Collective."""

    @abstractmethod
    def weights(self) -> State | None:
        """Trained weights by their name in the language model, on the CPU; None but on rank 0. Collective."""

    @abstractmethod
    def state(self) -> State | None:
        """Weights and moments on rank 0, None elsewhere: the same for every strategy and worker count. Collective."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Take over what `state` gave; every worker passes the whole of it. Collective."""

    def _on_first(self, tensors: Iterable[tuple[str, Tensor]]) -> State | None:
        """The tensors on the CPU of rank 0; every worker makes all of them, one after the other."""
        kept = {name: tensor.detach().cpu() for name, tensor in tensors if self.rank == 0}
        return kept if self.rank == 0 else None


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Trained parameters for AdamW: matrices decay, norms and biases do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def packed(model: Any, config: TrainingConfig, device: str, accumulate: bool = False) -> PackedModel:
    """The model as the strategies wrap it, for use under `autocast`; with activation checkpointing where asked for."""
    if device == "cpu":
        make_lean(model, accumulate)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only; attention dropout is refused, others are off
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # autocast does it, without a copy that is kept for backward
    return PackedModel(model, config.logprob_chunk)


def parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters of a PackedModel by their name in the language model."""
    return {name.removeprefix("lm."): p for name, p in model.named_parameters() if p.requires_grad}


def autocasts(config: TrainingConfig) -> bool:
    """Whether float32 weights are multiplied in bfloat16; adapters are float32 also on bfloat16 weights."""
    return config.autocast == "bfloat16" and (config.weights == "float32" or config.lora is not None)


def autocast(config: TrainingConfig, device: str) -> contextlib.AbstractContextManager[Any]:
    """The numerics of every forward pass."""
    if not autocasts(config):
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def global_norm(tensors: Iterable[Tensor], sharded: bool) -> Tensor:
    """L2 norm of all `tensors` together, in float32; over all workers, and collective, where they are shards."""
    total = torch.stack([_square_sum(tensor) for tensor in tensors]).sum()
    if sharded:
        dist.all_reduce(total)
    return total.sqrt()


def _square_sum(tensor: Tensor) -> Tensor:
    """Sum of squares in float32, in pieces that stay in the cache: a float32 copy of a whole tensor is slower."""
    if tensor.dtype == torch.float32:
        return torch.linalg.vector_norm(tensor).square()
    return torch.stack([piece.float().square().sum() for piece in tensor.flatten().split(2**20)]).sum()
