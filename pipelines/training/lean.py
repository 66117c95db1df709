"""CPU forms of the parts of a decoder: the same values and gradients, less memory, fewer passes over it.

Written with plain operations, a normalisation keeps a float32 copy of its input, and every matrix product keeps the
input that it multiplies. Here what a layer can make again from what is kept anyway (a normalised state, an MLP's gated
activation) is made again in backward, a few rows at a time, and gradients of matrices are added to their sum by the
product itself. On a GPU the setting `liger` does the like.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.training import native

ROWS = 256  # tokens worked on at a time
REMAKE = "_appellate_remake"  # on a tensor: the Remake that gives its values again


class Remake:
    """Makes a value again for the backward passes of those who read it; held from the first of them to the last."""

    def __init__(self, make: Callable[[], Tensor]):
        self._make: Callable[[], Tensor] | None = make
        self._value: Tensor | None = None
        self._readers = 0

    def reserve(self) -> "Remake":
        """One more reader."""
        self._readers += 1
        return self

    def read(self) -> Tensor:
        """The value, for one of the readers."""
        if self._value is None:
            assert self._make is not None, "a backward pass was taken twice"
            self._value, self._make = self._make(), None
        value, self._readers = self._value, self._readers - 1
        if self._readers == 0:
            self._value = None
        return value


def _remade(value: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """`value`, of which a lean product does not keep a copy where it reads it."""
    if torch.is_grad_enabled():
        setattr(value, REMAKE, Remake(make))
    return value


class _Linear(torch.autograd.Function):
    """x W^T + b. With `accumulate` the gradient of W goes into W.grad, where there is one, in the product itself."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: nn.Parameter, bias: Tensor | None, remake: Remake | None, accumulate: bool
    ) -> Tensor:
        ctx.save_for_backward(weight, x if remake is None else None)
        ctx.remake, ctx.parameter = remake, weight if accumulate else None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        gradient, found = gradients[0], None
        back = gradient @ weight if ctx.needs_input_grad[0] else None
        if ctx.needs_input_grad[1]:
            x = (ctx.remake.read() if x is None else x).flatten(0, -2)
            flat = gradient.flatten(0, -2)
            if ctx.parameter is not None and ctx.parameter.grad is not None:
                ctx.parameter.grad.addmm_(flat.mT, x)
            else:
                found = flat.mT @ x
        ctx.remake = None
        bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return back, found, bias, None, None


class _Embedding(torch.autograd.Function):
    """Rows of W. The gradient of W is added to W.grad, where there is one, without a matrix of its size."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: nn.Parameter, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.parameter, ctx.padding = weight, padding
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None]:
        (ids,), weight = ctx.saved_tensors, ctx.parameter
        rows, places = ids.flatten().unique(return_inverse=True)
        sums = torch.zeros(len(rows), weight.shape[1]).index_add_(0, places, gradients[0].flatten(0, -2).float())
        if ctx.padding is not None:
            sums[rows == ctx.padding] = 0.0  # as torch has it
        if weight.grad is not None:
            weight.grad.index_add_(0, rows, sums.to(weight.dtype))
            return None, None, None
        return None, torch.zeros_like(weight).index_copy_(0, rows, sums.to(weight.dtype)), None


def _normed(x: Tensor, weight: Tensor, epsilon: float, scales: list[Tensor] | None = None) -> Tensor:
    """x / rms(x) in float32, rounded to x's type, times the weight; `scales` receives 1 / rms."""
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    if native.fits(x, weight) and x.is_contiguous():
        found = torch.empty(x.numel() // x.shape[-1], 1)
        native.call("rms_norm", x, weight, out, found, len(found), x.shape[-1], float(epsilon))
        if scales is not None:
            scales.append(found)
        return out
    for row, place in zip(x.flatten(0, -2).split(ROWS), out.flatten(0, -2).split(ROWS), strict=True):
        values = row.float()
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(epsilon))
        torch.mul((values * scale).to(x.dtype), weight, out=place)
        if scales is not None:
            scales.append(scale)
    return out


