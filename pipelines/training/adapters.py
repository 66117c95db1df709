"""Adapters by themselves: the thousandth of a model that a training changed, from which its weights are made again.

A checkpoint's folder `adapter` has them in PEFT's format, and beside them what the merged weights depend on besides:
the seed of the rounding and a digest of the checkpoint below. Merging is the same computation wherever it is done, so
the weights that a replica makes from adapters are those of the checkpoint, bit for bit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.checkpoints import TensorInfo, weight_files
from pipelines.records import digest

FOLDER, ORIGIN = "adapter", "merged_with.json"
FILES = ("adapter_model.safetensors", "adapter_config.json", ORIGIN)
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """W + scale B A of each adapted weight, by the weight's name; `turned` where a weight is stored the other way."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]  # A [rank, in], B [out, rank], float32
    turned: frozenset[str]
    scale: float
    seed: int
    base: str

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The weight with its adapter in bfloat16; any weight without one is only rounded."""
        values = weight.detach().float()
        if name in self.matrices:
            a, b = (matrix.double() for matrix in self.matrices[name])  # so that no order of summation shows
            change = (self.scale * (b @ a)).float()
            values = values + (change.mT if name in self.turned else change)
        return rounded(name, values, self.seed)


def rounded(name: str, values: Tensor, seed: int) -> Tensor:
    """`values` rounded stochastically to bfloat16; the noise depends on the seed and the weight's name alone."""
    generator = torch.Generator().manual_seed(int(digest(seed, name)[:12], 16))
    return round_stochastically(values, generator)


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite values in bfloat16: up or down at random, so that the mean is kept; what bfloat16 can hold stays as it is.

    The noise is added to the 16 bits that bfloat16 cuts off.
    """
    bits = values.detach().float().contiguous().view(torch.int32)
    noise = torch.randint(0, 2**16, bits.shape, dtype=torch.int32, generator=generator)
    return ((bits + noise) & -(2**16)).view(torch.float32).bfloat16()


def write_origin(folder: Path, seed: int, base: Mapping[str, TensorInfo]) -> None:
    """Note in an adapter's folder what it was trained on, and the seed of the merged checkpoint."""
    (folder / ORIGIN).write_text(json.dumps({"seed": seed, "base": weights_digest(base)}), encoding="utf-8")


def weights_digest(manifest: Mapping[str, TensorInfo]) -> str:
    """Equal for equal tensors under equal names, whatever files they are in."""
    return digest(sorted((name, info.sha256) for name, info in manifest.items()))


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`; KeyError and ValueError for one that is not from here."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    origin = json.loads((folder / ORIGIN).read_text("utf-8"))
    halves: dict[str, dict[str, Tensor]] = {}
    turned = set()
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        halves.setdefault(f"{module}.weight", {})[half[-1]] = tensor
        if half.startswith("embedding") or config.get("fan_in_fan_out"):
            turned.add(f"{module}.weight")
    matrices = {name: (found["A"], found["B"]) for name, found in halves.items()}
    scale = config["lora_alpha"] / config["r"]
    return Adapter(matrices, frozenset(turned), scale, origin["seed"], origin["base"])


def merge_checkpoint(adapter: Adapter, base: str, folder: str) -> None:
    """Write into `folder` the safetensors shards of the checkpoint `base` with the adapter merged, one at a time."""
    for shard in weight_files(base):
        with safe_open(str(shard), "pt") as tensors:
            merged = {name: adapter.merge(name, tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
        save_file(merged, Path(folder) / shard.name, metadata={"format": "pt"})
