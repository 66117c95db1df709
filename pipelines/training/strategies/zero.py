"""ZeRO (Rajbhandari et al. 2020, 1910.02054) through DeepSpeed: moments, gradients and weights divided in stages."""

import math
import os
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.logprobs import chunked_logprobs
from pipelines.training.strategies.base import (
    MOMENTS,
    State,
    Strategy,
    autocasts,
    global_norm,
    packed,
    parameter_groups,
    parameter_names,
)

BUCKET_ELEMENTS = 50_000_000  # reduced or gathered at a time; DeepSpeed keeps a buffer of this size


class _OwningHead(nn.Module):
    """An output head that is gathered once a pass.

    DeepSpeed gathers weights when the module that has them is called. Called for every chunk, the head would be
    gathered more often on one worker than on another, which then wait for each other for ever.
    """

    def __init__(self, head: nn.Module, chunk: int):
        super().__init__()
        if type(head) is not nn.Linear:
            raise TrainingError(f"strategy=zero3 needs a plain output head, this model has {type(head).__name__}")
        self.weight, self.bias, self.chunk = head.weight, head.bias, chunk

    def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return chunked_logprobs(states, partial(F.linear, weight=self.weight, bias=self.bias), targets, self.chunk)


class ZeroRedundancy(Strategy):
    """Stage 1 divides the moments among the workers, 2 also the gradients, 3 also the weights.

    With bfloat16 weights DeepSpeed updates float32 copies of them, which are divided like the moments.
    """

    lockstep = True

    def __init__(self, model: Any, config: TrainingConfig, device: str):
        super().__init__(config, device)
        where = torch.device(device)
        # DeepSpeed asks the environment for the device; a worker on CPU may have a GPU beside it.
        os.environ["DS_ACCELERATOR"] = where.type
        os.environ["LOCAL_RANK"] = str(where.index or 0)
        # It calls what the newest torch has another name for, thousands of times.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        import deepspeed

        deepspeed.utils.logger.setLevel("ERROR")  # the learner reports what is skipped
        # On CPUs it would compile an extension that only inference uses: a minute, and a compiler to be there.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._deepspeed: Any = deepspeed
        self._stage = int(config.strategy.removeprefix("zero"))
        root = packed(model, config, device)
        self.names = parameter_names(root)
        optimizer = torch.optim.AdamW(parameter_groups(root, config), lr=config.learning_rate, fused=True)
        if self._stage == 3:
            root.head = _OwningHead(root.lm.get_output_embeddings(), config.logprob_chunk)
            # One parameter after the other, so that no device needs to hold the whole model.
            deepspeed.init_distributed(dist_init_required=False)
            deepspeed.zero.Init(module=root, config_dict_or_path=self._settings())
            root.to(where)  # the buffers
        engine, *_ = deepspeed.initialize(
            model=root, optimizer=optimizer, config=self._settings(), dist_init_required=False
        )
        self.model = self._engine = engine
        self._zero: Any = engine.optimizer
        self._make_moments()

    def backward(self, loss: Tensor, last: bool) -> None:
        """DeepSpeed takes the mean over the workers; stage 1 adds the workers up in the last backward of a step."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.world)

    def gradient_norm(self) -> float:
        """Every worker measures its share."""
        return float(global_norm(self._gradients(), sharded=True))

    def step(self, learning_rate: float) -> None:
        """Every worker updates its share."""
        self._zero.set_lr(learning_rate)
        self._engine.step()

    def discard(self) -> None:
        """A step on gradients that are not finite, which DeepSpeed forgets without an update."""
        if self.rank == 0:  # here each gradient begins; a worker without a part of it would never clear what it holds
            for gradient in self._gradients():
                gradient.fill_(math.nan)
        self._engine.step()

    def weights(self) -> State | None:
        """The float32 weights, one parameter after the other."""
        return self._on_first(
            (name, self._deepspeed.utils.safe_get_full_fp32_param(p)) for name, p in self.names.items()
        )

    def state(self) -> State | None:
        """Gathers one tensor after the other."""
        return self._on_first(self._tensors())

    def load_state(self, state: State) -> None:
        """Every worker takes its share of each tensor."""
        step = state[f"{next(iter(self.names))}.step"]
        for moments in self._zero.optimizer.state.values():
            moments["step"].copy_(step)
        with torch.no_grad():
            for name, parameter in self.names.items():
                self._load(parameter, None, state[name])
                for moment in MOMENTS:
                    self._load(parameter, moment, state[f"{name}.{moment}"])
        if self._stage < 3:
            self._zero.update_lp_params()

    def _settings(self) -> dict[str, Any]:
        config = self.config
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # `backward` says where a step ends
            "gradient_clipping": config.max_grad_norm,
            "bf16": {"enabled": config.weights == "bfloat16" and config.lora is None},
            # DeepSpeed turns a surrounding autocast off on GPUs. Gradients stay in the type of their weights.
            "torch_autocast": {"enabled": autocasts(config), "dtype": "bfloat16", "lower_precision_safe_modules": []},
            "zero_optimization": {
                "stage": self._stage,
                "reduce_bucket_size": BUCKET_ELEMENTS,
                "allgather_bucket_size": BUCKET_ELEMENTS,
                "memory_efficient_linear": False,  # it would replace torch's linear in the whole process
            },
        }

    def _make_moments(self) -> None:
        """AdamW makes them in its first step, too late for a state that is loaded before."""
        zero, state = self._zero, self._zero.optimizer.state
        flats = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for i, flat in enumerate(flats):
            state[flat] = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            state[flat]["step"] = torch.zeros((), device=flat.device)
            if self._stage < 3:
                self._deepspeed.utils.lazy_init_hp_params_optimizer_state(zero.bit16_groups[i], flat, state)

    def _gradients(self) -> list[Tensor]:
        return [gradient for group in self._zero.averaged_gradients.values() for gradient in group]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        utils = self._deepspeed.utils
        step = next(iter(self._zero.optimizer.state.values()))["step"]
        for name, parameter in self.names.items():
            yield name, utils.safe_get_full_fp32_param(parameter)
            yield f"{name}.step", step.clone()
            for moment in MOMENTS:
                yield f"{name}.{moment}", utils.safe_get_full_optimizer_state(parameter, moment)

    def _load(self, parameter: Any, moment: str | None, whole: Tensor) -> None:
        utils, whole = self._deepspeed.utils, whole.to(self.device)
        if self._stage < 3:
            if moment:
                utils.safe_set_full_optimizer_state(parameter, whole, moment)
            else:
                utils.safe_set_full_fp32_param(parameter, whole)
            return
        # The setters of whole tensors fail where a tensor does not divide evenly.
        size = parameter.ds_tensor.numel()
        part = whole.flatten()[self.rank * size : (self.rank + 1) * size]
        part = F.pad(part, (0, size - part.numel()))
        if moment:
            utils.safe_set_local_optimizer_state(parameter, part, moment)
            return
        utils.safe_set_local_fp32_param(parameter, part)
        with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(whole)
