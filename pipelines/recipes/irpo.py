"""Iterative Reasoning Preference Optimization (2404.19733): right chains of thought against wrong ones, repeatedly.

Chains are sampled, marked by their final answer, and paired by walking the right and the wrong ones in parallel. The
loss is DPO plus the length-normalised NLL of the right chain, with the iteration's own model as reference.
"""

from functools import partial
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from pipelines.config import Sampling, Strict
from pipelines.recipes.base import Context, Recipe, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.answers import gold_answer, gold_chains
from pipelines.steps.correctness import correctness_pairs, mark_answers
from pipelines.steps.judgements import distinct_samples, read_group
from pipelines.steps.select import parallel_walk

TEMPLATE = "irpo_question"
TRAINING: dict[str, Any] = {
    "beta": 0.1, "loss": "dpo + nll", "learning_rate": 7e-7, "batch_pairs": 16, "max_steps": 5000
}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "iterations": 2, "method": {"samples": {"n": 8, "max_tokens": 512}, "pairs_per_prompt": 4},
    "training": {"learning_rate": 5e-6, "epochs": 2},
}}
Temperatures = PerIteration[Annotated[float, Field(ge=0)]]


class Chains(Strict):
    """How chains are sampled; the temperature is `temperatures`, one per iteration."""

    n: PositiveInt = 30
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = 1024


class Settings(Method):
    """The paper's values for GSM8K. Lists hold one value per iteration, the last one repeats."""

    samples: Chains = Chains()
    temperatures: Temperatures = Field([0.8, 0.8, 1.3, 1.3], description="of the samples")
    pairs_per_prompt: PositiveInt = Field(10, description="K, most pairs of one prompt")
    strict_answers: bool = Field(False, description="an answer counts only in the form that the prompt asks for")
    use_gold_chain: bool = Field(True, description="the `gold_chain` of a prompt counts as one more right chain")


class Irpo(Recipe):
    """R6: right against wrong chains, DPO + NLL."""

    name = "irpo"
    paper = "2404.19733"
    iterations = 4
    reuse_prompts = True
    training = TRAINING
    presets = PRESETS
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        temperature = at(settings.temperatures, iteration)
        return [SampleStep(Sampling(temperature=temperature, **settings.samples.model_dump()), TEMPLATE)]

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        """Answers and scores: 1 for the gold answer, 0 for another or none, no score where there is no gold answer."""
        group = read_group(group)
        samples = [s for s in group["samples"] if s["kind"] != "gold_chain"]
        if settings.use_gold_chain:
            samples += gold_chains(group, context)
        return {**group, "samples": mark_answers(samples, gold_answer(group), settings.strict_answers)}

    def select(
        self, group: Group, statistics: None, settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        chains = distinct_samples(group, ("sample", "gold_chain"))
        walk = partial(parallel_walk, k=settings.pairs_per_prompt)
        pairs, reason = correctness_pairs(group, context, TEMPLATE, chains, walk)
        return {**group, "dropped": reason}, pairs


RECIPE = Irpo()
