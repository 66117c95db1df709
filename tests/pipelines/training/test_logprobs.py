"""Chunked log-probabilities are those of the whole logits, values and gradients, and touch no prompt position."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipelines.training.logprobs import chunked_logprobs, response_logprobs

PROMPT = [1, 96, 98, 42, 17]
RESPONSES = [[5, 6, 7, 2], [90], [31, 32, 33, 34, 35, 36, 2]]


@pytest.fixture(scope="module")
def model(make_tiny_model) -> Any:
    folder = make_tiny_model(0, vocab_size=128)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def whole(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Log-softmax of the full logits of one row without padding."""
    logps = model(torch.tensor([prompt + response])).logits[0].float().log_softmax(-1)
    return torch.stack([logps[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 8), st.integers(2, 50), st.integers(1, 45),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.integers(0, 999),
)
def test_chunks_give_the_log_softmax_of_the_whole(length, hidden, vocabulary, chunk, dtype, seed):
    torch.manual_seed(seed)
    states = (3 * torch.randn(length, hidden)).to(dtype)
    targets = torch.randint(vocabulary, (length,))
    head = nn.Linear(hidden, vocabulary, bias=False).to(dtype)
    logps = chunked_logprobs(states, head, targets, chunk)
    expected = head(states).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert logps.dtype == torch.float32
    assert logps.shape == (length,)
    torch.testing.assert_close(logps, expected, atol=1e-5 if dtype != torch.bfloat16 else 1e-2, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(chunked_logprobs(states, head, targets, chunk), logps.detach())


def test_padding_and_company_change_nothing(model):
    with torch.no_grad():
        together = response_logprobs(model, PROMPT, RESPONSES)
        for logps, response in zip(together, RESPONSES, strict=True):
            torch.testing.assert_close(logps, whole(model, PROMPT, response), atol=2e-5, rtol=0)
            assert logps.shape == (len(response),)
            (alone,) = response_logprobs(model, PROMPT, [response])
            torch.testing.assert_close(logps, alone, atol=2e-5, rtol=0)


def test_gradients_equal_those_of_the_whole_logits(model):
    weights = [1.0, -2.0, 0.5]
    chunked = response_logprobs(model, PROMPT, RESPONSES, chunk=3)
    found = gradients(model, torch.stack([w * lp.sum() for w, lp in zip(weights, chunked, strict=True)]).sum())
    plain = [whole(model, PROMPT, response).sum() for response in RESPONSES]
    expected = gradients(model, torch.stack([w * lp for w, lp in zip(weights, plain, strict=True)]).sum())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert max(float(g.abs().max()) for g in found) > 0.1  # they say something


@pytest.mark.parametrize("chunk", [1, 5, 12, 13])
def test_the_size_of_a_chunk_does_not_matter(model, chunk):
    reference = response_logprobs(model, PROMPT, RESPONSES, chunk=512)
    logps = response_logprobs(model, PROMPT, RESPONSES, chunk=chunk)
    torch.testing.assert_close(torch.cat(logps), torch.cat(reference), atol=1e-5, rtol=0)
    a, b = gradients(model, torch.cat(logps).sum()), gradients(model, torch.cat(reference).sum())
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


class RecordingModel(nn.Module):
    """Hidden states are parameters, so that the loss's gradient at every position can be read."""

    def __init__(self, rows: int, width: int, hidden: int = 4, vocabulary: int = 20):
        super().__init__()
        self.states = nn.Parameter(torch.randn(rows, width, hidden))
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        self.projected = 0
        self.head.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.projected += args[0].shape[0]

    def base_model(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        self.input_ids, self.attention_mask = input_ids, attention_mask
        return SimpleNamespace(last_hidden_state=self.states)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_prompt_positions_are_neither_projected_nor_trained():
    """Invariant D8: the gradient with respect to logits of prompt tokens and of padding is zero."""
    torch.manual_seed(0)
    prompt, responses = [1, 2, 3], [[4, 5], [6, 7, 8, 9]]
    model = RecordingModel(2, 7)
    logps = response_logprobs(model, prompt, responses, chunk=2)
    assert model.projected == 6  # response tokens alone
    torch.cat(logps).sum().backward()
    assert model.states.grad is not None
    touched = model.states.grad.abs().sum(-1) > 0
    # Position t predicts token t + 1: the last prompt position predicts the first response token.
    assert touched.tolist() == [
        [False, False, True, True, False, False, False],
        [False, False, True, True, True, True, False],
    ]
    assert model.input_ids.tolist() == [[1, 2, 3, 4, 5, 0, 0], [1, 2, 3, 6, 7, 8, 9]]
    assert model.attention_mask.tolist() == [[1] * 5 + [0] * 2, [1] * 7]


@pytest.mark.parametrize(("prompt", "responses"), [([], [[1]]), ([1], [[2], []])])
def test_empty_prompts_and_responses_are_refused(model, prompt, responses):
    with pytest.raises(ValueError, match="at least one token each"):
        response_logprobs(model, prompt, responses)
