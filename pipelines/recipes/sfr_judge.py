"""Direct Judgement Preference Optimization, SFR-Judge (2409.14664): one judge for pairs, scores and yes or no.

A teacher judges labelled rows many times. From its right and wrong judgements come three kinds of pairs: reasons with
verdict, the verdict alone, and the responses themselves against a guess made from a right judgement. The loss is DPO
plus the chosen side's NLL. The teacher is the model in the role `judge` (models.NAME.path, roles.judge=NAME).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.config import Sampling, Strict
from pipelines.recipes.base import Context, JudgeStep, Recipe, SampleStep, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair
from pipelines.steps.deduction import GUESS, TEMPLATE, deduction_pairs, deductions, with_original
from pipelines.steps.gradings import bare_pairs, verdict_pairs
from pipelines.steps.judgements import read_group
from pipelines.steps.labels import asks_for, label_of, questions
from pipelines.steps.quotas import Offers, in_ratio, kept_pairs, take, together

JUDGES = ("pairwise", "likert", "classify")  # protocols; templates judge_NAME, and verdict_NAME without reasons
TRAINING: dict[str, Any] = {"beta": 0.1, "loss": "dpo + nll_prompted", "learning_rate": 5e-7, "batch_pairs": 32}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200,
    "method": {"judgements": {"n": 8, "max_tokens": 512}, "reconstructions": {"max_tokens": 512}},
    "training": {"learning_rate": 5e-6, "batch_pairs": 16, "epochs": 2},
}}


class Mixture(Strict):
    """How many pairs of each kind come together; 0 for none."""

    judge: NonNegativeInt = Field(70, description="reasons with verdict")
    verdict: NonNegativeInt = Field(15, description="the verdict alone")
    deduction: NonNegativeInt = Field(15, description="responses worked out from a judgement")


class Settings(Method):
    """The paper's values, and open ones as documented."""

    judgements: Sampling = Sampling(n=20, temperature=0.7, top_p=1.0, max_tokens=1024)
    reconstructions: Sampling = Sampling(n=1, temperature=0.7, top_p=1.0, max_tokens=1024)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    pairs_per_question: PositiveInt = Field(4, description="most pairs of judgements of one row in one order")
    mixture: Mixture = Mixture()


class SfrJudge(Recipe):
    """R13: a teacher's right judgements against its wrong ones, in three forms."""

    name = "sfr_judge"
    paper = "2409.14664"
    iterations = 1
    training = TRAINING
    presets = PRESETS
    settings = Settings
    teaches = True

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        steps: list[Step] = [
            JudgeStep(p, settings.judgements, f"judge_{p}", settings.structured, ("given",), partial(asks_for, p))
            for p in JUDGES
        ]
        guess = SampleStep(settings.reconstructions, TEMPLATE, GUESS, shown=deductions)
        return [*steps, guess] if settings.mixture.deduction else steps

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        label = label_of(group)
        one = label.protocol if label and label.protocol != "pairwise" else "likert"
        return with_original(read_group(group, (one, "pairwise")), context)

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> frozenset[str]:
        offers = (_offers(group, settings, context) for group in groups)
        return kept_pairs(offers, in_ratio(settings.mixture.model_dump()), context.run_seed)

    def select(
        self, group: Group, statistics: frozenset[str], settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        return take(group, _offers(group, settings, context), statistics)


def _offers(group: Group, settings: Settings, context: Context) -> Offers:
    """The group's pairs, each with its kind."""
    label = label_of(group)
    if group["dropped"] or label is None:
        return group["dropped"] or "no_label"
    made: list[list[Pair] | str] = [deduction_pairs(group, context)]
    protocol, most = label.protocol, settings.pairs_per_question
    for asked in questions(group):
        made.append(bare_pairs(group, context, f"verdict_{protocol}", *asked, label))
        made.append(verdict_pairs(group, context, f"judge_{protocol}", *asked, label.value, 0.0, most))
    offers = (part if isinstance(part, str) else [(pair["kind"], pair) for pair in part] for part in made)
    return together(offers, "no_readable_judgement")


RECIPE = SfrJudge()
