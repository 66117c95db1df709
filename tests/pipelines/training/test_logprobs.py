"""Packed log-probabilities are those of the textbook, values and gradients, or the model is refused."""

import contextlib
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.training import logprobs
from pipelines.training.attention import TreeAttentionError
from pipelines.training.config import TrainingConfig
from pipelines.training.logprobs import (
    PackedModel,
    backbone,
    check_packing,
    chunked_logprobs,
    padded_logprobs,
    response_logprobs,
)
from pipelines.training.packing import MIN_SHARED, Prompted, pack_sequences
from pipelines.training.strategies.base import packed
from tests.pipelines.training.tiny import tiny_lm

# Windows are shorter than the texts; of Gemma 3's two layers one has a window.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {},  # biases
    "qwen3": {},  # norms of queries and keys
    "mistral": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": {"num_local_experts": 4},
}
each_architecture = pytest.mark.parametrize("kind", ARCHITECTURES)
# Three different tokens, so that texts of different sequences begin alike.
texts = st.lists(st.integers(20, 22), min_size=1, max_size=14)
some_sequences = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)
SEQUENCES: list[Prompted] = [
    (list(range(20, 52)), [5, 6, 7, 2]), (list(range(20, 52)), [90]), ([1, 96, 98], [31, 32, 33, 34, 35, 36, 2]),
]


def random_sequences(seed: int) -> list[Prompted]:
    chosen = random.Random(seed)

    def text(longest: int) -> list[int]:
        return [chosen.randrange(20, 23) for _ in range(chosen.randint(1, longest))]

    return [(text(20), text(12)) for _ in range(4)]


def packed_logprobs(
    model: Any, sequences: list[Prompted], threshold: int = 1, share: bool = True, chunk: int = 512
) -> Tensor:
    """Of all responses, one after another; short beginnings are shared too."""
    pack = pack_sequences(sequences, threshold, share)
    logps, _ = PackedModel(model, chunk)(pack)
    return torch.cat([logps[places] for places in pack.responses])


def gradients(model: Any, logps: Tensor) -> Tensor:
    """Of a loss in which every token has a weight of its own."""
    weight = torch.linspace(-1, 2, len(logps))
    return torch.cat([g.flatten() for g in torch.autograd.grad((logps * weight).sum(), list(model.parameters()))])


def assert_close_gradients(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest entry."""
    largest = float(expected.abs().max())
    assert largest > 0.1  # they say something
    torch.testing.assert_close(found, expected, atol=1e-5 * largest, rtol=0)


# ---- packed equals padded


@each_architecture
@settings(max_examples=25, deadline=None)
@given(some_sequences, st.integers(1, 5), st.booleans())
def test_packed_equals_padded(kind, sequences, threshold, share):
    model = tiny_lm(kind, **ARCHITECTURES[kind])
    found = packed_logprobs(model, sequences, threshold, share)
    expected = torch.cat(padded_logprobs(model, sequences))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_close_gradients(gradients(model, found), gradients(model, expected))


@pytest.mark.parametrize("autocast", [False, True])
@each_architecture
def test_in_bfloat16_packing_costs_no_exactness(kind, autocast):
    """Rounding differs, but neither is further from float32 than the other."""
    exact = tiny_lm(kind, **ARCHITECTURES[kind])
    model = exact if autocast else tiny_lm(kind, **ARCHITECTURES[kind]).bfloat16()
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    found, padded, truth = [], [], []
    for seed in range(12):
        sequences = random_sequences(seed)
        with torch.no_grad():
            truth += padded_logprobs(exact, sequences)
            with context:
                found.append(packed_logprobs(model, sequences))
                padded += padded_logprobs(model, sequences)
    mine, other, expected = torch.cat(found), torch.cat(padded), torch.cat(truth)
    assert mine.dtype == torch.float32
    assert float((mine - other).abs().max()) < 0.08
    assert float((mine - expected).abs().mean()) < 1.25 * float((other - expected).abs().mean()) < 0.04


@each_architecture
def test_every_supported_architecture_passes_the_check(kind):
    model = tiny_lm(kind, **ARCHITECTURES[kind])
    check_packing(model)
    check_packing(model.bfloat16())


def test_the_textbook_is_that_of_rows_without_padding():
    model = tiny_lm()
    for (prompt, response), logps in zip(SEQUENCES, padded_logprobs(model, SEQUENCES), strict=True):
        row = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        expected = torch.stack([row[len(prompt) - 1 + t, token] for t, token in enumerate(response)])
        torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)


def test_company_changes_nothing():
    model = tiny_lm()
    with torch.no_grad():
        together = response_logprobs(model, SEQUENCES)
        for sequence, logps in zip(SEQUENCES, together, strict=True):
            assert logps.shape == (len(sequence[1]),)
            torch.testing.assert_close(logps, response_logprobs(model, [sequence])[0], atol=1e-5, rtol=0)


def test_adapters_around_the_model_take_part():
    import peft

    torch.manual_seed(0)
    plain = tiny_lm()
    model: Any = peft.get_peft_model(tiny_lm(), peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    found = torch.cat(response_logprobs(model, SEQUENCES))
    torch.testing.assert_close(found, torch.cat(padded_logprobs(model, SEQUENCES)), atol=1e-4, rtol=1e-4)
    assert (found - torch.cat(response_logprobs(plain, SEQUENCES))).abs().max().item() > 0.1


# ---- what is computed again in backward


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_activation_checkpointing_gives_the_same_gradients(kind):
    sequences = random_sequences(1) + SEQUENCES
    found = []
    for again in (False, True):
        model = tiny_lm(kind, **ARCHITECTURES[kind])
        wrapped = packed(model, TrainingConfig(activation_checkpointing=again), "cpu")
        runs: list[int] = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        pack = pack_sequences(sequences, 2)
        logps = wrapped(pack)[0]
        found.append(gradients(model, logps))
        assert len(runs) == 1 + again
    assert_close_gradients(*found)


@pytest.mark.parametrize("chunk", [1, 5, 11, 12, 13])
def test_the_size_of_a_chunk_does_not_matter(chunk):
    model = tiny_lm()
    whole, cut = packed_logprobs(model, SEQUENCES), packed_logprobs(model, SEQUENCES, chunk=chunk)
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)
    assert_close_gradients(gradients(model, cut), gradients(model, whole))


# ---- the projection to the vocabulary


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 8), st.integers(2, 50), st.integers(1, 45),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.integers(0, 999),
)
def test_chunks_give_the_log_softmax_of_the_whole_and_its_entropy(length, hidden, vocabulary, chunk, dtype, seed):
    torch.manual_seed(seed)
    states = (3 * torch.randn(length, hidden)).to(dtype)
    targets = torch.randint(vocabulary, (length,))
    head = nn.Linear(hidden, vocabulary, bias=False).to(dtype)
    logps, entropies = chunked_logprobs(states, head, targets, chunk)
    every = head(states).float().log_softmax(-1)
    assert (logps.dtype, entropies.dtype) == (torch.float32, torch.float32)
    assert (logps.requires_grad, entropies.requires_grad) == (True, False)
    tolerance = 1e-5 if dtype != torch.bfloat16 else 2e-2
    torch.testing.assert_close(logps, every.gather(1, targets[:, None])[:, 0], atol=tolerance, rtol=1e-5)
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1), atol=tolerance, rtol=1e-5)
    with torch.no_grad():
        again = chunked_logprobs(states, head, targets, chunk)
    assert torch.equal(again[0], logps) and torch.equal(again[1], entropies)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_the_gradient_of_chunks_is_that_of_the_log_softmax(monkeypatch, rows, dtype):
    """However many rows are worked on at a time, and in a type in which the logits' own memory takes the gradient."""
    monkeypatch.setattr(logprobs, "_rows", lambda logits: rows)
    torch.manual_seed(0)
    states = torch.randn(11, 6).to(dtype).requires_grad_()
    head, targets, weight = nn.Linear(6, 40).to(dtype), torch.randint(40, (11,)), torch.linspace(-1, 2, 11)
    inputs = [states, *head.parameters()]
    expected = head(states).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    for chunk in (4, 11):
        logps, _ = chunked_logprobs(states, head, targets, chunk)
        torch.testing.assert_close(logps, expected, atol=2e-6, rtol=0)
        found = torch.autograd.grad((logps * weight).sum(), inputs)
        exact = torch.autograd.grad((expected * weight).sum(), inputs, retain_graph=True)
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5 if dtype == torch.float32 else 5e-2, rtol=1e-5)


