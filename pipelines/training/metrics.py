"""What a step reports: sums over pairs and tokens, added up over the workers, then divided once."""

import time
from typing import Any

import torch
import torch.distributed as dist

Sums = dict[str, float]

# Divided by response tokens; everything else is a mean over pairs, or a total.
PER_TOKEN = ("entropy", "kl")
TOTALS = ("pairs", "prompt_tokens", "computed_tokens")


def add_up(sums: Sums, more: Sums) -> None:
    """Add `more` into `sums`."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def gather(sums: Sums) -> Sums:
    """The sums over all workers, the same on each. Collective."""
    total: Sums = {}
    for part in _gather(sums):
        add_up(total, part)
    return total


def gather_lists(items: list[Any]) -> list[Any]:
    """The items of all workers in rank order. Collective."""
    return [item for part in _gather(items) for item in part]


def _gather(value: Any) -> list[Any]:
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def summary(sums: Sums) -> dict[str, Any]:
    """Means per pair (losses, rewards, log-probabilities, lengths) and per response token (entropy, KL), and totals.

    `tokens` counts each pair's prompt once and both sides; `computed_tokens` is what went through the model, fewer
    where prompts are shared.
    """
    pairs = max(1.0, sums.get("pairs", 0.0))
    response = sums.get("chosen_tokens", 0.0) + sums.get("rejected_tokens", 0.0)
    metrics: dict[str, Any] = {}
    for name, value in sums.items():
        if name in TOTALS:
            metrics[name] = value
        else:
            metrics[name] = value / (max(1.0, response) if name in PER_TOKEN else pairs)
    metrics["tokens"] = sums.get("prompt_tokens", 0.0) + response
    return metrics


def peak_memory_bytes(device: str) -> int:
    """Highest memory so far: of the GPU on CUDA, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


class Throughput:
    """Speed of a step, and which share of the hardware's matrix products it used (MFU, Chowdhery et al. 2022).

    Operations are 6 per weight and computed token, and those of the output head per predicted token; attention is left
    out, so the share is never flattering. The peak is the device's published one where known, else measured.
    """

    def __init__(self, model: Any, device: str):
        head = model.get_output_embeddings().weight
        tables = {id(model.get_input_embeddings().weight), id(head)}
        self._body = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in tables)
        self._head, self._device = head.numel(), device
        self._peak = peak_flops(device)

    def of(self, metrics: dict[str, Any]) -> dict[str, float]:
        """`tokens_per_s`, `mfu` and `peak_memory_gib` of a step with these metrics."""
        response = (metrics.get("chosen_tokens", 0.0) + metrics.get("rejected_tokens", 0.0)) * metrics.get("pairs", 0.0)
        operations = 6.0 * (self._body * metrics.get("computed_tokens", 0.0) + self._head * response)
        workers = dist.get_world_size() if dist.is_initialized() else 1
        return {
            "tokens_per_s": metrics["tokens"] / metrics["seconds"],
            "mfu": operations / metrics["seconds"] / workers / self._peak,
            "peak_memory_gib": peak_memory_bytes(self._device) / 2**30,
        }


# Dense bfloat16 operations per second from the makers' data sheets.
_PUBLISHED = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


def peak_flops(device: str) -> float:
    """Highest rate of bfloat16 matrix products of the device, operations per second."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name()
        for known, rate in _PUBLISHED.items():
            if known in name:
                return rate
    size = 1024
    a = torch.randn(size, size, device=device).bfloat16()
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - begun)
    return 2.0 * size**3 / best
