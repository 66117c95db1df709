"""Start weights in, a Hugging Face checkpoint out."""

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from actors.checkpoints import read_manifest
from pipelines.training.adapters import FOLDER, read_adapter, rounded, write_origin
from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.strategies.base import State


def load_model(folder: str, config: TrainingConfig, seed: int = 0) -> Any:
    """The causal language model in `folder` on the CPU, as training holds it; with fresh adapters where asked for.

    In evaluation mode: there is no dropout, and the policy starts equal to the reference. Adapters are float32 whatever
    the type of the weights below them, and the same on every worker. Raises TrainingError for adapters that the model
    cannot carry.
    """
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, config.weights), local_files_only=True
    ).eval()
    if config.liger:
        importlib.import_module("liger_kernel.transformers")._apply_liger_kernel_to_instance(model=model)
    return _with_adapters(model, config.lora, seed) if config.lora else model


def _with_adapters(model: Any, lora: LoraConfig, seed: int) -> Any:
    import peft

    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    options = peft.LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=lora.target_modules
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted: Any = peft.get_peft_model(model, options).eval()
        except ValueError as error:  # no module of that name, or one without a matrix
            raise TrainingError(f"lora.target_modules={lora.target_modules!r}: {error}") from error
    if shared and any(hasattr(m, "base_layer") for m in (model.get_output_embeddings(), model.get_input_embeddings())):
        raise TrainingError(
            f"lora.target_modules={lora.target_modules!r}: the output head and the embedding of this model are one "
            "matrix, which an adapter for one of them cannot be merged into"
        )
    return adapted


def save_checkpoint(start: str, config: TrainingConfig, weights: State, folder: str, seed: int = 0) -> None:
    """Write the model of `start` with the trained `weights` in bfloat16, whole or not at all.

    What a short training changes is mostly smaller than bfloat16 can show, and rounding to nearest would take it all
    back; seeded stochastic rounding keeps it on average. Adapters are merged into the checkpoint, and kept by
    themselves in its folder `adapter`. Raises TrainingError for non-finite weights.
    """
    from transformers import AutoTokenizer

    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise TrainingError(f"not saved, non-finite weights: {', '.join(bad[:5])}")
    model = load_model(start, config)
    own, adapter = dict(model.named_parameters()), None
    unknown = weights.keys() - own.keys()
    if unknown:
        raise TrainingError(f"not saved, {start} has no weights named {', '.join(sorted(unknown)[:3])}")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    final = Path(folder)
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if config.lora:
        model.save_pretrained(partial / FOLDER, save_embedding_layers=False)
        write_origin(partial / FOLDER, seed, read_manifest(start))
        adapter = read_adapter(partial / FOLDER)
        model = model.unload()
    for name, parameter in model.named_parameters():
        parameter.data = adapter.merge(name, parameter) if adapter else rounded(name, parameter, seed)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer: Any = AutoTokenizer.from_pretrained(start, local_files_only=True)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