def test_prompt_positions_are_neither_projected_nor_trained():
    """Invariant D8: nothing but what predicts a response token reaches the head, and the loss reaches nothing else."""
    model = tiny_lm(tie_word_embeddings=False)
    projected, states = [], []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: projected.append(len(args[0])))

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    backbone(model).register_forward_hook(keep)
    pack = pack_sequences([([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6]), ([1, 2, 3], [7])])
    logps, _ = PackedModel(model)(pack)
    assert projected == [4]  # 4 is predicted once for both, then 5, 6, and 7
    logps.sum().backward()
    touched = states[0].grad[0].abs().sum(-1) > 0
    assert pack.token_ids == [1, 2, 3, 4]
    assert touched.tolist() == [False, False, True, True]


@pytest.mark.parametrize("sequences", [[([], [1])], [([1], [2]), ([1], [])]])
def test_empty_prompts_and_responses_are_refused(sequences):
    with pytest.raises(ValueError, match="at least one token each"):
        response_logprobs(tiny_lm(), sequences)


# ---- models that do not fit into packs


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("gemma2", {}, "Gemma2Attention asks for softcap, which attention over a tree does not have"),
        (
            "gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": 2.0},
            r"gives other log-probabilities in a pack \(off by .* attention or head .*cannot be packed",
        ),
        ("cohere", {}, "CohereForCausalLM gives other log-probabilities in a pack"),  # scales its logits
        ("bloom", {}, "BloomForCausalLM gives other log-probabilities in a pack"),  # its attention is its own
        ("mamba", {"state_size": 4}, "MambaForCausalLM gives other log-probabilities in a pack"),  # recurrent
        ("gpt_oss", {"num_local_experts": 2}, "GptOssAttention asks for s_aux"),
        ("llama4_text", {"num_local_experts": 2}, "Llama4ForCausalLM does not say which of its parts is below"),
    ],
)
def test_a_model_that_cannot_be_packed_is_refused(kind, options, says):
    model = tiny_lm(kind, **options)
    before = model.config._attn_implementation
    with pytest.raises(TreeAttentionError, match=says):
        check_packing(model)
    assert model.config._attn_implementation == before


def test_a_model_that_takes_no_more_arguments_is_refused():
    model = tiny_lm()
    forward = model.model.forward
    model.model.forward = lambda input_ids, position_ids, use_cache: forward(input_ids)
    with pytest.raises(TreeAttentionError, match=r"^LlamaForCausalLM takes no tree: .*unexpected keyword"):
        check_packing(model)


def test_the_check_looks_at_a_shared_prompt():
    """A model is refused for what goes wrong in segments alone, so the check must have some."""
    model = tiny_lm()
    seen = []
    backbone(model).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("tree")), with_kwargs=True
    )
    check_packing(model)
    (tree,) = [tree for tree in seen if tree is not None]
    assert [len(path) for path in tree.paths] == [1, 1, 2, 2, 2]
    assert max(tree.lengths) >= MIN_SHARED
