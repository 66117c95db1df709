"""Attention over a pack's tree, behind transformers' attention interface, so that any of its decoders can use it.

On a CPU each segment attends, exactly and without masked work, to its ancestors and itself; on a GPU one FlexAttention
call does the same with a block mask.
"""

import itertools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from pipelines.training import native
from pipelines.training.errors import TrainingError
from pipelines.training.packing import Pack

NAME = "appellate_tree"
ROWS = 256  # rows of a block in backward


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
        self._hidden: dict[tuple[int, int, int, int | None], tuple[int, Tensor] | None] = {}
        self._block_masks: dict[int | None, Any] = {}
        self._loops: tuple[Tensor, ...] | None = None

    def mask(self, queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """0 where the last `queries` of `keys` consecutive positions may look, -inf elsewhere; None: plain causal."""
        where = (queries, keys, window)
        if where not in self._masks:
            own, seen = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None, :]
            hidden = seen > own
            if window is not None:
                hidden |= own - seen >= window
            plain = queries == keys and (window is None or window >= keys)
            mask = torch.zeros(queries, keys, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._masks[where] = None if plain else mask
        return self._masks[where]

    def runs(self, segment: int) -> list[list[int]]:
        """Rows that see keys of a segment, as [start, end]: its own, then those of all segments below it."""
        runs: list[list[int]] = []
        for other, path in enumerate(self.paths):
            if segment in path:
                start, end = self.starts[other], self.starts[other] + self.lengths[other]
                if len(runs) > 1 and runs[-1][1] == start:
                    runs[-1][1] = end
                else:
                    runs.append([start, end])
        return runs

    def rows(self, segment: int) -> Iterator[tuple[int, int]]:
        """The same in stretches of at most ROWS rows."""
        for start, end in self.runs(segment):
            for first in range(start, end, ROWS):
                yield first, min(first + ROWS, end)

    def loops(self) -> tuple[Tensor, ...]:
        """For the C++ loops: starts and ends of segments, where the runs of each begin, all runs, and positions."""
        if self._loops is None:
            runs = [self.runs(segment) for segment in range(len(self.starts))]
            first = [0, *itertools.accumulate(map(len, runs))]
            ends = [start + length for start, length in zip(self.starts, self.lengths, strict=True)]
            lists = (self.starts, ends, first, [end for found in runs for run in found for end in run])
            self._loops = (*map(torch.tensor, lists), torch.tensor(self._positions, dtype=torch.int32))
        return self._loops

    def hidden(self, segment: int, first: int, last: int, window: int | None) -> tuple[int, Tensor] | None:
        """True where rows `first` to `last` do not see keys of `segment` (up to the last row's), from the first column
        on that has one; and that column. None where all are seen."""
        start, end = self.starts[segment], min(self.starts[segment] + self.lengths[segment], last)
        place = (segment, first, last, window)
        if place not in self._hidden:
            own = torch.tensor(self._positions[first:last])[:, None]
            seen = torch.tensor(self._positions[start:end])[None, :]
            hidden = seen > own
            if window is not None:
                hidden |= own - seen >= window
            columns = hidden.any(0).nonzero().flatten().tolist()
            self._hidden[place] = (columns[0], hidden[:, columns[0]:]) if columns else None
        return self._hidden[place]

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
        kind = value.dtype  # under autocast the rotation leaves queries and keys in float32
        query, key = query.to(kind), key.to(kind)
        form = _LoopAttention if _loops_fit(query, key, value) else _SegmentAttention
        applied: Any = form.apply(query, key, value, tree, scaling, sliding_window)
        return applied, None
    return out.transpose(1, 2).contiguous(), None


def _loops_fit(*heads: Tensor) -> bool:
    sizes = {t.shape[-1] for t in heads}
    return len(sizes) == 1 and not sizes.pop() % 16 and all(t.stride(-1) == 1 for t in heads) and native.fits(*heads)


class _LoopAttention(torch.autograd.Function):
    """The whole tree in one call of the C++ loops; the same values are kept as by `_SegmentAttention`."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float | None, window: int | None
    ) -> Tensor:
        heads, tokens, size = query.shape[1:]
        scale = float(size**-0.5 if scaling is None else scaling)
        strides = torch.tensor([stride for t in (query, key, value) for stride in (t.stride(2), t.stride(1))])
        out = query.new_empty(1, tokens, heads, size)
        norms = query.new_empty(heads, tokens, dtype=torch.float32)
        shape = (heads, key.shape[1], size, scale, tokens, len(tree.starts), window or 0, *tree.loops())
        native.call("tree_attention", query, key, value, strides, *shape, out, norms)
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.shape, ctx.strides = shape, strides
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, norms = ctx.saved_tensors
        found = [t.new_empty(1, t.shape[2], t.shape[1], t.shape[3]) for t in (query, key, value)]
        upstream = gradients[0].contiguous()
        native.call("tree_attention_backward", query, key, value, ctx.strides, out, upstream, norms, *ctx.shape, *found)
        to_query, to_key, to_value = (t.transpose(1, 2) for t in found)
        return to_query, to_key, to_value, None, None, None


class _SegmentAttention(torch.autograd.Function):
    """One segment after the other, attending to its ancestors and itself; output [1, tokens, heads, size].

    Only queries, keys, values, output and the log-sum-exp of every row are kept. Backward takes each segment's keys
    once, with all rows that see them (its own and those below it, which follow it in a pack), a few rows at a time, as
    matrix products over whole groups of heads: no key is copied for a second head or a second segment.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float | None, window: int | None
    ) -> Tensor:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = query.shape[1] // key.shape[1]
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        norms = query.new_empty(1, query.shape[1], query.shape[2], dtype=torch.float32)
        for start, length, path in zip(tree.starts, tree.lengths, tree.paths, strict=True):
            rows = slice(start, start + length)
            k, v = (
                torch.cat([t[:, :, tree.starts[i]:tree.starts[i] + tree.lengths[i]] for i in path], 2)
                .repeat_interleave(groups, 1) for t in (key, value)
            )
            mask = tree.mask(length, k.shape[2], window, query.dtype)
            found, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, rows], k, v, 0.0, mask is None, attn_mask=mask, scale=scale
            )
            out[:, rows] = found.transpose(1, 2)
            norms[:, :, rows] = norm
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.settings = tree, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, norms = ctx.saved_tensors
        tree, scale, window = ctx.settings
        heads, kept = query.shape[1], key.shape[1]

        def grouped(rows: Tensor) -> Tensor:
            """[heads, tokens, size] as [key heads, heads of each, tokens, size]."""
            return rows.unflatten(0, (kept, heads // kept))

        gradient = gradients[0][0].transpose(0, 1)
        along = (gradient.float() * out[0].transpose(0, 1)).sum(-1)  # what softmax takes off each row
        q = grouped(torch.cat([query[0] * scale, _columns(norms[0], query.dtype)], -1))
        g = grouped(torch.cat([gradient, _columns(along, query.dtype)], -1))
        ones = key.new_ones(kept, key.shape[2], q.shape[-1] - key.shape[-1])
        k, v = torch.cat([key[0], ones], -1), torch.cat([value[0], ones], -1)
        found = torch.zeros_like(q[..., :key.shape[-1]]), torch.zeros_like(key[0]), torch.zeros_like(value[0])
        for number, (start, length) in enumerate(zip(tree.starts, tree.lengths, strict=True)):
            for first, last in tree.rows(number):
                end = min(start + length, last)  # a segment's own rows see no later key
                seen = slice(start, end)
                rows = q[:, :, first:last].flatten(1, 2), g[:, :, first:last].flatten(1, 2)
                weights = torch.bmm(rows[0], k[:, seen].mT)
                hidden = tree.hidden(number, first, last, window)
                if hidden is not None:
                    column, mask = hidden
                    weights[..., column:].unflatten(1, (-1, last - first)).masked_fill_(mask, -torch.inf)
                weights.exp_()
                found[2][:, seen].baddbmm_(weights.mT, rows[1][..., :value.shape[-1]])
                weights.mul_(torch.bmm(rows[1], v[:, seen].mT))
                found[1][:, seen].baddbmm_(weights.mT, rows[0][..., :key.shape[-1]])
                part = torch.bmm(weights, key[0][:, seen])
                found[0][:, :, first:last] += part.unflatten(1, (-1, last - first))
        queries = found[0].flatten(0, 1).mul_(scale)
        return queries[None], found[1][None], found[2][None], None, None, None


def _columns(values: Tensor, dtype: torch.dtype) -> Tensor:
    """What, beside a column of ones for each, subtracts `values` from a product's rows before it is rounded."""
    first = values.to(dtype)
    if dtype == torch.float32:
        return -first[..., None]
    return -torch.stack([first, (values - first.float()).to(dtype)], -1)


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
