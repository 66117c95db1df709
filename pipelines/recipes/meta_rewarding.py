"""Meta-Rewarding (2407.19594): the model answers, judges its answers, and judges its judgements; both train it.

Actor pairs come from the mean of the judgements with the paper's length tiers, judge pairs from the Elo scores of the
judgements of one response per prompt. Training is DPO on the union, with the iteration's own model as reference.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, Recipe, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.aggregate import position_weights
from pipelines.steps.judgements import read_group, sample_scores
from pipelines.steps.meta import battles, judgement_elo
from pipelines.steps.pairs import judgement_pair, response_pair

JUDGE_TEMPLATE = "judge_additive"
TRAINING: dict[str, Any] = {
    "beta": 0.1, "learning_rate": 5e-6, "schedule": "cosine", "batch_pairs": 32, "epochs": 10
}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "iterations": 2, "training": {"batch_pairs": 16, "epochs": 2},
    "method": {
        "samples": {"n": 4, "max_tokens": 512}, "judgements": {"n": 3, "max_tokens": 512},
        "meta_judgements": {"max_tokens": 512},
    },
}}
Chars = PerIteration[PositiveInt | None]
Rho = PerIteration[Annotated[float, Field(ge=0, lt=0.5)]]


class Settings(Method):
    """The paper's values. Lists hold one value per iteration, the last one repeats."""

    samples: Sampling = Sampling(n=7, temperature=0.8, top_p=0.95, max_tokens=1024)
    judgements: Sampling = Sampling(n=11, temperature=0.8, top_p=0.95, max_tokens=1024)
    meta_judgements: Sampling = Sampling(n=1, temperature=0.8, top_p=0.95, max_tokens=1024)
    meta_judge: Literal["comparison", "claims"] = Field("comparison", description="claims: by MetaCritique's F1")
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    rho: Rho = Field([0.0, 0.32, 0.32, 0.4], description="width of the length tiers, below 0.5")
    chosen_max_chars: Chars = Field([2500, None], description="drop pairs whose chosen response is longer")
    judge_chosen_max_chars: Chars = Field([1100, 1000], description="drop pairs whose chosen judgement is longer")
    judge_pair_iterations: NonNegativeInt = Field(2, description="first iterations, the ones that train the judge")


class MetaRewarding(Recipe):
    """R4: union of actor pairs by tiers and judge pairs by Elo."""

    name = "meta_rewarding"
    paper = "2407.19594"
    iterations = 4
    reuse_prompts = False
    training = TRAINING
    presets = PRESETS
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        steps: list[Step] = [
            SampleStep(settings.samples),
            JudgeStep("additive", settings.judgements, JUDGE_TEMPLATE, settings.structured),
        ]
        if iteration < settings.judge_pair_iterations:
            by = settings.meta_judge
            steps.append(MetaJudgeStep(settings.meta_judgements, "meta_judge", settings.structured, by))
        return steps

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        group = read_group(group)
        scores = sample_scores(group)
        return {**group, "samples": [{**s, "score": scores.get(s["sample_id"])} for s in group["samples"]]}

    def statistics(self, groups: Iterable[Group], settings: Settings, context: Context) -> tuple[float, float] | None:
        """What a win from the first and from the second position is worth, over the whole iteration."""
        return position_weights(battle for group in groups for battle in battles(group))

    def select(
        self, group: Group, statistics: tuple[float, float] | None, settings: Settings, context: Context
    ) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        t = context.iteration
        made = [response_pair(group, context, at(settings.rho, t), at(settings.chosen_max_chars, t))]
        if statistics and t < settings.judge_pair_iterations:
            elo = judgement_elo(group, statistics, context)
            group = {**group, "judgements": [{**j, "elo": elo.get(j["judgement_id"])} for j in group["judgements"]]}
            made.append(judgement_pair(group, context, elo, JUDGE_TEMPLATE, at(settings.judge_chosen_max_chars, t)))
        pairs = [pair for pair in made if not isinstance(pair, str)]
        reason = made[0] if isinstance(made[0], str) and not pairs else None
        return {**group, "dropped": reason}, pairs


RECIPE = MetaRewarding()
