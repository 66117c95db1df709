"""Self-Rationalization (2410.05495): a judge learns from its own gradings of one response, the right against the wrong.

The model grades the response of a labelled row several times, reasons first. Gradings that give the label's score are
preferred to those that miss it by a margin; without labels the most frequent score takes its place, and a meta-judge
can prefer good reasons to bad ones among gradings of one score. DPO, with the round's own model as reference.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, Recipe, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Judgement, Pair, Sample
from pipelines.steps.aggregate import position_weights
from pipelines.steps.gradings import rationale_pair, right_score, verdict_pairs
from pipelines.steps.labels import questions
from pipelines.steps.meta import battles
from pipelines.steps.quotas import Offers, even, kept_pairs, take, together

TEMPLATE = "judge_likert"
TRAINING: dict[str, Any] = {"beta": 0.1, "learning_rate": 5e-7, "batch_pairs": 32}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200,
    "method": {"judgements": {"n": 8, "max_tokens": 512}, "meta_judgements": {"max_tokens": 512}, "balance": 3},
    "training": {"learning_rate": 5e-6, "batch_pairs": 16, "epochs": 2},
}}


class Statistics(NamedTuple):
    """What an iteration says about its groups."""

    weights: tuple[float, float] | None  # of the meta-judge's wins by position
    kept: frozenset[str]  # ids of pairs


class Settings(Method):
    """The paper's values, and open ones as documented."""

    judgements: Sampling = Sampling(n=10, temperature=1.0, top_p=1.0, max_tokens=1024)
    meta_judgements: Sampling = Sampling(n=1, temperature=0.7, top_p=1.0, max_tokens=1024)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    evidence: Literal["gold", "majority", "meta"] = Field(
        "gold", description="what is right: the label's score, the most frequent one, or the better reasons for it"
    )
    margin: PositiveFloat = Field(2, description="least distance of a rejected score from the right one")
    majority_share: float = Field(0.5, ge=0, le=1, description="majority: least share of the most frequent score")
    pairs_per_response: PositiveInt = Field(4, description="most pairs of one response")
    balance: float | None = Field(1, ge=1, description="most pairs of one right score, times those of the rarest")


class SelfRationalization(Recipe):
    """R11: own gradings, right against wrong."""

    name = "self_rationalization"
    paper = "2410.05495"
    iterations = 2
    reuse_prompts = True
    training = TRAINING
    presets = PRESETS
    protocols = ("likert", "pairwise")
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        steps: list[Step] = [JudgeStep("likert", settings.judgements, TEMPLATE, settings.structured, ("given",))]
        if settings.evidence == "meta":
            steps.append(MetaJudgeStep(settings.meta_judgements, "meta_judge_likert", settings.structured))
        return steps

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> Statistics:
        groups = list(groups)
        weights = position_weights(battle for group in groups for battle in battles(group))
        offers = [_offers(group, weights, settings, context) for group in groups]
        return Statistics(weights, kept_pairs(offers, even(settings.balance), context.run_seed))

    def select(
        self, group: Group, statistics: Statistics, settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        return take(group, _offers(group, statistics.weights, settings, context), statistics.kept)


def _offers(group: Group, weights: tuple[float, float] | None, settings: Settings, context: Context) -> Offers:
    """The group's pairs, each with the score that is right."""

    def of(shown: tuple[Sample, ...], judgements: list[Judgement]) -> Offers:
        right = right_score(group, judgements, settings.evidence, settings.majority_share)
        if isinstance(right, str):
            return right
        asked = (group, context, TEMPLATE, shown, judgements, right)
        meta, limits = settings.evidence == "meta", (settings.margin, settings.pairs_per_response)
        pairs = rationale_pair(*asked, weights) if meta else verdict_pairs(*asked, *limits)
        return pairs if isinstance(pairs, str) else [(right, pair) for pair in pairs]

    return group["dropped"] or together((of(*asked) for asked in questions(group)), "no_readable_score")


RECIPE = SelfRationalization()
