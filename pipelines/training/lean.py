"""CPU forms of the two element-wise parts of a decoder layer: the same values, less memory, fewer passes over it.

Written with plain operations, a normalisation keeps a float32 copy of its input and a gated MLP keeps its activation
for the backward pass. Here both are computed again from what is kept anyway, a few rows at a time, so that everything
in between stays in the CPU's cache. On a GPU the setting `liger` does the like.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 256  # tokens worked on at a time


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) in float32, rounded to x's type, times the weight (Zhang and Sennrich 2019, 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
        scales = []
        for row, place in zip(x.flatten(0, -2).split(ROWS), out.flatten(0, -2).split(ROWS), strict=True):
            values = row.float()
            scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
            place.copy_((values * scale).to(x.dtype) * weight)
            scales.append(scale)
        ctx.save_for_backward(x, weight, torch.cat(scales))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scales = ctx.saved_tensors
        found = torch.empty_like(x)
        total = torch.zeros(weight.shape, dtype=torch.float32)
        flat = (t.flatten(0, -2).split(ROWS) for t in (x, gradients[0], found))
        for (row, gradient, place), scale in zip(zip(*flat, strict=True), scales.split(ROWS), strict=True):
            normed, upstream = row.float().mul_(scale), gradient.float()
            if ctx.needs_input_grad[1]:
                total += (upstream * normed).sum(0)
            upstream = upstream * weight
            along = (upstream * normed).mean(-1, keepdim=True)
            place.copy_(upstream.sub_(normed.mul_(along)).mul_(scale))
        return found, total.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(up)
        rows = (t.flatten(0, -2).split(ROWS) for t in (gate, up, out))
        for g, u, place in zip(*rows, strict=True):
            torch.mul(F.silu(g), u, out=place)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        found = torch.empty_like(gate), torch.empty_like(up)
        rows = (t.flatten(0, -2).split(ROWS) for t in (gate, up, gradients[0], *found))
        for g, u, upstream, place_gate, place_up in zip(*rows, strict=True):
            torch.mul(upstream, F.silu(g), out=place_up)
            place_gate.copy_(torch.ops.aten.silu_backward(upstream * u, g))
        return found


def make_lean(model: nn.Module) -> int:
    """Give every normalisation and gated MLP of the known kinds its lean form; returns how many were changed.

    A module is changed only where the lean form gives what it gives itself.
    """
    changed = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            forward = _lean_form(module)
            if forward is None:
                continue
            parameter = next(module.parameters())
            width = parameter.shape[-1]
            x = torch.randn(1, 3, width).to(parameter.dtype)
            with torch.no_grad():
                same = torch.allclose(module(x).float(), forward(x).float(), rtol=1e-2, atol=1e-5)
            if same:
                module.forward = forward
                changed += 1
    return changed


def _lean_form(module: Any) -> Any:
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: _RmsNorm.apply(x, module.weight, module.variance_epsilon)
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    if silu and all(isinstance(part, nn.Module) for part in parts):
        return lambda x: module.down_proj(_Gated.apply(module.gate_proj(x), module.up_proj(x)))
    return None
