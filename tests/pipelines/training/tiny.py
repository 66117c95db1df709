"""Tiny models, pairs, and what a step on them must give, worked out the long way: padded rows and all logits."""

import copy
import functools
import json
import math
import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pipelines.records import Pair
from pipelines.training.batching import sequences
from pipelines.training.config import TrainingConfig
from pipelines.training.learner import Learner, with_reference
from pipelines.training.logprobs import padded_logprobs
from pipelines.training.strategies import make_strategy

SIZES: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}
DIGITS = list(range(100, 110))  # of the tiny vocabulary
SELF_J = "nll + 0.3 student_nll + 2 student_kl"
EXACT = TrainingConfig(autocast="float32", beta=0.5, max_grad_norm=1e6, weight_decay=0.1)


@functools.cache
def _made(kind: str, options: str) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | json.loads(options))))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:  # biases start at 0 and norms at 1, where nobody would miss them
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tiny_lm(kind: str = "llama", **options: Any) -> Any:
    """A random causal language model of transformers' type `kind`, float32; every call gives a copy of its own."""
    return copy.deepcopy(_made(kind, json.dumps(options)))


def write_checkpoint(folder: Path, kind: str = "llama", **options: Any) -> str:
    """A tiny model's checkpoint folder in float32, with a tokenizer of one word a token."""
    tiny_lm(kind, **options).save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(128)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2").save_pretrained(folder)
    return str(folder)


def make_learner(model: Any = None, **changes: Any) -> Learner:
    """One worker alone that trains `model`, a tiny Llama unless another is given, with the settings EXACT."""
    config = TrainingConfig.model_validate(EXACT.model_dump() | changes)
    return Learner(make_strategy(tiny_lm() if model is None else model, config, "cpu"), config)


def tiny_pairs(count: int = 6, seed: int = 0, rejected: bool = True) -> list[Pair]:
    """Pairs of three prompts, two of which begin alike; weights differ, and so do the lengths of the sides."""
    chosen = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [chosen.randrange(3, 128) for _ in range(length)]

    beginning = ids(18)
    prompts = [beginning + ids(2), beginning + ids(5), ids(4)]
    return [
        {
            "pair_id": f"pair-{i}", "prompt_id": f"prompt-{i % 3}", "iteration": 0, "kind": "actor", "messages": [],
            "prompt_ids": prompts[i % 3], "chosen_ids": [*ids(1 + i % 5), 2],
            "rejected_ids": [*ids(1 + (2 * i) % 7), 2] if rejected else [], "weight": 0.5 + 0.25 * i,
            "chosen_text": "", "rejected_text": "", "chosen_from": "", "rejected_from": "", "chosen_score": None,
            "rejected_score": None, "ref_logp_chosen": None, "ref_logp_rejected": None, "ref_logps_chosen": None,
            "ref_logps_rejected": None, "ref_version": None, "template_hash": None,
            "student_messages": None, "student_ids": None, "digit_ids": None,
        }
        for i in range(count)
    ]


def two_views(count: int = 6) -> list[Pair]:
    """Rows of a digit: the student's prompt begins as the teacher's and is shorter."""
    return [
        {**pair, "chosen_ids": [DIGITS[i % 10]], "digit_ids": DIGITS, "student_ids": [*pair["prompt_ids"][:3], 50 + i]}
        for i, pair in enumerate(tiny_pairs(count, rejected=False))
    ]


def scored(pairs: list[Pair], model: Any, version: str = "v0", noise: float = 0.0) -> list[Pair]:
    """The pairs with the model's log-probabilities as their reference, each token below it by up to `noise`."""
    chosen = random.Random(1)
    found = []
    for pair in pairs:
        with torch.no_grad():
            sides = [logps.tolist() for logps in padded_logprobs(model, sequences(pair))]
        found.append(with_reference(pair, [[v - noise * chosen.random() for v in side] for side in sides], version))
    return found


