"""Self-motivated Learning (2404.07017) without a reward model: rationales ranked by whether their answer is right.

The model writes rationales for questions with known answers, and for a question that none got right it may see the
answer and explain it. Every right one is preferred to every wrong one, by IRPO's loss in place of the paper's reward
model and PPO. The paper trains on the right ones first and refers to that model: `sft_iterations` of 1, before others.
"""

from itertools import product
from typing import Any

from pydantic import Field, NonNegativeInt

from pipelines.config import Sampling
from pipelines.recipes import irpo
from pipelines.recipes.base import Context, Recipe, SampleStep, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair, Sample
from pipelines.steps.answers import gives_away, gold_answer
from pipelines.steps.correctness import correctness_pairs, mark_answers
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.pairs import make_row
from pipelines.steps.render import prompt_messages

HINTED = 0.5  # rank of a right rationale that was written with the answer in sight: below 1, above a wrong one's 0
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "prompts_limit": 200,
        "iterations": 2,
        "method": {"samples": {"max_tokens": 512}, "hinted": {"max_tokens": 512}},
        "training": {"learning_rate": 5e-6, "epochs": 2},
    },
}


class Settings(Method):
    """The paper's abstract names no values; these are R6's training and a usual sampling."""

    samples: Sampling = Field(Sampling(n=8, temperature=0.8), description="rationales of every question")
    hinted: Sampling | None = Field(Sampling(n=4, temperature=0.8), description="with the answer, where none was right")
    sft_iterations: NonNegativeInt = Field(0, description="first iterations, which train on right rationales alone")


def hint(group: Group, context: Context) -> list[dict[str, Any]]:
    """The known answer of a question that no rationale got right; nothing for the others."""
    gold = gold_answer(group)
    hard = gold and not any(s["score"] for s in mark_answers(group["samples"], gold))
    return [{"key": "hint", "answer": gold}] if hard else []


def rank(sample: Sample, gold: str) -> float | None:
    """1 for a right rationale, HINTED for one with the answer in sight, 0 for a wrong one without; else None."""
    hinted = sample["kind"] == "hinted"
    if not sample.get("score"):
        return None if hinted else 0.0
    if gives_away(sample["text"], gold):
        return None
    return HINTED if hinted else 1.0


class SelfMotivated(Recipe):
    """R15: every right against every wrong rationale, DPO + NLL; SFT before it where asked."""

    name = "self_motivated"
    paper = "2404.07017"
    iterations = 1
    reuse_prompts = True
    training = irpo.TRAINING
    presets = PRESETS
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        steps: list[Step] = [SampleStep(settings.samples, irpo.TEMPLATE)]
        if settings.hinted:
            steps.append(SampleStep(settings.hinted, "rationale_hint", kind="hinted", shown=hint))
        return steps

    def training_at(self, settings: Settings, iteration: int) -> dict[str, Any]:
        return {"loss": "sft"} if iteration < settings.sft_iterations else {}

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        """Answers and ranks; a right rationale that gives its answer away has none, nor has a wrong hinted one."""
        group, gold = super().read(group, settings, context), gold_answer(group)
        samples = mark_answers(group["samples"], gold)
        return {**group, "samples": [{**s, "score": rank(s, gold) if gold else None} for s in samples]}

    def select(self, group: Group, statistics: Any, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        rationales = distinct_samples(group, ("sample", "hinted"))
        pairs, reason = correctness_pairs(group, context, irpo.TEMPLATE, rationales, lambda *both: list(product(*both)))
        if context.iteration < settings.sft_iterations:
            messages = prompt_messages(group, irpo.TEMPLATE)
            right = [s for s in rationales if s["score"]]
            pairs = [make_row(context, group, "actor", messages, s, s["score"]) for s in right]
            reason = None if pairs else reason
        return {**group, "dropped": reason}, pairs


RECIPE = SelfMotivated()
