"""Self-Taught Evaluators (2408.02666): a judge learns from its own verdicts on pairs whose worse side was made worse.

A prompt is answered, a changed prompt is answered too, and the second answer is put under the first prompt. Judges
compare the two in both orders; a judgement that prefers the first is right, and right judgements train the judge, as
many that say A as say B. Rows may bring `chosen` and `rejected`, or the `response` to be corrupted.
"""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, PositiveInt

from pipelines.config import Sampling, Strict
from pipelines.recipes.base import Context, JudgeStep, Recipe, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.constructed import BETTER, WORSE, to_answer, to_corrupt
from pipelines.steps.lessons import lessons, same_number
from pipelines.steps.parts import split_again
from pipelines.steps.quotas import Candidates, kept_pairs

JUDGE_TEMPLATE = "self_taught_evaluator_judge"
TRAINING: dict[str, Any] = {
    "loss": "sft", "learning_rate": 1e-6, "warmup_ratio": 0.05, "batch_pairs": 32, "epochs": 2, "start_from": "seed"
}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "iterations": 2, "training": {"learning_rate": 5e-6, "batch_pairs": 16},
    "method": {"responses": {"max_tokens": 512}, "judgements": {"n": 4, "max_tokens": 512}},
}}


class Reply(Strict):
    """How one response is sampled."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: PositiveInt = 2048


class Settings(Method):
    """The paper's values. Lists hold one value per iteration, the last one repeats."""

    responses: Reply = Field(Reply(), description="the baseline and the corrupted one")
    judgements: Sampling = Sampling(n=15, temperature=0.7, top_p=0.9, max_tokens=4096)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    variant: PerIteration[Literal["sft", "dpo"]] = Field(["sft"], description="the release: sft, then dpo")
    min_share: float = Field(0.0, ge=0, le=1, description="right judgements an input needs, as a part of all of its")
    num_pairs: PositiveInt = Field(6, description="dpo: most pairs of one input")
    dpo_learning_rate: float = Field(5.5e-8, gt=0)


class SelfTaughtEvaluator(Recipe):
    """R3: right judgements of constructed pairs, alone (SFT) or against wrong ones (DPO + NLL)."""

    name = "self_taught_evaluator"
    paper = "2408.02666"
    iterations = 5
    reuse_prompts = keep_samples = True  # the same pairs in every round
    training = TRAINING
    settings = Settings
    presets = PRESETS
    protocols = ("additive", "boxed")

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        reply = Sampling(n=1, **settings.responses.model_dump())
        return [
            SampleStep(reply, role="generator", shown=to_answer),
            SampleStep(reply, "changed_question", "corrupted", "generator", "corruption", to_corrupt),
            JudgeStep("boxed", settings.judgements, JUDGE_TEMPLATE, settings.structured, BETTER + WORSE),
        ]

    def training_at(self, settings: Settings, iteration: int) -> dict[str, Any]:
        dpo = {"loss": "dpo + 1.5 nll_pooled", "learning_rate": settings.dpo_learning_rate, "start_from": "previous"}
        return dpo if at(settings.variant, iteration) == "dpo" else {}

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        return split_again(super().read(group, settings, context), "corrupted", "corruption")

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> frozenset[str]:
        """Ids of the pairs that are kept: as many whose right verdict is A as B."""
        made = (taught(group, settings, context) for group in groups)
        return kept_pairs((some for some in made if not isinstance(some, str)), same_number, context.run_seed)

    def select(
        self, group: Group, statistics: frozenset[str], settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        made = taught(group, settings, context)
        if isinstance(made, str):
            return {**group, "dropped": made}, []
        kept = [pair for _, pair in made if pair["pair_id"] in statistics]
        return {**group, "dropped": None if kept else "unbalanced_verdicts"}, kept


def taught(group: Group, settings: Settings, context: Context) -> Candidates | str:
    """What the judgements of one prompt teach before their verdicts are balanced, or why they teach nothing."""
    variant = at(settings.variant, context.iteration)
    return lessons(group, context, JUDGE_TEMPLATE, variant, settings.min_share, settings.num_pairs)


RECIPE = SelfTaughtEvaluator()
