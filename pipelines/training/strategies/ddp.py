"""Data parallel: every worker has the whole model, gradients are summed once a step."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.training.config import TrainingConfig
from pipelines.training.strategies.base import (
    MOMENTS,
    State,
    Strategy,
    global_norm,
    packed,
    parameter_groups,
    parameter_names,
)

BUCKET_BYTES = 64 * 2**20


class DataParallel(Strategy):
    """Plain data parallel training with torch's AdamW; one worker alone is its simplest case."""

    def __init__(self, model: Any, config: TrainingConfig, device: str):
        super().__init__(config, device)
        self.model = self._spread(model)
        self.names = parameter_names(self.model)
        self.parameters = list(self.names.values())
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), lr=config.learning_rate, fused=True)
        self._norm = torch.zeros(())
        # All there will ever be of these is made before the first activation, so memory does not fall into pieces.
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    def backward(self, loss: Tensor, last: bool) -> None:
        """Only the last backward of a step is followed by communication."""
        loss.backward()

    def gradient_norm(self) -> float:
        """Sums the gradients over the workers first, in buckets."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.world > 1:
            _all_reduce(grads)
        self._norm = global_norm(grads, sharded=False)
        return float(self._norm)

    def step(self, learning_rate: float) -> None:
        """Clips by the norm that was asked for last."""
        if self._norm > self.config.max_grad_norm:  # or every gradient would be multiplied by 1
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.max_grad_norm, self._norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Gradients become zero and keep their memory."""
        self.optimizer.zero_grad(set_to_none=False)

    def weights(self) -> State | None:
        """One parameter after the other."""
        return self._on_first((name, self._whole(parameter)) for name, parameter in self.names.items())

    def state(self) -> State | None:
        """Read from the optimizer as it is, one tensor after the other."""
        return self._on_first(self._tensors())

    def load_state(self, state: State) -> None:
        """Copies into the parameters that there are."""
        with torch.no_grad():
            for name, parameter in self.names.items():
                self._fill(parameter, state[name])
                moments = self.optimizer.state[parameter]
                moments["step"] = state[f"{name}.step"].to(parameter.device, copy=True)
                for moment in MOMENTS:
                    moments[moment] = torch.zeros_like(parameter)
                    self._fill(moments[moment], state[f"{name}.{moment}"])

    def _spread(self, model: Any) -> nn.Module:
        """The model as this worker holds it."""
        return packed(model.to(self.device), self.config, self.device, accumulate=True)

    def _whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter or moment of which this worker may hold a part. Collective."""
        return tensor

    def _fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Set a parameter or moment to this worker's part of `whole`."""
        tensor.copy_(whole)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.names.items():
            found = self.optimizer.state.get(parameter, {})
            yield name, self._whole(parameter)
            yield f"{name}.step", found["step"] if found else torch.zeros(())
            for moment in MOMENTS:
                yield f"{name}.{moment}", self._whole(found[moment] if found else torch.zeros_like(parameter))


def _all_reduce(tensors: list[Tensor]) -> None:
    """Sum over the workers, many small tensors at a time."""
    bucket: list[Tensor] = []
    size = 0
    for i, tensor in enumerate(tensors):
        bucket.append(tensor)
        size += tensor.nbytes
        if size >= BUCKET_BYTES or i + 1 == len(tensors):
            flat = torch.cat([t.flatten() for t in bucket])
            dist.all_reduce(flat)
            for t, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                t.copy_(part.view_as(t))
            bucket, size = [], 0
