"""Weights that replicas make from adapters are the checkpoint's, bit for bit; who cannot make them reads that."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors import weights
from actors.checkpoints import read_manifest
from actors.engine import WeightError
from actors.weights import Held, fetch_checked, publish, remove_copy
from pipelines.training.adapters import merge_checkpoint, read_adapter
from pipelines.training.checkpoint import load_model, save_checkpoint
from pipelines.training.config import LoraConfig, TrainingConfig
from tests.pipelines.training.tiny import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
LORA = TrainingConfig(autocast="float32", lora=LoraConfig(rank=4, alpha=8))


@pytest.fixture(autouse=True)
def object_store(monkeypatch) -> list[int]:
    """An object store of this process; the bytes of what was put into it."""
    sent: list[int] = []
    monkeypatch.setattr(weights.ray, "put", lambda array: (sent.append(array.nbytes), array)[1])
    monkeypatch.setattr(weights.ray, "get", lambda array, timeout: array)
    return sent


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """A tiny model as every version looks: bfloat16."""
    raw = write_checkpoint(tmp_path_factory.mktemp("raw"), tie_word_embeddings=True)
    return train(raw, tmp_path_factory.mktemp("start"), LORA.model_copy(update={"lora": None}), 0)


def train(start: str, folder: Path, config: TrainingConfig, seed: int) -> str:
    """A checkpoint of weights far from where they began."""
    generator = torch.Generator().manual_seed(seed)
    trained = {name: p + 0.1 * torch.randn(p.shape, generator=generator)
               for name, p in load_model(start, config).named_parameters() if p.requires_grad}
    save_checkpoint(start, config, trained, str(folder / "checkpoint"), seed)
    return str(folder / "checkpoint")


def held(folder: str, version: str = "v0") -> Held:
    return Held(publish("actor", version, folder, "adapter"), folder)


def test_a_replica_makes_the_checkpoint_from_the_adapters(start, tmp_path, object_store):
    sources = [held(start)]
    assert object_store == []  # nobody has trained adapters of the start model
    for version in (1, 2):  # the second are trained on weights that the replica made itself
        (tmp_path / f"v{version}").mkdir()
        folder = train(sources[-1].source.folder, tmp_path / f"v{version}", LORA, version)
        source = publish("actor", f"v{version}", folder, "adapter")
        made = fetch_checked(source, sources[-1])
        assert made != folder and Path(made, "model.safetensors").is_file()
        assert {n: i.sha256 for n, i in read_manifest(made).items()} == {
            n: i.sha256 for n, i in read_manifest(folder).items()}
        sources.append(Held(source, made))
    assert object_store[::3] == [Path(f"{one.source.folder}/adapter/adapter_model.safetensors").stat().st_size
                                 for one in sources[1:]]
    assert len(object_store) == 2 * 3
    for one in sources[1:]:
        remove_copy(one.source, one.folder)


@pytest.mark.parametrize("who", ["new", "elsewhere", "back at the start"])
def test_whoever_has_other_weights_reads_the_checkpoint(start, tmp_path, who):
    first, other = tmp_path / "v1", tmp_path / "other"
    first.mkdir(), other.mkdir()
    folder = train(start, first, LORA, 1)
    source = publish("actor", "v1", folder, "adapter")
    serving = {"new": None, "elsewhere": held(train(start, other, LORA, 2)), "back at the start": Held(source, folder)}
    assert fetch_checked(source, serving[who]) == folder
    assert fetch_checked(publish("actor", "v0", start, "adapter"), Held(source, folder)) == start


def test_adapters_that_make_other_weights_are_not_used(start, tmp_path, monkeypatch, caplog):
    folder = train(start, tmp_path, LORA, 1)
    source = publish("actor", "v1", folder, "adapter")
    bits = source.buckets["adapter_model.safetensors"]
    source.buckets["adapter_model.safetensors"] = np.concatenate([bits[:-2], np.array([7, 60], dtype=np.uint8)])
    with caplog.at_level(logging.WARNING):
        assert fetch_checked(source, held(start)) == folder
    assert "checksum differs" in caplog.text
    Path(folder, "model.safetensors").write_bytes(Path(start, "model.safetensors").read_bytes())
    with pytest.raises(WeightError, match=r"v1: .*checksum differs"):  # and the checkpoint is not what was published
        fetch_checked(source, held(start))


@pytest.mark.parametrize("targets", ["all-linear", ["embed_tokens", "o_proj"], ["lm_head"]], ids=str)
def test_merging_is_what_peft_computes(tmp_path, targets):
    raw = write_checkpoint(tmp_path / "raw", tie_word_embeddings=False)
    config = LORA.model_copy(update={"lora": LoraConfig(rank=3, alpha=5, target_modules=targets)})
    checkpoint = train(raw, tmp_path, config, 4)
    import peft
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(raw, dtype=torch.float32)
    expected: Any = peft.PeftModel.from_pretrained(plain, f"{checkpoint}/adapter").merge_and_unload()
    merged: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), parameter, atol=1e-6, rtol=2**-7)


def test_shards_are_merged_one_by_one(start, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = train(start, tmp_path, LORA, 1)
    model: Any = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    (tmp_path / "made").mkdir()
    merge_checkpoint(read_adapter(Path(folder, "adapter")), str(tmp_path / "sharded"), str(tmp_path / "made"))
    assert {n: i.sha256 for n, i in read_manifest(tmp_path / "made").items()} == {
        n: i.sha256 for n, i in read_manifest(folder).items()}
