"""Self-Consistency Preference Optimization (2411.04109): the most voted answer against the least voted, without labels.

Answers of the regular samples vote; hotter samples only serve as rejected ones. The vote margin weighs the pair, in DPO
plus the length-normalised NLL of the chosen side, with the iteration's own model as reference. New questions join the
prompts: those that cannot be answered find no majority.
"""

from functools import partial
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.config import Sampling
from pipelines.recipes.base import Context, NewPrompts, Recipe, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.answers import gold_answer
from pipelines.steps.correctness import correctness_pairs, mark_answers
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.select import parallel_walk
from pipelines.steps.votes import consistency_pair, count_votes

TEMPLATE = "irpo_question"
TRAINING: dict[str, Any] = {
    "beta": 0.5, "loss": "dpo + nll", "learning_rate": 5e-6, "schedule": "cosine", "batch_pairs": 16, "epochs": 10
}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "prompts_limit": 200,
        "method": {"samples": {"max_tokens": 512}, "hot": {"max_tokens": 512}, "new_questions": [0, 100]},
        "training": {"epochs": 2},
    },
}
Tau = PerIteration[Annotated[float, Field(gt=0, le=1)]]


class Settings(Method):
    """The paper's values for GSM8K. Lists hold one value per iteration, the last one repeats."""

    samples: Sampling = Field(Sampling(n=8, temperature=0.7, top_p=0.9), description="that vote")
    hot: Sampling | None = Field(Sampling(n=8, temperature=1.2, top_p=0.9), description="further rejected ones")
    tau: Tau = Field([0.5, 0.7], description="least votes of the chosen answer, as a part of the samples")
    unread_rejected: bool = Field(False, description="a sample without an answer may be rejected")
    strict_answers: bool = Field(False, description="an answer counts only in the form that the prompt asks for")
    use_gold: bool = Field(False, description="a prompt with `gold` pairs right and wrong samples, weight 1 (IRPO)")
    gold_pairs: PositiveInt = Field(1, description="most pairs of a prompt with `gold`")
    questions: Sampling = Field(Sampling(temperature=0.7, top_p=0.9, max_tokens=512), description="of new questions")
    shots: PositiveInt = Field(4, description="prompts shown as examples of a question")
    new_questions: PerIteration[NonNegativeInt] = Field([0, 6700], description="generated; not in the paper")


class Scpo(Recipe):
    """R1: most against least voted, weighted DPO + NLL."""

    name = "scpo"
    paper = "2411.04109"
    iterations = 2
    reuse_prompts = True
    training = TRAINING
    presets = PRESETS
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        hot: list[Step] = [SampleStep(settings.hot, TEMPLATE, kind="hot")] if settings.hot else []
        return [SampleStep(settings.samples, TEMPLATE), *hot]

    def new_prompts(self, settings: Settings, iteration: int) -> NewPrompts | None:
        count = at(settings.new_questions, iteration)
        return NewPrompts(settings.questions, "new_question", settings.shots, count) if count else None

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        """Answers, votes, and as score the votes, or 1 and 0 where the gold answer is used."""
        group = super().read(group, settings, context)
        gold = gold_answer(group) if settings.use_gold else None
        samples = mark_answers(group["samples"], gold, settings.strict_answers)
        votes = count_votes(samples)
        return {**group, "samples": [
            {**s, "votes": (n := votes[s["sample_id"]]), "score": float(n) if s["score"] is None else s["score"]}
            for s in samples
        ]}

    def select(self, group: Group, statistics: Any, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        if settings.use_gold and gold_answer(group) is not None:
            samples = [s for s in distinct_samples(group, ("sample", "hot")) if s["kind"] == "sample" or not s["score"]]
            walk = partial(parallel_walk, k=settings.gold_pairs)
            pairs, reason = correctness_pairs(group, context, TEMPLATE, samples, walk)
            return {**group, "dropped": reason}, pairs
        made = consistency_pair(group, context, TEMPLATE, at(settings.tau, context.iteration), settings.unread_rejected)
        return ({**group, "dropped": made}, []) if isinstance(made, str) else (group, [made])


RECIPE = Scpo()
