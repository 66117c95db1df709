"""Iterative Reasoning Preference Optimization (2404.19733): right chains of thought against wrong ones, repeatedly.

Chains are sampled, marked by their final answer, and paired by walking the right and the wrong ones in parallel. The
loss is DPO plus the length-normalised NLL of the right chain, with the iteration's own model as reference.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from pipelines.config import Sampling, Strict
from pipelines.recipes.base import Context, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair, Sample
from pipelines.steps.answers import extract_answer, gold_answer, gold_chains, same_answer
from pipelines.steps.judgements import distinct_samples, read_group
from pipelines.steps.pairs import make_pair
from pipelines.steps.render import prompt_messages, sample_by_id
from pipelines.steps.select import parallel_walk

TEMPLATE = "irpo_question"
TRAINING: dict[str, Any] = {
    "beta": 0.1, "loss": "dpo + nll", "learning_rate": 7e-7, "batch_pairs": 16, "max_steps": 5000
}
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
    use_gold_chain: bool = Field(True, description="the `gold_chain` of a prompt counts as one more right chain")


class Irpo:
    """R6: right against wrong chains, DPO + NLL."""

    name = "irpo"
    paper = "2404.19733"
    iterations = 4
    reuse_prompts = True
    training = TRAINING
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
        gold = gold_answer(group)
        read: list[Sample] = []
        for s in samples:
            answer = extract_answer(s["text"])
            right = s["kind"] == "gold_chain" or (answer is not None and gold is not None and same_answer(answer, gold))
            read.append({**s, "answer": answer, "score": None if gold is None else float(right)})
        return {**group, "samples": read}

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> None:
        """Nothing: every prompt stands alone."""

    def select(
        self, group: Group, statistics: None, settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        chains = distinct_samples(group)
        right = [s["sample_id"] for s in chains if s.get("score") == 1.0]
        wrong = [s["sample_id"] for s in chains if s.get("score") == 0.0]
        reason = None if right and wrong else "no_correct_sample" if not right else "no_wrong_sample"
        reason = "no_gold_answer" if gold_answer(group) is None else "no_samples" if not chains else reason
        pairs = [
            make_pair(
                context, group, "actor", prompt_messages(group, TEMPLATE), sample_by_id(group, c),
                sample_by_id(group, w), (1.0, 0.0),
            )
            for c, w in parallel_walk(right, wrong, settings.pairs_per_prompt)
        ]
        return {**group, "dropped": reason}, pairs


RECIPE = Irpo()
