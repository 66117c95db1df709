"""Fully sharded data parallel (FSDP2): weights, gradients and moments are divided among the workers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from pipelines.training.strategies.base import State, global_norm, packed
from pipelines.training.strategies.ddp import DataParallel


class FullyShardedDataParallel(DataParallel):
    """Each decoder layer is gathered for its own forward and backward pass; embedding, norm and head stay together.

    The head is in the outermost group because PackedModel calls it, and calls it again while gradients are computed.
    Gradients are summed, and divided among the workers, in every backward.
    """

    lockstep = True

    def gradient_norm(self) -> float:
        """Every worker measures its shards."""
        shards = [p.grad.to_local() for p in self.parameters if isinstance(p.grad, DTensor)]
        self._norm = global_norm(shards, sharded=True)
        return float(self._norm)

    def load_state(self, state: State) -> None:
        """Every worker takes its part of each tensor."""
        super().load_state(state)
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()  # a forward pass without backward leaves the outermost group gathered, now outdated

    def _spread(self, model: Any) -> nn.Module:
        root = packed(model, self.config, self.device)
        workers = dist.group.WORLD
        assert workers is not None, "fsdp2 needs a process group"
        mesh = DeviceMesh.from_group(workers, torch.device(self.device).type)
        layers = [module for module in root.modules() if isinstance(module, GradientCheckpointingLayer)]
        for module in (*layers, root):
            sharded = fully_shard(module, mesh=mesh)
            sharded.set_gradient_divide_factor(1.0)  # sums, not means, over the workers
            sharded.set_force_sum_reduction_for_comms(True)
        return root

    def _whole(self, tensor: Tensor) -> Tensor:
        assert isinstance(tensor, DTensor)
        return tensor.full_tensor()

    def _fill(self, tensor: Tensor, whole: Tensor) -> None:
        assert isinstance(tensor, DTensor)
        whole = whole.to(tensor.device, tensor.dtype)
        tensor.copy_(distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None))
