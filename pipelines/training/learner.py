"""One worker's part of an optimizer step: pairs to packs to losses to gradients. Knows nothing of Ray or files.

Every number is a sum over pairs or tokens until the workers' sums are added up, so that what is reported does not
depend on packing, on accumulation or on the number of workers.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.records import Pair
from pipelines.training.batching import forward_passes, read_of, sequences, views
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.losses import PairBatch, Views, combined
from pipelines.training.metrics import Sums, add_up, gather, gather_lists, summary
from pipelines.training.packing import Pack, pack_sequences
from pipelines.training.strategies.base import Strategy, autocast

LN2 = math.log(2.0)
# Nats by which a token's log-probability differs where it is computed in a pack of another shape: SmolLM2-135M, sampled
# at temperature 1, has 0.07 (root mean square).
BFLOAT16_NOISE = 0.1


class Learner:
    """Trains what a strategy holds, one optimizer step at a time."""

    def __init__(self, strategy: Strategy, config: TrainingConfig):
        self.strategy, self.config = strategy, config
        self.bad_steps = 0

    def step(self, pairs: Sequence[Pair], learning_rate: float) -> dict[str, Any]:
        """One optimizer step on the pairs of all workers; returns `metrics.summary` of it.

        A step with a non-finite loss or gradient is not taken: `skipped` is 1 and `bad_pair_ids` names the pairs.
        Raises TrainingError after `max_bad_steps` of them in a row.
        """
        begun = time.monotonic()
        whole, referenced = self._whole_step(pairs), all(map(has_reference, pairs))
        sums: Sums = {}
        bad_ids: list[str] = []
        passes = self._passes(pairs)
        for number, part in enumerate(passes):
            rows = [pairs[i] for i in part]
            batch, measured = self._read(rows or pairs[:1], whole)
            terms = combined(batch, self.config)
            loss = terms["loss"].sum() / len(pairs)
            # A worker with nothing left to do still takes part, with a pair that counts nothing.
            self.strategy.backward(loss if rows else loss * 0.0, last=number + 1 == len(passes))
            if rows:
                add_up(sums, self._measure(rows, batch, terms, measured, referenced))
                finite = torch.isfinite(terms["loss"]).tolist()
                bad_ids += [row["pair_id"] for row, good in zip(rows, finite, strict=True) if not good]
        norm = self.strategy.gradient_norm()
        suspects = gather_lists(bad_ids)
        if not suspects and not math.isfinite(norm):  # any pair of the step may be the cause
            suspects = [pair["pair_id"] for pair in pairs]
        if suspects:
            self.strategy.discard()
            self.bad_steps += 1
        else:
            self.strategy.step(learning_rate)
            self.bad_steps = 0
        metrics = summary(gather(sums))
        metrics |= {"grad_norm": norm, "learning_rate": learning_rate, "skipped": float(bool(suspects))}
        metrics["seconds"] = time.monotonic() - begun
        if suspects:
            metrics["bad_pair_ids"] = names = ", ".join(suspects)
            if self.bad_steps >= self.config.max_bad_steps:
                raise TrainingError(f"{self.bad_steps} steps in a row were not finite; pairs: {names}")
        return metrics

    def evaluate(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """The same metrics without a step."""
        sums: Sums = {}
        whole, referenced = self._whole_step(pairs), all(map(has_reference, pairs))
        with torch.no_grad():
            for part in self._passes(pairs):
                rows = [pairs[i] for i in part]
                batch, measured = self._read(rows or pairs[:1], whole)
                if rows:
                    terms = combined(batch, self.config)
                    add_up(sums, self._measure(rows, batch, terms, measured, referenced))
        return summary(gather(sums))

    def reference(self, pairs: Sequence[Pair], version: str) -> list[Pair]:
        """The pairs with the present weights' log-probabilities as their reference, on every worker in their order."""
        made: list[tuple[int, list[list[float]]]] = []
        with torch.no_grad():
            for part in self._passes(pairs):
                rows = [pairs[i] for i in part] or [pairs[0]]
                pack = self._pack(rows)
                with autocast(self.config, self.strategy.device):
                    logps, _ = self.strategy.model(pack)
                found = iter([logps[torch.tensor(r, device=logps.device)].tolist() for r in pack.responses])
                for i in part:
                    of_pair = [next(found) for _ in read_of(pairs[i], self.config)]
                    made.append((i, of_pair[: len(sequences(pairs[i]))]))
        filled = dict(gather_lists(made))
        return [with_reference(pair, filled[i], version) for i, pair in enumerate(pairs)]

    def check_reference(self, pairs: Sequence[Pair]) -> float:
        """Mean DPO loss before any step: ln 2, or the reference is not this model (recipes: invariant D7).

        Raises TrainingError that names the worst pair.
        """
        noise = 0.0 if self.config.autocast == "float32" else BFLOAT16_NOISE
        losses: list[tuple[str, float, float]] = []
        sums: Sums = {}
        whole = self._whole_step(pairs)
        with torch.no_grad():
            for part in self._passes(pairs):
                rows = [pairs[i] for i in part]
                batch, measured = self._read(rows or pairs[:1], whole)
                found = combined(batch, self.config)["dpo_loss"].tolist()
                tokens = (batch.chosen_tokens + batch.rejected_tokens).tolist()
                losses += zip([row["pair_id"] for row in rows], found, tokens, strict=False)
                if rows:
                    add_up(sums, {"kl": measured["kl"], "tokens": sum(tokens)})
        everywhere, total = gather_lists(losses), gather(sums)

        def excess(item: tuple[str, float, float]) -> float:
            """How far a loss is from ln 2, over what rounding may make of so many tokens (5 standard deviations)."""
            allowed = 1e-4 + 2.5 * self.config.beta * noise * math.sqrt(item[2])
            return abs(item[1] - LN2) / allowed if math.isfinite(item[1]) else math.inf

        worst = max(everywhere, key=excess)
        apart = math.sqrt(2.0 * max(0.0, total["kl"]) / total["tokens"])  # k3 of small differences: half their square
        if not excess(worst) <= 1.0 or not apart <= 1e-3 + 3.0 * noise:
            version = next(pair["ref_version"] for pair in pairs if pair["pair_id"] == worst[0])
            raise TrainingError(
                f"pair {worst[0]}: DPO loss {worst[1]:.6f} at step 0 instead of ln 2 = {LN2:.6f}; the reference "
                f"log-probabilities (version {version}) are not this model's: {apart:.3g} apart at a token"
            )
        return sum(loss for _, loss, _ in everywhere) / len(everywhere)

    def _passes(self, pairs: Sequence[Pair]) -> list[list[int]]:
        strategy = self.strategy
        passes = forward_passes(pairs, self.config, strategy.world)
        own = passes[strategy.rank]
        if strategy.lockstep:
            own = own + [[]] * (max(map(len, passes)) - len(own))
        return own

    def _pack(self, rows: Sequence[Pair]) -> Pack:
        return pack_sequences([s for row in rows for s in read_of(row, self.config)], share=self.config.shared_prompt)

    def _whole_step(self, pairs: Sequence[Pair]) -> dict[str, float]:
        """What losses read of all pairs of the step, over all packs and workers."""
        chosen = sum(len(pair["chosen_ids"]) for pair in pairs)
        whole = {"batch_pairs": float(len(pairs)), "batch_chosen_tokens": float(chosen)}
        whole |= {"kl_chosen": 0.0, "kl_rejected": 0.0}
        if "kto" not in self.config.losses:
            return whole
        sums: Sums = {}
        with torch.no_grad():
            for part in self._passes(pairs):
                batch, _ = self._read([pairs[i] for i in part] or pairs[:1], whole)
                if part:
                    kl_chosen, kl_rejected = batch.chosen - batch.ref_chosen, batch.rejected - batch.ref_rejected
                    add_up(sums, {"chosen": float(kl_chosen.sum()), "rejected": float(kl_rejected.sum())})
        totals = gather(sums)
        return whole | {f"kl_{side}": max(0.0, totals[side] / len(pairs)) for side in ("chosen", "rejected")}

    def _read(self, rows: Sequence[Pair], whole: dict[str, float]) -> tuple[PairBatch, Sums]:
        """One forward pass over the rows: what the losses need, and sums over response tokens."""
        pack = self._pack(rows)
        with autocast(self.config, self.strategy.device):
            logps, entropies = self.strategy.model(pack)
        device = logps.device
        responses = iter(pack.responses)
        lengths = [(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
        places, owners, heads, seen = [], [], [], []
        for i, (row, pair) in enumerate(zip(rows, lengths, strict=True)):
            for side, length in enumerate(pair):
                if length:
                    places += next(responses)
                    owners += [2 * i + side] * length
                    shared = min(pair) or length
                    heads += [1.0] * shared + [0.0] * (length - shared)
            if self.config.needs_views:
                seen.append([next(responses) for _ in views(row)])
        index, owner = torch.tensor(places, device=device), torch.tensor(owners, device=device)
        head = torch.tensor(heads, device=device)
        flat = logps[index]

        def per_side(values: Tensor) -> Tensor:
            return values.new_zeros(2 * len(rows)).index_add(0, owner, values).view(-1, 2)

        ref = self._reference_tokens(rows, device)
        own = flat.detach()
        measured: Sums = {
            "computed_tokens": float(len(pack.token_ids)),
            "entropy": float(entropies[index].sum()),
            "kl": float((torch.expm1(ref - own) - (ref - own)).sum()),  # k3, Schulman 2020: never negative
        }
        sums, sums_head = per_side(flat), per_side(flat * head)
        ref_sums, ref_head = per_side(ref), per_side(ref * head)
        counts = torch.tensor(lengths, dtype=torch.float32, device=device)
        prompts = torch.tensor([len(row["prompt_ids"]) for row in rows], dtype=torch.float32, device=device)
        return PairBatch(
            chosen=sums[:, 0], rejected=sums[:, 1], ref_chosen=ref_sums[:, 0], ref_rejected=ref_sums[:, 1],
            prompt_tokens=prompts, chosen_tokens=counts[:, 0], rejected_tokens=counts[:, 1],
            chosen_head=sums_head[:, 0], rejected_head=sums_head[:, 1],
            ref_chosen_head=ref_head[:, 0], ref_rejected_head=ref_head[:, 1],
            weight=torch.tensor([row["weight"] for row in rows], dtype=torch.float32, device=device), **whole,
            views=_views(logps, seen) if seen else None,
        ), measured

    def _reference_tokens(self, rows: Sequence[Pair], device: torch.device) -> Tensor:
        """The stored reference of every response token, in the order of the sides; NaN in a row that has none."""
        values: list[float] = []
        for row in rows:
            if has_reference(row):
                values += [*(row.get("ref_logps_chosen") or []), *(row.get("ref_logps_rejected") or [])]
            else:
                values += [math.nan] * (len(row["chosen_ids"]) + len(row["rejected_ids"]))
        return torch.tensor(values, dtype=torch.float32, device=device)

    def _measure(
        self, rows: Sequence[Pair], batch: PairBatch, terms: dict[str, Tensor], measured: Sums, referenced: bool
    ) -> Sums:
        """Sums of all that is reported; what compares with the reference only where every pair of the step has one."""
        values = {name: value.detach() for name, value in terms.items()}
        values |= {"logp_chosen": batch.chosen.detach(), "logp_rejected": batch.rejected.detach()}
        if not referenced:
            del values["dpo_loss"]
            measured = {name: value for name, value in measured.items() if name != "kl"}
            for side in ("chosen", "rejected"):  # the reward of the losses without a reference: SimPO's
                tokens = getattr(batch, f"{side}_tokens").clamp(min=1.0)
                values[f"reward_{side}"] = self.config.beta * values[f"logp_{side}"] / tokens
        values["margin"] = values["reward_chosen"] - values["reward_rejected"]
        values["accuracy"] = (values["margin"] > 0).float()
        totals = torch.stack([value.sum() for value in values.values()]).tolist()
        prompt = sum(len(prompt) for row in rows for prompt in _prompts(row, self.config))
        lengths = {
            "pairs": float(len(rows)), "prompt_tokens": float(prompt),
            "chosen_tokens": float(batch.chosen_tokens.sum()), "rejected_tokens": float(batch.rejected_tokens.sum()),
        }
        return measured | dict(zip(values, totals, strict=True)) | lengths


def _views(logps: Tensor, seen: Sequence[Sequence[Sequence[int]]]) -> Views:
    """The log-probabilities of what `batching.views` lists of each row, from the places of its predictions."""
    chosen = torch.stack([logps[torch.tensor(row[0], device=logps.device)].sum() for row in seen])
    places = torch.tensor([[place for (place,) in row[1:]] for row in seen], device=logps.device)
    digits = logps[places].unflatten(1, (2, -1))
    return Views(chosen=chosen, teacher=digits[:, 0], student=digits[:, 1])


def _prompts(pair: Pair, config: TrainingConfig) -> list[Sequence[int]]:
    return [pair["prompt_ids"], *([pair.get("student_ids") or []] if config.needs_views else [])]


def has_reference(pair: Pair) -> bool:
    """Whether the pair's reference log-probabilities are there, finite, and one for each response token."""
    sides = (
        (pair["chosen_ids"], pair.get("ref_logps_chosen") or [], pair["ref_logp_chosen"]),
        (pair["rejected_ids"], pair.get("ref_logps_rejected") or [], pair["ref_logp_rejected"]),
    )
    for ids, logps, total in sides:
        if len(logps) != len(ids) or total is None or not all(map(math.isfinite, logps)):
            return False
        if not math.isclose(sum(logps), total, rel_tol=1e-4, abs_tol=1e-3):
            return False
    return True


def with_reference(pair: Pair, sides: Sequence[Sequence[float]], version: str) -> Pair:
    """The pair with the reference's log-probability of each token of its sides, and their sums."""
    chosen, rejected = (list(side) for side in (*sides, [])[:2])
    return {
        **pair, "ref_logps_chosen": chosen, "ref_logps_rejected": rejected, "ref_logp_chosen": sum(chosen),
        "ref_logp_rejected": sum(rejected), "ref_version": version,
    }


def learning_rate_at(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of a step, 0 <= step < total: linear warm-up, then constant, linear to 0, or half a cosine to 0."""
    warmup = int(total * config.warmup_ratio)
    if step < warmup:
        return config.learning_rate * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    shape: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: 1.0 - done,
        "cosine": lambda: 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return config.learning_rate * shape[config.schedule]()
