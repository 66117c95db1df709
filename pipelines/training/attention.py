"""Attention over a pack's tree, behind transformers' attention interface, so that any of its decoders can use it.

On a CPU each segment attends, exactly and without masked work, to its ancestors and itself; on a GPU one FlexAttention
call does the same with a block mask.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from pipelines.training.errors import TrainingError
from pipelines.training.packing import Pack

NAME = "appellate_tree"
SHORT = 512  # queries of a segment


class TreeAttentionError(TrainingError):
    """The model's attention cannot work over a tree."""


class Tree:
    """A pack's layout as attention needs it; made once, used by every layer."""

    def __init__(self, pack: Pack):
        self.starts = [segment.start for segment in pack.segments]
        self.lengths = [segment.length for segment in pack.segments]
        self.paths = [segment.path for segment in pack.segments]
        self.size = len(pack.token_ids)
        self._positions = pack.position_ids
        self._masks: dict[tuple[int, int, int | None], Tensor | None] = {}
        self._block_masks: dict[int | None, Any] = {}

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
        """True where the last `queries` of `keys` consecutive positions may look; None where plain causal is meant."""
        where = (queries, keys, window)
        if where not in self._masks:
            own = torch.arange(keys - queries, keys, device=device)[:, None]
            seen = torch.arange(keys, device=device)[None, :]
            allowed = seen <= own
            if window is not None:
                allowed &= own - seen < window
            plain = queries == keys and (window is None or window >= keys)
            self._masks[where] = None if plain else allowed
        return self._masks[where]

    def block_mask(self, window: int | None, device: torch.device) -> Any:
        """The whole tree as FlexAttention's block mask."""
        if window not in self._block_masks:
            from torch.nn.attention.flex_attention import create_block_mask

            self._block_masks[window] = create_block_mask(
                self.mask_mod(window, device), None, None, self.size, self.size, device=str(device)
            )
        return self._block_masks[window]

    def mask_mod(self, window: int | None, device: torch.device) -> Any:
        """FlexAttention's rule: a token sees earlier tokens of its own segment and of its ancestors."""
        count = len(self.lengths)
        above = torch.zeros(count, count, dtype=torch.bool)
        for i, path in enumerate(self.paths):
            above[i, list(path)] = True
        above = above.to(device)
        segment = torch.repeat_interleave(torch.arange(count), torch.tensor(self.lengths)).to(device)
        position = torch.tensor(self._positions, device=device)

        def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = above[segment[query], segment[key]] & (query >= key)
            return seen if window is None else seen & (position[query] - position[key] < window)

        return rule


def tree_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, dropout: float = 0.0, tree: Tree | None = None, sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over a pack; query [1, heads, tokens, size], key and value with their own head count.

    Raises TreeAttentionError for what the tree has no exact form of, rather than leave it out.
    """
    if tree is None:
        raise TreeAttentionError(f"{type(module).__name__} does not hand its keyword arguments to attention")
    asked = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if asked or dropout or attention_mask is not None:
        what = ", ".join(asked) or ("dropout" if dropout else "an attention mask")
        raise TreeAttentionError(f"{type(module).__name__} asks for {what}, which attention over a tree does not have")
    if query.is_cuda:
        out = _flex(query, key, value, tree, scaling, sliding_window)
    else:
        applied: Any = _SegmentAttention.apply(query, key, value, tree, scaling, sliding_window)
        out = applied
    return out.transpose(1, 2).contiguous(), None


class _SegmentAttention(torch.autograd.Function):
    """One segment after the other, attending to its ancestors and itself. Backward computes each segment again.

    Only queries, keys and values are kept: the copies of keys that segments need, one per head of a group and one per
    segment below a prompt, would be more than half of what a layer keeps.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float | None, window: int | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.settings = tree, scaling, window
        outs = [_attend(q, k, v, mask, scaling) for q, k, v, mask in _cut(query, key, value, tree, window)]
        return torch.cat(outs, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        tree, scaling, window = ctx.settings
        keys, values = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        queries = []
        parts = _cut(query, key, value, tree, window)
        for (q, k, v, mask), path, gradient in zip(parts, tree.paths, gradients[0].split(tree.lengths, 2), strict=True):
            # The CPU's kernel multiplies short bfloat16 segments more slowly than float32 ones.
            precise = torch.float32 if q.shape[2] < SHORT else q.dtype
            inputs = [t.detach().to(precise).requires_grad_() for t in (q, k, v)]
            with torch.enable_grad():
                out = _attend(*inputs, mask, scaling)
            found = torch.autograd.grad(out, inputs, gradient.to(precise))
            queries.append(found[0].to(q.dtype))
            for total, part in ((keys, found[1]), (values, found[2])):
                for i, piece in zip(path, part.split([tree.lengths[i] for i in path], 2), strict=True):
                    total.narrow(2, tree.starts[i], tree.lengths[i]).add_(piece)
        return torch.cat(queries, 2), keys.to(key.dtype), values.to(value.dtype), None, None, None


def _cut(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, window: int | None
) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Queries, keys, values and mask of each segment."""
    queries, keys, values = (tensor.split(tree.lengths, 2) for tensor in (query, key, value))
    for q, path in zip(queries, tree.paths, strict=True):
        k, v = (torch.cat([parts[i] for i in path], 2) for parts in (keys, values))
        yield q, k, v, tree.mask(q.shape[2], k.shape[2], window, q.device)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)


_compiled: Any = None


def _flex(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float | None, window: int | None) -> Tensor:
    global _compiled  # compiled once for all layers and packs
    from torch.nn.attention.flex_attention import flex_attention

    if _compiled is None:
        _compiled = torch.compile(flex_attention, dynamic=True)
    mask = tree.block_mask(window, query.device)
    out: Any = _compiled(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out


AttentionInterface.register(NAME, tree_attention)


@contextmanager
def over_trees(model: Any) -> Generator[None]:
    """Within it the model's layers attend over the `tree` they are given; afterwards as before.

    But not where activations are checkpointed: such layers run once more in backward, when this has been left.
    """
    config = model.config
    before = config._attn_implementation
    if before == NAME:
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        if not (torch.is_grad_enabled() and model.is_gradient_checkpointing):
            model.set_attn_implementation(before)
