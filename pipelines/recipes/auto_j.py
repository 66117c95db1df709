"""Auto-J (2310.05470): a judge that compares two responses or rates one, taught by a stronger judge that was right.

The teacher, the model in the role `judge`, is shown the criteria of the row's `scenario`; the student is not and has to
learn them (pipelines/prompts/scenarios.yaml). A comparison is kept when the teacher decides as the human did, in every
order; an order without a judgement of its own gets a swapped copy. Supervised fine-tuning on the kept texts.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from pydantic import Field

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, Recipe, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair
from pipelines.steps.labels import asks_for
from pipelines.steps.quotas import Offers, even, kept_pairs, take
from pipelines.steps.taught import comparison_rows, is_rated, rating_rows

TRAINING: dict[str, Any] = {
    "loss": "sft", "learning_rate": 1e-5, "batch_pairs": 64, "epochs": 5, "max_pair_tokens": 4096
}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200,
    "method": {"judgements": {"max_tokens": 512}, "balance": 3},
    "training": {"batch_pairs": 16, "epochs": 2},
}}


class Settings(Method):
    """The paper's values, and open ones as documented."""

    judgements: Sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=1024)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    balance: float | None = Field(1, ge=1, description="most comparisons of one label, times those of the rarest")


class AutoJ(Recipe):
    """R10: a teacher's judgements that agree with humans, without the criteria it saw."""

    name = "auto_j"
    paper = "2310.05470"
    iterations = 1
    training = TRAINING
    presets = PRESETS
    protocols = ("single", "decision")
    settings = Settings
    teaches = True

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        compared, sampling, form = partial(asks_for, "pairwise"), settings.judgements, settings.structured
        return [
            JudgeStep("decision", sampling, "teacher_decision", form, ("given",), compared),
            JudgeStep("single", sampling, "teacher_single", form, ("given",), is_rated),
        ]

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> frozenset[str]:
        offers = (_offers(group, context) for group in groups)
        return kept_pairs(offers, even(settings.balance), context.run_seed)

    def select(
        self, group: Group, statistics: frozenset[str], settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        return take(group, _offers(group, context), statistics)


def _offers(group: Group, context: Context) -> Offers:
    """What the judgements of one row teach."""
    if group["dropped"]:
        return group["dropped"]
    if is_rated(group):
        return rating_rows(group, context, "judge_single")
    return comparison_rows(group, context, "judge_decision")


RECIPE = AutoJ()
