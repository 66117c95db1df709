"""What training starts from and leaves: checkpoints that load anywhere, with adapters merged in and kept beside."""

import json
import math
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.training.adapters import round_stochastically
from pipelines.training.checkpoint import load_model, save_checkpoint
from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.logprobs import check_packing, padded_logprobs, response_logprobs
from tests.pipelines.training.tiny import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
CONFIG = TrainingConfig(autocast="float32")
LORA = CONFIG.model_copy(update={"lora": LoraConfig(rank=4, alpha=8)})
ON_BFLOAT16 = LORA.model_copy(update={"weights": "bfloat16", "autocast": "bfloat16"})
SEQUENCES: Any = [([5, 9, 30], [7, 8, 2]), ([5, 9, 30], [64]), (list(range(40, 60)), [11, 12])]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def start(request, tmp_path_factory) -> str:
    """Folders of tiny models, with the output head in the embedding's matrix and with one of its own."""
    return write_checkpoint(tmp_path_factory.mktemp("start"), tie_word_embeddings=request.param)


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def trained(folder: str, config: TrainingConfig) -> tuple[Any, dict[str, Tensor]]:
    """A model whose trained weights are far from where they began, and these weights by their names."""
    model = load_model(folder, config)
    generator = torch.Generator().manual_seed(3)
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in found.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, {name: parameter.detach().clone() for name, parameter in found.items()}


def logprobs(model: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat(padded_logprobs(model, SEQUENCES))


# ---- all weights


def test_a_checkpoint_has_the_trained_weights_in_bfloat16(start, tmp_path):
    model, weights = trained(start, CONFIG)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "left-over.txt").write_text("of an earlier attempt")
    save_checkpoint(start, CONFIG, weights, str(folder))

    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == weights.keys()  # a matrix that is two things is stored once
    for name, tensor in weights.items():  # one of bfloat16's two neighbours
        torch.testing.assert_close(stored[name].float(), tensor, rtol=2**-7, atol=0)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert loaded.dtype == torch.bfloat16
    shared = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert shared == model.config.tie_word_embeddings == ("lm_head.weight" not in stored)
    for name, parameter in model.named_parameters():
        parameter.data = stored[name]
    assert torch.equal(logprobs(loaded), logprobs(model))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 128
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert not (folder / "left-over.txt").exists()


def test_changes_below_the_step_of_bfloat16_are_kept_on_average():
    start = torch.full((100_000,), 0.5)
    changed = start + 1e-4  # the next number above 0.5 is 0.50390625
    rounded = round_stochastically(changed, torch.Generator().manual_seed(1))
    assert set(rounded.tolist()) == {0.5, 0.50390625}
    assert float(rounded.double().mean()) == pytest.approx(0.5001, abs=2e-5)  # four standard errors are 8e-6
    assert torch.equal(changed.bfloat16(), start.bfloat16())  # to nearest, nothing would be left
    again = round_stochastically(changed, torch.Generator().manual_seed(1))
    assert torch.equal(rounded, again)


def test_what_bfloat16_holds_is_not_changed():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(2)).bfloat16()
    values = torch.cat([values, torch.tensor([0.0, -0.0, 1.0, -3.0]).bfloat16()])
    for some in (values, values.float()):
        assert torch.equal(round_stochastically(some, torch.Generator().manual_seed(3)), values)


