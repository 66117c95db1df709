"""Length-Instruction Fine-Tuning (2406.17744): existing preferences relabelled under word limits; too long loses.

No model is asked. Every pair stays as it is without a limit, and is copied with a limit that both sides keep to and
with one between their lengths, which the shorter side alone keeps to and so wins. A row with a `limit` of its own has
a copy with that one instead. Training is DPO.
"""

import json
from typing import Any

from pydantic import Field

from pipelines.recipes.base import Context, Recipe, Step
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.lengths import count_words, draw_limits, given_limit
from pipelines.steps.pairs import make_pair
from pipelines.steps.render import prompt_messages

TRAINING: dict[str, Any] = {"beta": 0.1, "learning_rate": 5e-7}
PRESETS: dict[str, dict[str, Any]] = {"small": {"prompts_limit": 1000, "training": {"learning_rate": 1e-6}}}


class Settings(Method):
    """The paper's mixing of copies is not known: one of each kind."""

    slack: float = Field(2.0, ge=1, description="widest limit both sides keep to, times the longer one's words")


class Lift(Recipe):
    """R5: the pair itself and its copies under limits."""

    name = "lift"
    paper = "2406.17744"
    iterations = 1
    training = TRAINING
    presets = PRESETS
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        return []

    def select(self, group: Group, statistics: Any, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        if group["dropped"]:
            return group, []
        sides = {s["kind"]: s for s in distinct_samples(group, ("chosen", "rejected"))}
        if len(sides) < 2:
            return {**group, "dropped": "no_preference"}, []
        chosen, rejected = sides["chosen"], sides["rejected"]
        pairs = [make_pair(context, group, "actor", prompt_messages(group), chosen, rejected, (1.0, 0.0))]
        words = count_words(chosen["text"]), count_words(rejected["text"])
        limits = given_limit(*words, json.loads(group["meta"]).get("limit"))
        if limits is None:
            limits = draw_limits(*words, settings.slack, context.run_seed, context.iteration, group["prompt_id"])
        for limit in limits:
            better, worse = (rejected, chosen) if limit.case == "limit_flipped" else (chosen, rejected)
            messages = prompt_messages(group, "length_limit", limit=limit.words)
            pairs.append(make_pair(context, group, limit.case, messages, better, worse, (1.0, 0.0)))
        return group, pairs


RECIPE = Lift()
