"""Self-J, Self-Judge (2409.00935): a judge of the model's own answers, who learns to do without the reference.

The policy answers and the same weights say how good the answer is with a reference in sight: the expected value of the
ten digits' probabilities. Its mean with the likeness of answer and reference, both scaled over the iteration, is the
label. One row teaches it under two prompts, with the reference and without, and distils the first view into the second.
"""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, Recipe, SampleStep, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair
from pipelines.steps.self_evaluation import digit_labels, digit_rows

TEMPLATE = "judge_digits"
WEIGHED = Sampling(n=1, temperature=0.0, max_tokens=1)  # no token is sampled: each digit's probability is asked for
TRAINING: dict[str, Any] = {
    "loss": "nll + 0.3 student_nll + 2 student_kl", "learning_rate": 3e-4, "batch_pairs": 128, "epochs": 2,
    "lora": {"rank": 16, "alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "method": {"samples": {"n": 2, "max_tokens": 512}}, "training": {"batch_pairs": 16},
}}


class Settings(Method):
    """The paper's values, and open ones as documented."""

    samples: Sampling = Sampling(n=1, temperature=0.7, top_p=1.0, max_tokens=1024)
    scale: Literal["rank", "min_max"] = Field("rank", description="what makes score and likeness comparable")


class SelfJ(Recipe):
    """R14: digits for own answers, with the reference in sight and without."""

    name = "self_j"
    paper = "2409.00935"
    iterations = 1
    training = TRAINING
    presets = PRESETS
    protocols = ("digits", "pairwise")
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        judge = JudgeStep("digits", WEIGHED, TEMPLATE, only=has_reference, role="reference")
        return [SampleStep(settings.samples), judge]

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> dict[str, int]:
        return digit_labels(groups, settings.scale)

    def select(
        self, group: Group, statistics: dict[str, int], settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        made = group["dropped"] or digit_rows(group, context, TEMPLATE, statistics)
        return ({**group, "dropped": made}, []) if isinstance(made, str) else ({**group, "dropped": None}, made)


def has_reference(group: Group) -> bool:
    """Whether a row has what the judge compares with."""
    return group["gold"] is not None


RECIPE = SelfJ()
