"""The DPO loop of one train worker.

Pairs are read from the run's Parquet parts in a seeded order that every worker derives by itself, so a restarted worker
group sees the same batches. One pair is one forward pass; gradients are summed over a batch and over the workers.
"""

import contextlib
import math
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.config import TrainingConfig
from pipelines.ledger import Ledger
from pipelines.training.errors import TrainingError
from pipelines.training.logprobs import response_logprobs
from pipelines.training.losses import weighted_pair_loss

LN2 = math.log(2.0)
MAX_BAD_STEPS = 3


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The pairs' order in one epoch: a seeded permutation, the same on every worker and after every restart."""
    order = list(range(count))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order


def batches(count: int, config: TrainingConfig, seed: int) -> list[list[int]]:
    """Indices of each optimizer step's pairs, all epochs; the last batch of an epoch may be smaller."""
    steps = []
    for epoch in range(config.epochs):
        order = epoch_order(count, seed, epoch)
        steps += [order[i : i + config.batch_pairs] for i in range(0, count, config.batch_pairs)]
    return steps[: config.max_steps]


class PairTrainer:
    """Model, optimizer and schedule of one worker; knows nothing of Ray."""

    def __init__(self, model: nn.Module, config: TrainingConfig, total_steps: int, device: str = "cpu"):
        from transformers import get_scheduler

        self.model, self.config, self.device = model, config, device
        decay = [p for p in model.parameters() if p.ndim >= 2]
        plain = [p for p in model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        self.scheduler = get_scheduler(
            config.schedule, self.optimizer, int(total_steps * config.warmup_ratio), total_steps
        )
        self.bad_steps = 0

    def autocast(self) -> Any:
        """The numerics of every forward pass; the reference actor uses the same."""
        if self.config.autocast == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def pair_loss(self, pair: dict[str, Any]) -> dict[str, Tensor]:
        """Loss of one pair and its parts, scalars."""
        with self.autocast():
            chosen, rejected = response_logprobs(
                self.model, pair["prompt_ids"], [pair["chosen_ids"], pair["rejected_ids"]], self.config.logprob_chunk
            )

        def number(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float32, device=chosen.device)

        return weighted_pair_loss(
            chosen.sum(), rejected.sum(), number(pair["ref_logp_chosen"]), number(pair["ref_logp_rejected"]),
            number(len(pair["chosen_ids"])), number(pair["weight"]), self.config.beta, self.config.nll_alpha,
        ) | {"logp_chosen": chosen.sum().detach(), "logp_rejected": rejected.sum().detach()}

    def check_reference(self, pairs: list[dict[str, Any]]) -> float:
        """Mean DPO loss of `pairs` before any step: ln 2, or the reference is not this model (recipes: invariant D7).

        Raises TrainingError naming the worst pair otherwise.
        """
        tolerance = 1e-4 if self.config.autocast == "float32" else 2e-2
        with torch.no_grad():
            losses = [float(self.pair_loss(pair)["dpo_loss"]) for pair in pairs]
        off = [abs(loss - LN2) if math.isfinite(loss) else math.inf for loss in losses]
        worst = off.index(max(off))
        if off[worst] > tolerance:
            raise TrainingError(
                f"pair {pairs[worst]['pair_id']}: DPO loss {losses[worst]:.6f} at step 0 instead of ln 2 = {LN2:.6f}; "
                f"the reference log-probabilities (version {pairs[worst]['ref_version']}) are not this model's"
            )
        return sum(losses) / len(losses)

    def step(self, pairs: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
        """One optimizer step on this worker's share of a batch of `batch_size` pairs; returns means over the batch.

        A non-finite loss or gradient is never stepped: `skipped` is 1 and `bad_pair_ids` names the pairs of all
        workers. Raises TrainingError after MAX_BAD_STEPS such steps in a row.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        bad_ids: list[str] = []
        for pair in pairs:
            parts = self.pair_loss(pair)
            if not torch.isfinite(parts["loss"]):
                bad_ids.append(pair["pair_id"])
                continue
            (parts["loss"] / batch_size).backward()
            parts["accuracy"] = (parts["reward_chosen"] > parts["reward_rejected"]).float()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        sums["pairs"] = len(pairs)
        sums["tokens"] = sum(len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
        sums["bad_pairs"] = len(bad_ids)
        norm = self._reduce_gradients()
        suspects = _of_all_workers(bad_ids)
        if not suspects and not math.isfinite(norm):  # any pair of the batch may be the cause
            suspects = _of_all_workers([pair["pair_id"] for pair in pairs])
        if suspects:
            self.bad_steps += 1
        else:
            self.optimizer.step()
            self.bad_steps = 0
        rate = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        totals = _sum_over_workers(sums)
        count = max(1.0, totals["pairs"] - totals["bad_pairs"])
        metrics: dict[str, Any] = {k: v / count for k, v in totals.items() if k not in ("pairs", "tokens", "bad_pairs")}
        metrics |= {"pairs": totals["pairs"], "tokens": totals["tokens"], "grad_norm": norm}
        metrics |= {"learning_rate": rate, "skipped": float(bool(suspects))}
        if suspects:
            names = ", ".join(suspects)
            if self.bad_steps >= MAX_BAD_STEPS:
                raise TrainingError(f"{MAX_BAD_STEPS} steps in a row were not finite; pairs: {names}")
            metrics["bad_pair_ids"] = names
        return metrics

    def _reduce_gradients(self) -> float:
        """Sum gradients over the workers and clip; returns the norm before clipping."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # a worker without a pair in this batch
                parameter.grad = torch.zeros_like(parameter)
            if dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(parameter.grad)
        return float(nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))


def _sum_over_workers(sums: dict[str, float]) -> dict[str, float]:
    gathered = _gather(sums)
    keys = {key for part in gathered for key in part}
    return {key: sum(part.get(key, 0.0) for part in gathered) for key in keys}


def _of_all_workers(names: list[str]) -> list[str]:
    return [name for part in _gather(names) for name in part]


def _gather(value: Any) -> list[Any]:
    """The value of every worker, in rank order."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def train_loop(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs. `settings`: config, model (folder), version, ledger, iteration, seed.

    A TrainingError would come again after a restart, so it goes to the driver through the run folder and ends the loop
    without a failure that Ray Train retries; every worker meets it at the same step.
    """
    try:
        _train(settings)
    except TrainingError as error:
        settings["ledger"].append_metrics(settings["iteration"], {"event": "error", "message": str(error)})


def _train(settings: dict[str, Any]) -> None:
    import ray.train
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = TrainingConfig.model_validate(settings["config"])
    ledger: Ledger = settings["ledger"]
    iteration = settings["iteration"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # Ray gives a worker as many threads as it reserves CPUs; a fraction would leave it at one.
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // world))
    device = "cuda" if config.num_gpus else "cpu"
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32, local_files_only=True)
    model.to(device).eval()  # no dropout: the policy must start equal to the reference
    pairs = ledger.read_pairs(iteration).to_pylist()
    plan = batches(len(pairs), config, settings["seed"])
    trainer = PairTrainer(model, config, len(plan), device)
    # A frozen reference is not the policy that starts here, and its loss is not ln 2.
    own = [pairs[i] for i in plan[0] if pairs[i]["ref_version"] == settings["version"]]
    first = trainer.check_reference(own[:4]) if own else None
    if rank == 0:
        ledger.append_metrics(iteration, {"event": "start", "steps": len(plan), "reference_check": first})
    skipped = 0.0
    for number, batch in enumerate(plan):
        clock = time.monotonic()
        metrics = trainer.step([pairs[i] for i in batch[rank::world]], len(batch))
        seconds = time.monotonic() - clock
        metrics |= {"step": number, "seconds": seconds, "tokens_per_s": metrics["tokens"] / seconds}
        skipped += metrics["skipped"]
        if rank == 0:
            ledger.append_metrics(iteration, metrics)
        ray.train.report({k: v for k, v in metrics.items() if not isinstance(v, str)})
    if skipped == len(plan):
        raise TrainingError(f"none of the {len(plan)} steps was finite; pairs: {metrics.get('bad_pair_ids')}")
    if rank == 0:
        tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True)
        save_checkpoint(model, tokenizer, ledger.checkpoint_dir(iteration))


def save_checkpoint(model: Any, tokenizer: Any, folder: str) -> None:
    """Write a Hugging Face checkpoint in bfloat16, whole or not at all; raises on non-finite weights."""
    model.to(torch.bfloat16)  # in place, so that tied tensors stay one tensor
    bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise TrainingError(f"not saved, non-finite weights: {', '.join(bad[:5])}")
    final = Path(folder)
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