class _RmsNorm(torch.autograd.Function):
    """Root mean square normalisation (Zhang and Sennrich 2019, 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        scales: list[Tensor] = []
        out = _normed(x, weight, epsilon, scales)
        ctx.save_for_backward(x, weight, torch.cat(scales))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scales = ctx.saved_tensors
        found, upstream = torch.empty_like(x), gradients[0]
        total, wide = torch.zeros(weight.shape, dtype=torch.float32), weight.float()
        if native.fits(x, weight, upstream) and x.is_contiguous():
            asked = total if ctx.needs_input_grad[1] else None
            upstream = upstream.contiguous()
            native.call("rms_norm_backward", x, weight, scales, upstream, found, asked, len(scales), x.shape[-1])
            return found, None if asked is None else asked.to(weight.dtype), None
        flat = (t.flatten(0, -2).split(ROWS) for t in (x, gradients[0], found))
        for (row, gradient, place), scale in zip(zip(*flat, strict=True), scales.split(ROWS), strict=True):
            normed, upstream = row * scale, gradient.float()
            product = upstream * normed
            if ctx.needs_input_grad[1]:
                total += product.sum(0)
            along = product.mul_(wide).mean(-1, keepdim=True)
            place.copy_((upstream * wide).addcmul_(normed, along, value=-1.0).mul_(scale))
        return found, total.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    out = torch.empty_like(up)
    if native.fits(gate, up) and gate.is_contiguous() and up.is_contiguous():
        native.call("gated", gate, up, out, out.numel())
        return out
    rows = (t.flatten(0, -2).split(ROWS) for t in (gate, up, out))
    for g, u, place in zip(*rows, strict=True):
        torch.mul(F.silu(g), u, out=place)
    return out


class _Gated(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        found = torch.empty_like(gate), torch.empty_like(up)
        if native.fits(gate, up, gradients[0]) and all(t.is_contiguous() for t in (gate, up)):
            native.call("gated_backward", gate, up, gradients[0].contiguous(), *found, gate.numel())
            return found
        rows = (t.flatten(0, -2).split(ROWS) for t in (gate, up, gradients[0], *found))
        for g, u, upstream, place_gate, place_up in zip(*rows, strict=True):
            torch.mul(upstream, F.silu(g), out=place_up)
            place_gate.copy_(torch.ops.aten.silu_backward(upstream * u, g))
        return found


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x cos + (-x2, x1) sin for the halves x1, x2 of every head; sign -1 is the transpose. Laid out token by token."""
    out = torch.empty(x.transpose(1, 2).shape, dtype=x.dtype).transpose(1, 2)
    half = x.shape[-1] // 2
    if native.fits(x, cos, sin) and not half % 16 and x.stride(-1) == 1 and cos.is_contiguous() and sin.is_contiguous():
        places = x.stride(2), x.stride(1), cos, sin, out
        native.call("rotate", x, *places, x.shape[2], x.shape[1], x.shape[-1], sign)
        return out
    (first, second), (one, two) = x.split(half, -1), out.split(half, -1)
    (cos_one, cos_two), (sin_one, sin_two) = cos.split(half, -1), sin.split(half, -1)
    if sign < 0:
        sin_one, sin_two = sin_two, sin_one
    torch.mul(first, cos_one, out=one).addcmul_(second, sin_one, value=-sign)
    torch.mul(second, cos_two, out=two).addcmul_(first, sin_two, value=sign)
    return out


class _Rotation(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, 2104.09864) of [1, heads, tokens, size]; cos and sin [1, 1, tokens, size]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _rotated(gradients[0], *ctx.saved_tensors, -1.0), None, None


_rotations: set[Any] = set()  # the lean ones


def _lean_rotation(module: Any) -> bool:
    """Put the lean rotation into the file of an attention layer, from which all layers of its kind take theirs."""
    file: Any = sys.modules[type(module).__module__]
    plain = getattr(file, "apply_rotary_pos_emb", None)
    if not type(module).__name__.endswith("Attention") or plain is None or plain in _rotations:
        return False

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if q.is_cuda or unsqueeze_dim != 1 or q.dtype != cos.dtype or q.shape[-1] != cos.shape[-1]:
            return plain(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        found: Any = _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)
        return found

    angle = torch.randn(1, 3, 8)
    q, k = torch.randn(2, 1, 2, 3, 8).unbind()
    expected: Any = plain(q, k, angle.cos(), angle.sin())
    if not all(map(partial(torch.allclose, atol=1e-5), rotate(q, k, angle.cos(), angle.sin()), expected)):
        return False
    _rotations.add(rotate)
    file.apply_rotary_pos_emb = rotate
    return True


def make_lean(model: nn.Module, accumulate: bool = False) -> int:
    """Give every part of the known kinds its lean form; returns how many were changed.

    A normalisation or MLP is changed only where the lean form gives what it gives itself. `accumulate` is for
    strategies that keep whole gradients in `.grad` and read them there: no hook on a matrix's gradient is called.
    """
    changed = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            changed += _lean_rotation(module)
            forward = _lean_form(module, accumulate)
            if forward is None:
                continue
            if type(module) not in (nn.Linear, nn.Embedding):
                parameter = next(module.parameters())
                x = torch.randn(1, 3, parameter.shape[-1]).to(parameter.dtype)
                with torch.no_grad():
                    expected, found = module(x).float(), forward(x).float()
                if not torch.linalg.vector_norm(found - expected) <= 1e-2 * torch.linalg.vector_norm(expected):
                    continue
            module.forward = forward
            changed += 1
    return changed


def _lean_form(module: Any, accumulate: bool) -> Any:
    if type(module) is nn.Linear:
        return partial(_linear, module, accumulate)
    if type(module) is nn.Embedding and accumulate and module.max_norm is None and not module.scale_grad_by_freq:
        return partial(_embedding, module)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return partial(_norm, module)
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    return partial(_mlp, module) if silu and all(isinstance(part, nn.Module) for part in parts) else None


def _linear(module: nn.Linear, accumulate: bool, x: Tensor) -> Tensor:
    weight = module.weight
    if not (torch.is_grad_enabled() and weight.requires_grad) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, module.bias)
    remake = getattr(x, REMAKE, None)
    out: Any = _Linear.apply(x, weight, module.bias, remake.reserve() if remake else None, accumulate)
    return out


def _embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and module.weight.requires_grad):
        return F.embedding(ids, module.weight)
    out: Any = _Embedding.apply(ids, module.weight, module.padding_idx)
    return out


def _norm(module: Any, x: Tensor) -> Tensor:
    out: Any = _RmsNorm.apply(x, module.weight, module.variance_epsilon)
    return _remade(out, partial(_normed, x.detach(), module.weight.detach(), module.variance_epsilon))


def _mlp(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    product: Any = _Gated.apply(gate, up)
    return module.down_proj(_remade(product, partial(_gated, gate.detach(), up.detach())))
