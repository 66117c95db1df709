"""Self-Rewarding Language Models (2401.10020): the model answers new prompts, judges its answers, and learns from both.

M1 is the start model after a supervised iteration on seed rows (`seed_rows`), M2 and M3 come from DPO on the best and
the worst answer by the mean of three additive judgements. The prompts of these are written by a generator, from shots
of the run's own prompts and of those it wrote before. Without seed rows every iteration is one of preferences.
"""

from typing import Any

from pydantic import Field, NonNegativeInt

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, NewPrompts, Recipe, SampleStep, Step
from pipelines.recipes.method import DataFile, Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.judgements import sample_scores
from pipelines.steps.pairs import response_pair
from pipelines.steps.seeds import seed_rows

JUDGE_TEMPLATE = "judge_additive"
ELSEWHERE = ("image", "images", "picture", "pictures", "photo", "graph", "graphs", "video", "audio", "file", "files")
TRAINING: dict[str, Any] = {"beta": 0.1, "learning_rate": 1e-6, "batch_pairs": 16}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "iterations": 2, "training": {"learning_rate": 5e-6, "epochs": 2},
    "method": {"new_prompts": [200]},
}}


class Settings(Method):
    """The paper's values. Lists hold one value per iteration of preferences, the last one repeats."""

    seed_rows: DataFile = Field(None, description="prompt and response, or with `judgement` a judge's text about it")
    seed_learning_rate: float = Field(5.5e-6, gt=0, description="of the supervised iteration")
    questions: Sampling = Sampling(n=1, temperature=0.6, top_p=0.9, max_tokens=512)
    new_prompts: PerIteration[NonNegativeInt] = Field(
        [5000, 8000], description="prompts written, 0: the run's own; enough for the paper's 3,964 and 6,942 pairs"
    )
    samples: Sampling = Sampling(n=4, temperature=0.7, top_p=0.9, max_tokens=512)
    judgements: Sampling = Sampling(n=3, temperature=0.7, top_p=0.9, max_tokens=512)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    rho: float = Field(0.0, ge=0, lt=0.5, description="width of the length tiers, of which the paper has none")


class SelfRewarding(Recipe):
    """R8: seed rows, then best against worst answer by the mean of readable judgements."""

    name = "self_rewarding"
    paper = "2401.10020"
    iterations = 3
    training = TRAINING
    settings = Settings
    presets = PRESETS

    def rows(self, settings: Settings, iteration: int) -> str | None:
        return settings.seed_rows if iteration == 0 else None

    def training_at(self, settings: Settings, iteration: int) -> dict[str, Any]:
        seeded = self.rows(settings, iteration)
        return {"loss": "sft", "learning_rate": settings.seed_learning_rate} if seeded else {}

    def new_prompts(self, settings: Settings, iteration: int) -> NewPrompts | None:
        count = at(settings.new_prompts, iteration - bool(settings.seed_rows))
        if self.rows(settings, iteration) or not count:
            return None
        return NewPrompts(
            settings.questions, "self_rewarding_prompt", shots=8, count=count, generated_shots=2,
            without_words=ELSEWHERE, with_seeds=False,
        )

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        if self.rows(settings, iteration):
            return []
        judge = JudgeStep("additive", settings.judgements, JUDGE_TEMPLATE, settings.structured)
        return [SampleStep(settings.samples), judge]

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        group = super().read(group, settings, context)
        scores = sample_scores(group)
        return {**group, "samples": [{**s, "score": scores.get(s["sample_id"])} for s in group["samples"]]}

    def select(self, group: Group, statistics: None, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        if {s["kind"] for s in group["samples"]} == {"given"}:  # a seed row: prompts of the file may bring theirs too
            made = seed_rows(group, context, "additive", JUDGE_TEMPLATE)
        else:
            made = response_pair(group, context, settings.rho)
        reason, pairs = (made, []) if isinstance(made, str) else (None, made if isinstance(made, list) else [made])
        return {**group, "dropped": reason}, pairs


RECIPE = SelfRewarding()