@pytest.mark.parametrize("config", [CONFIG, LORA], ids=["all", "lora"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved(tied, tmp_path, config, value):
    _, weights = trained(tied, config)
    save_checkpoint(tied, config, weights, str(tmp_path / "checkpoint"))
    before = (tmp_path / "checkpoint/model.safetensors").read_bytes()
    broken = sorted(weights)[-1]
    weights[broken].view(-1)[3] = value
    with pytest.raises(TrainingError, match=rf"^not saved, non-finite weights: {broken}$"):
        save_checkpoint(tied, config, weights, str(tmp_path / "checkpoint"))
    assert (tmp_path / "checkpoint/model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_weights_of_another_model_are_not_saved(tied, untied, tmp_path):
    _, weights = trained(untied, CONFIG)
    with pytest.raises(TrainingError, match=r"^not saved, .* has no weights named lm_head\.weight$"):
        save_checkpoint(tied, CONFIG, weights, str(tmp_path / "checkpoint"))
    assert not any(tmp_path.iterdir())


# ---- adapters


@pytest.mark.parametrize("config", [LORA, ON_BFLOAT16], ids=["float32", "bfloat16"])
def test_adapters_alone_are_trained_and_start_as_nothing(start, config):
    model = load_model(start, config)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(names) == 2 * 7 * 2  # two matrices for each of seven in two layers
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    types = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert types == {True: torch.float32, False: getattr(torch, config.weights)}
    plain = load_model(start, config.model_copy(update={"lora": None}))
    assert torch.equal(logprobs(model), logprobs(plain))
    check_packing(model)


def test_every_worker_starts_with_the_same_adapters(tied):
    def adapters(seed: int) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in load_model(tied, LORA, seed).named_parameters() if p.requires_grad}

    torch.manual_seed(1)
    first = adapters(7)
    noise = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), noise)  # nothing else becomes less random
    again, other = adapters(7), adapters(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("config", [LORA, ON_BFLOAT16], ids=["float32", "bfloat16"])
def test_a_checkpoint_with_adapters_is_whole_and_has_them_beside_it(start, tmp_path, config):
    model, weights = trained(start, config)
    assert all(".lora_" in name for name in weights)
    save_checkpoint(start, config, weights, str(tmp_path / "checkpoint"))

    stored = load_file(tmp_path / "checkpoint/model.safetensors")
    assert stored.keys() == dict(load_model(start, CONFIG).named_parameters()).keys()
    base: Any = AutoModelForCausalLM.from_pretrained(start, dtype=getattr(torch, config.weights))
    beside = peft.PeftModel.from_pretrained(base, str(tmp_path / "checkpoint/adapter")).eval()
    assert torch.equal(logprobs(beside), logprobs(model))

    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    expected, before = logprobs(model.float()), logprobs(load_model(start, CONFIG))
    assert float((logprobs(merged) - expected).abs().max()) < 0.05 < 0.5 < float((before - expected).abs().max())
    settings = json.loads((tmp_path / "checkpoint/adapter/adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 8)
    kept = load_file(tmp_path / "checkpoint/adapter/adapter_model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert len(kept) == len(weights)


def test_float32_merges_are_exact_up_to_the_last_rounding(untied, tmp_path):
    """The merged weight is W + alpha / rank B A, rounded to bfloat16 once."""
    model, weights = trained(untied, LORA)
    save_checkpoint(untied, LORA, weights, str(tmp_path / "checkpoint"))
    stored = load_file(tmp_path / "checkpoint/model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (weights[f"base_model.model.{name}.lora_{side}.default.weight"] for side in "AB")
    start = load_model(untied, CONFIG).get_parameter(f"{name}.weight").detach()
    torch.testing.assert_close(stored[f"{name}.weight"].float(), start + 2.0 * b @ a, atol=1e-6, rtol=2**-7)
    torch.testing.assert_close(stored["lm_head.weight"].float(), model.lm_head.weight, atol=0, rtol=2**-7)


def test_an_adapted_output_head_is_used_and_merged(untied, tmp_path):
    config = LORA.model_copy(update={"lora": LoraConfig(rank=4, target_modules=["lm_head", "q_proj"])})
    model, weights = trained(untied, config)
    assert any("lm_head.lora_A" in name for name in weights)
    expected = logprobs(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(response_logprobs(model, SEQUENCES)), expected, atol=1e-4, rtol=0)
    save_checkpoint(untied, config, weights, str(tmp_path / "checkpoint"))
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    before = logprobs(load_model(untied, CONFIG))
    assert float((logprobs(merged) - expected).abs().max()) < 0.1 < 0.5 < float((before - expected).abs().max())


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"]], ids=str)
def test_adapters_of_a_matrix_that_is_two_things_are_refused(tied, targets):
    config = LORA.model_copy(update={"lora": LoraConfig(target_modules=targets)})
    with pytest.raises(TrainingError, match=r"output head and the embedding of this model are one matrix"):
        load_model(tied, config)


def test_adapters_of_no_module_are_refused(tied):
    config = LORA.model_copy(update={"lora": LoraConfig(target_modules=["query"])})
    with pytest.raises(TrainingError, match=r"^lora.target_modules=\['query'\]: "):
        load_model(tied, config)
