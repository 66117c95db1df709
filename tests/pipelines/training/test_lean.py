"""Lean forms against plain ones: the same values, the same gradients, and nothing kept longer than it is read."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from pipelines.training.lean import REMAKE, Remake, make_lean

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 5,
}


def make_model(kind: str, tied: bool) -> Any:
    torch.manual_seed(0)
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[kind](**SIZES, tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval()


def gradients(model: Any, passes: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients after some backward passes over other tokens each."""
    logits = torch.zeros(())
    for number in range(passes):
        ids = torch.randint(0, 96, (1, 300), generator=torch.Generator().manual_seed(number))
        ids[0, :3] = 5  # padding, which torch's embedding does not train
        logits = model(input_ids=ids).logits
        logits.logsumexp(-1).square().mean().backward()
    return logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_values_and_gradients_are_those_of_the_plain_model(kind: str, tied: bool, accumulate: bool) -> None:
    plain = make_model(kind, tied)
    lean = copy.deepcopy(plain)
    expected, wanted = gradients(plain, passes=2)
    assert make_lean(lean, accumulate) > 2 * 7
    if accumulate:  # as DataParallel prepares them
        for parameter in lean.parameters():
            parameter.grad = torch.zeros_like(parameter)
    found, got = gradients(lean, passes=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=1e-5, rtol=1e-4)


def test_gradients_are_added_to_the_tensor_that_is_there() -> None:
    model = make_model("llama", True)
    make_lean(model, accumulate=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.grad for name, p in model.named_parameters()}
    gradients(model)
    assert all(p.grad is before[name] for name, p in model.named_parameters())
    assert all(bool(p.grad.any()) for p in model.parameters())


def test_inputs_that_can_be_made_again_are_not_kept() -> None:
    model = make_model("llama", False)
    make_lean(model)
    kept: list[weakref.ref[Tensor]] = []
    norm, projection = model.model.layers[0].input_layernorm, model.model.layers[0].self_attn.q_proj
    x = torch.randn(1, 7, 32, requires_grad=True)
    normed = norm(x)
    kept.append(weakref.ref(normed))
    out = projection(normed)
    del normed
    gc.collect()
    assert kept[0]() is None
    out.sum().backward()
    assert x.grad is not None and projection.weight.grad is not None


def test_a_frozen_matrix_and_a_pass_without_gradients_reserve_nothing() -> None:
    model = make_model("llama", False)
    make_lean(model)
    layer = model.model.layers[0]
    layer.self_attn.q_proj.weight.requires_grad_(False)
    normed = layer.input_layernorm(torch.randn(1, 7, 32, requires_grad=True))
    layer.self_attn.q_proj(normed).sum().backward()
    assert layer.self_attn.q_proj.weight.grad is None
    with torch.no_grad():
        assert not hasattr(layer.input_layernorm(torch.randn(1, 7, 32)), REMAKE)


def test_a_value_is_made_once_and_held_until_its_last_reader() -> None:
    made: list[weakref.ref[Tensor]] = []

    def make() -> Tensor:
        value = torch.ones(3)
        made.append(weakref.ref(value))
        return value

    remake = Remake(make)
    first, second = remake.reserve(), remake.reserve()
    assert first.read() is second.read()
    gc.collect()
    assert len(made) == 1 and made[0]() is None


def test_a_module_that_computes_something_else_is_left_as_it_is() -> None:
    class ShiftedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return (1.0 + self.weight) * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    module = ShiftedRMSNorm()
    assert make_lean(nn.Sequential(module)) == 0
    assert "forward" not in vars(module)


def test_bias_and_batches_of_sequences() -> None:
    plain = nn.Linear(6, 4)
    lean = copy.deepcopy(plain)
    make_lean(nn.Sequential(lean))
    x = torch.randn(2, 5, 6)
    for module in (plain, lean):
        module(x).square().sum().backward()
    torch.testing.assert_close(lean.bias.grad, plain.bias.grad)
    torch.testing.assert_close(lean.weight.grad, plain.weight.grad)
