"""Log-probabilities of responses without ever holding [batch, length, vocabulary] logits.

The reference actor and the trainer call the same function on the same shapes, so that at step 0 the policy's and the
reference's numbers are equal and the DPO loss is ln 2.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def response_logprobs(
    model: Any, prompt_ids: list[int], responses: list[list[int]], chunk: int = 512
) -> list[Tensor]:
    """log p(response_t | prompt, response_<t) for every response of one prompt.

    Args:
        model: a Hugging Face causal language model.
        prompt_ids: the shared prompt, at least one token.
        responses: non-empty token lists.
        chunk: response positions projected to the vocabulary at a time; recomputed in the backward pass.

    Returns:
        One float32 tensor per response, shape [len(response)], natural logarithm, differentiable.
    """
    if not prompt_ids or not all(responses):
        raise ValueError("prompt and responses need at least one token each")
    device = next(model.parameters()).device
    rows = [prompt_ids + response for response in responses]
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    tokens, mask = tokens.to(device), mask.to(device)
    hidden = model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    start = len(prompt_ids)
    # Position t predicts token t + 1: only the positions just before response tokens are projected.
    states = torch.cat([hidden[i, start - 1 : len(row) - 1] for i, row in enumerate(rows)])
    targets = torch.cat([tokens[i, start : len(row)] for i, row in enumerate(rows)])
    logps = chunked_logprobs(states, model.get_output_embeddings(), targets, chunk)
    return list(logps.split([len(response) for response in responses]))


def chunked_logprobs(states: Tensor, head: nn.Module, targets: Tensor, chunk: int) -> Tensor:
    """log softmax(head(states))[targets], shapes [T, H] and [T] -> [T] in float32; peak memory chunk x vocabulary."""
    parts = []
    for s, t in zip(states.split(chunk), targets.split(chunk), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_project, s, head, t, use_reentrant=False))
        else:
            parts.append(_project(s, head, t))
    return torch.cat(parts)


def _project(states: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    logits = head(states).float()
    return -F.cross_entropy(logits, targets, reduction="none")
