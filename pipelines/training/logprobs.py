"""Log-probabilities of responses without ever holding [length, vocabulary] logits.

The reference actor and the trainer call the same function, so that at step 0 the policy's and the reference's numbers
are equal and the DPO loss is ln 2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipelines.training import native
from pipelines.training.attention import Tree, TreeAttentionError, over_trees
from pipelines.training.packing import Pack, Prompted, pack_sequences

CHUNK = 512


class PackedModel(nn.Module):
    """A causal language model that reads packs; the unit that the parallel strategies wrap.

    Calling it gives, per prediction of the pack, log p(target | what its place sees) and the entropy of the
    distribution (detached), both float32 [predictions], natural logarithm.
    """

    def __init__(self, model: Any, chunk: int = CHUNK):
        super().__init__()
        self.lm = model
        self.head: nn.Module = ChunkedHead(model.get_output_embeddings(), chunk)

    def forward(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Only the positions that predict are projected to the vocabulary, `chunk` at a time."""
        device = next(self.lm.parameters()).device
        tokens = torch.tensor([pack.token_ids], device=device)
        positions = torch.tensor([pack.position_ids], device=device)
        with over_trees(self.lm):
            hidden = backbone(self.lm)(
                input_ids=tokens, position_ids=positions, use_cache=False, tree=Tree(pack)
            ).last_hidden_state[0]
        states = hidden[torch.tensor(pack.sources, device=device)]
        return self.head(states, torch.tensor(pack.targets, device=device))


class ChunkedHead(nn.Module):
    """The output head as a module that is called once a pass, however many chunks there are."""

    def __init__(self, head: nn.Module, chunk: int):
        super().__init__()
        self.head, self.chunk = head, chunk

    def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `chunked_logprobs`."""
        return chunked_logprobs(states, self.head, targets, self.chunk)


def backbone(model: Any) -> Any:
    """The decoder below the output head, also where adapters wrap the model; TreeAttentionError where it is hidden."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if inner.base_model is inner:
        raise TreeAttentionError(f"{type(inner).__name__} does not say which of its parts is below the output head")
    return inner.base_model


def chunked_logprobs(
    states: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """log softmax(head(states))[targets] and the softmax's entropy; shapes [T, H] and [T] -> two [T] in float32.

    What backward needs of a chunk is computed again there, so peak memory is chunk x vocabulary.
    """
    logps, entropies = [], []
    for s, t in zip(states.split(chunk), targets.split(chunk), strict=True):
        if torch.is_grad_enabled() and len(targets) > chunk:
            logp, entropy = checkpoint(_project, s, head, t, use_reentrant=False)
        else:
            logp, entropy = _project(s, head, t)
        logps.append(logp)
        entropies.append(entropy)
    return torch.cat(logps), torch.cat(entropies)


def _project(states: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    return _TokenLogProbs.apply(head(states), targets)


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(logits)[targets] and entropy, a few rows at a time in float32.

    Backward writes the gradient into the logits' own memory, so nothing of their size is ever made a second time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if native.fits(logits) and logits.is_contiguous():
            logp, entropy, norm = torch.empty(3, len(logits)).unbind()
            native.call("token_logprobs", logits, targets, logp, entropy, norm, *logits.shape)
            ctx.save_for_backward(logits, targets, norm)
            ctx.mark_non_differentiable(entropy)
            return logp, entropy
        logps, entropies, norms = [], [], []
        for some, target in zip(logits.split(_rows(logits)), targets.split(_rows(logits)), strict=True):
            top = some.amax(-1, keepdim=True).float()
            values = (some - top).float()
            weights = values.exp()
            total = weights.sum(-1)
            norm = total.log()
            logps.append(values.gather(-1, target[:, None])[:, 0] - norm)
            entropies.append(norm - torch.linalg.vecdot(weights, values) / total)
            norms.append(top + norm[:, None])
        ctx.save_for_backward(logits, targets, torch.cat(norms))
        ctx.mark_non_differentiable(entropy := torch.cat(entropies))
        return torch.cat(logps), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, norms = ctx.saved_tensors
        if norms.ndim == 1:
            native.call("token_logprobs_backward", logits, targets, norms, gradients[0].contiguous(), *logits.shape)
            return logits, None
        rows = _rows(logits)
        parts = (tensor.split(rows) for tensor in (logits.detach(), targets, norms, gradients[0]))
        for some, target, norm, gradient in zip(*parts, strict=True):
            values = (some - norm).float().exp_().mul_(-gradient[:, None])
            values.scatter_add_(-1, target[:, None], gradient[:, None])
            some.copy_(values)
        return logits, None


def _rows(logits: Tensor) -> int:
    """Rows worked on at a time: what stays in a CPU's cache, or fills a GPU."""
    return max(1, (2**28 if logits.is_cuda else 2**21) // logits.shape[-1])


def response_logprobs(model: Any, sequences: list[Prompted], chunk: int = CHUNK) -> list[Tensor]:
    """log p(response_t | prompt, response_<t) for each (prompt, response), one float32 tensor [len(response)] each."""
    pack = pack_sequences(sequences)
    logps, _ = PackedModel(model, chunk)(pack)
    return [logps[torch.tensor(places, device=logps.device)] for places in pack.responses]


def padded_logprobs(model: Any, sequences: list[Prompted]) -> list[Tensor]:
    """The same by the textbook: one padded row a sequence, all logits; what packing is checked against."""
    device = next(model.parameters()).device
    width = max(len(prompt) + len(response) for prompt, response in sequences)
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for i, (prompt, response) in enumerate(sequences):
        row = torch.tensor([*prompt, *response])
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
    logits = model(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits
    logps = torch.log_softmax(logits.float(), -1)
    return [
        logps[i, range(len(p) - 1, len(p) + len(r) - 1), list(r)] for i, (p, r) in enumerate(sequences)
    ]


def check_packing(model: Any) -> None:
    """Compare both ways on a few tokens; raises TreeAttentionError where this architecture does not fit into packs.

    It finds attention that ignores the tree (recurrent layers, absolute positions by order) and heads that do more to
    the logits than project.
    """
    sequences: list[Prompted] = [
        (range(20, 52), range(30, 38)), (range(20, 52), range(40, 43)), (range(21, 26), range(33, 39))
    ]
    with torch.no_grad():
        try:
            packed = response_logprobs(model, sequences)
        except TypeError as error:  # a forward without room for further keyword arguments
            raise TreeAttentionError(f"{type(model).__name__} takes no tree: {error}") from error
        padded = padded_logprobs(model, sequences)
    off = max(float((a - b).abs().max()) for a, b in zip(packed, padded, strict=True))
    tolerance = 0.5 if next(model.parameters()).dtype != torch.float32 else 1e-2
    if not off <= tolerance:
        raise TreeAttentionError(
            f"{type(model).__name__} gives other log-probabilities in a pack (off by {off:.3g} at one token); "
            "its attention or head is of a kind that cannot be packed"
        )
