"""Thought Preference Optimization (2410.10630): the policy thinks before it answers, and only the answer is judged.

Thoughts and response come in one text with a marker between them. A judge that sees responses alone makes the scores,
lengths are taken out of them, and DPO prefers one whole text, thoughts included, to another. The paper's judge is
frozen: give it a checkpoint of its own (models.NAME.path, roles.judge=NAME).
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.config import Sampling
from pipelines.recipes.base import Context, JudgeStep, Recipe, SampleStep, Step
from pipelines.recipes.method import Method, PerIteration, at
from pipelines.records import Group, Pair
from pipelines.steps.comparisons import sample_elo
from pipelines.steps.judgements import distinct_samples, sample_scores
from pipelines.steps.lengths import length_adjusted
from pipelines.steps.pairs import make_pair
from pipelines.steps.parts import split_again, visible
from pipelines.steps.render import prompt_messages
from pipelines.steps.select import best_worst

SPLITTERS = {"generic": "thought", "specific": "specific_thought"}
JUDGES = {"pairwise": ("pairwise", "judge_pairwise"), "pointwise": ("additive", "judge_additive")}
TRAINING: dict[str, Any] = {"beta": 0.1, "learning_rate": 1e-6, "batch_pairs": 32, "epochs": 10}
PRESETS: dict[str, dict[str, Any]] = {"small": {
    "prompts_limit": 200, "iterations": 2, "training": {"learning_rate": 5e-6, "batch_pairs": 16, "epochs": 2},
    "method": {"samples": {"n": 4, "max_tokens": 512}, "judgements": {"max_tokens": 512}},
}}
Rho = PerIteration[Annotated[float, Field(ge=0)]]


class Settings(Method):
    """The paper's values. Lists hold one value per iteration, the last one repeats."""

    samples: Sampling = Sampling(n=8, temperature=0.8, top_p=0.95, max_tokens=2048)
    thought: Literal["generic", "specific"] = Field("generic", description="free, or a draft and its evaluation")
    judging: Literal["pairwise", "pointwise"] = Field("pairwise", description="every two responses, or each by points")
    judgements: Sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=2048)
    structured: bool = Field(False, description="let the engine hold judgements to their form")
    rho: Rho = Field([0.0], description="weight of the response's length against its score, the paper's 0 to 0.5")


class Tpo(Recipe):
    """R2: best against worst response by score without length, with the thoughts that led to them."""

    name = "tpo"
    paper = "2410.10630"
    iterations = 4
    training = TRAINING
    settings = Settings
    presets = PRESETS

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        protocol, template = JUDGES[settings.judging]
        return [
            SampleStep(settings.samples, f"tpo_{settings.thought}", split=SPLITTERS[settings.thought]),
            JudgeStep(protocol, settings.judgements, template, settings.structured),
        ]

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        """Responses and their scores: Elo of the comparisons, or the mean of the points where nothing was compared."""
        group = split_again(super().read(group, settings, context), "sample", SPLITTERS[settings.thought])
        scores = sample_elo(group) or sample_scores(group)
        return {**group, "samples": [{**s, "score": scores.get(s["sample_id"])} for s in group["samples"]]}

    def select(self, group: Group, statistics: None, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        made = thought_pair(group, settings, context)
        return ({**group, "dropped": made}, []) if isinstance(made, str) else ({**group, "dropped": None}, [made])


def thought_pair(group: Group, settings: Settings, context: Context) -> Pair | str:
    """Best against worst of z(score) - rho z(length), or why there is none; lengths are the responses' characters."""
    responses = {s["sample_id"]: s for s in distinct_samples(group, ("sample",))}
    scores = {i: score for i, s in responses.items() if (score := s.get("score")) is not None}
    if len(responses) < 2:
        return "too_few_samples"
    if len(scores) < 2:
        return "one_readable_score" if scores else "no_readable_score"
    lengths = {i: len(visible(responses[i])) for i in scores}
    adjusted = length_adjusted(scores, lengths, at(settings.rho, context.iteration))
    ends = best_worst(adjusted, context.run_seed)
    if ends is None or best_worst(scores) is None:
        return "tied_scores"  # lengths alone prefer nothing
    chosen, rejected = (responses[i] for i in ends)
    messages = prompt_messages(group, f"tpo_{settings.thought}")
    return make_pair(context, group, "actor", messages, chosen, rejected, (adjusted[ends[0]], adjusted[ends[1]]))


RECIPE = Tpo()