def parameters_of(model: Any) -> Tensor:
    """Every weight in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- a step the long way


def naive_step(model: Any, pairs: list[Pair], config: TrainingConfig) -> tuple[dict[str, float], Tensor]:
    """What a step on these pairs must report, and the gradient of its loss."""
    referenced = all(pair.get("ref_logps_chosen") for pair in pairs)
    sides = [padded_logprobs(model, sequences(pair)) for pair in pairs]
    refs = [
        [torch.tensor(ref or [0.0] * len(side)) for ref, side in
         zip((pair.get("ref_logps_chosen"), pair.get("ref_logps_rejected")), both, strict=False)]
        for pair, both in zip(pairs, sides, strict=True)
    ]
    ratios = [[(side.sum() - ref.sum()).item() for side, ref in zip(*both, strict=True)]
              for both in zip(sides, refs, strict=True)]
    drift = [max(0.0, sum(ratio[i] for ratio in ratios if len(ratio) > i) / len(pairs)) for i in (0, 1)]
    tokens = sum(len(pair["chosen_ids"]) for pair in pairs)
    losses, rows = [], []
    for pair, side, ref in zip(pairs, sides, refs, strict=True):
        terms = _terms(side, ref, drift, config) | {"sft": -side[0].sum() * len(pairs) / tokens}
        losses.append(pair["weight"] * sum(weight * terms[name] for name, weight in config.losses.items()))
        row = {f"loss_{name}": terms[name].item() for name in config.losses} | {"loss": losses[-1].item()}
        if referenced:
            row |= {"dpo_loss": terms["dpo"].item()}
            rewards = [config.beta * (s.sum() - r.sum()).item() for s, r in zip(side, ref, strict=True)] + [0.0]
        else:
            rewards = [config.beta * s.mean().item() for s in side] + [0.0]
        row |= {"reward_chosen": rewards[0], "reward_rejected": rewards[1], "margin": rewards[0] - rewards[1]}
        row |= {"accuracy": float(rewards[0] > rewards[1]), "logp_chosen": side[0].sum().item()}
        row |= {"logp_rejected": sum(s.sum().item() for s in side[1:])}
        rows.append(row | {"chosen_tokens": len(pair["chosen_ids"]), "rejected_tokens": len(pair["rejected_ids"])})
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    gradient = torch.cat([g.flatten() for g in gradients])
    metrics = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    own = torch.cat([side for both in sides for side in both]).detach().double()
    prompts = sum(len(pair["prompt_ids"]) for pair in pairs)
    metrics |= {"pairs": len(pairs), "prompt_tokens": prompts, "tokens": prompts + len(own)}
    metrics |= {"entropy": _entropy(model, pairs) / len(own), "grad_norm": gradient.norm().item()}
    if referenced:
        ratio = torch.cat([ref for both in refs for ref in both]).double() - own
        metrics["kl"] = (ratio.exp() - 1 - ratio).mean().item()
    return metrics, gradient


def _terms(side: list[Tensor], ref: list[Tensor], drift: list[float], config: TrainingConfig) -> dict[str, Tensor]:
    """Losses of one pair from the log-probability of each token; `drift` is both sides' mean log-ratio of the step."""
    terms = {"nll": -side[0].mean(), "dpo": torch.zeros(())}
    if len(side) < 2:
        return terms
    ratios = [s - r for s, r in zip(side, ref, strict=True)]
    head = min(map(len, side))
    w, lost = (ratio.sum() for ratio in ratios)
    w_ld, lost_ld = (ratio[:head].sum() + config.ld_alpha * ratio[head:].sum() for ratio in ratios)
    odds = [s.mean() - torch.log1p(-s.mean().exp()) for s in side]
    kto = torch.sigmoid(-config.beta * (w - drift[1])) + torch.sigmoid(-config.beta * (drift[0] - lost))
    return terms | {
        "dpo": -F.logsigmoid(config.beta * (w - lost)), "ld_dpo": -F.logsigmoid(config.beta * (w_ld - lost_ld)),
        "kto": kto / 2, "orpo": -F.logsigmoid(odds[0] - odds[1]),
    }


def _entropy(model: Any, pairs: list[Pair]) -> float:
    """Of the next token's distribution, summed over the places that predict a response token."""
    total = 0.0
    for prompt, response in (sequence for pair in pairs for sequence in sequences(pair)):
        with torch.no_grad():
            logps = model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
        total -= float((logps.exp() * logps)[len(prompt) - 1 : -1].sum())
    return total
