"""The command line with preferences that mean nothing: what a recipe gains with them, it does not owe to preferences.

    python -m benchmarks.controls shuffled run irpo prompts=...   # a prompt's answers, scores and votes, dealt again
    python -m benchmarks.controls turned run irpo prompts=...     # the sides of a random half of the pairs exchanged

Everything else is as it is without: sampling from the model being trained, selection, reference, loss and schedule.
With `turned` both sides of a pair are chosen equally often, so a term that imitates the chosen side (NLL) still teaches
what paired samples have in common, such as a readable answer in at least every second one; `shuffled` chooses any.
"""

import random
import sys
from typing import Any

import appellate
from pipelines.recipes import RECIPES, get_recipe
from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, digest

LABELS = ("answer", "score", "votes")  # what is known of a sample when pairs are selected
SIDES = ("ids", "text", "from", "score")


def dealt(group: Group, context: Context) -> Group:
    """The group with what is known of its samples dealt to them again at random, to samples of one kind together."""
    rng = random.Random(digest("dealt", context.run_seed, context.iteration, group["prompt_id"]))
    samples: list[Any] = list(group["samples"])
    for kind in dict.fromkeys(sample["kind"] for sample in samples):
        places = [i for i, sample in enumerate(samples) if sample["kind"] == kind]
        givers = [group["samples"][i] for i in rng.sample(places, len(places))]
        for i, giver in zip(places, givers, strict=True):
            samples[i] = {**samples[i], **{label: giver.get(label) for label in LABELS}}
    return {**group, "samples": samples}


def half_turned(pairs: list[Pair]) -> list[Pair]:
    """The pairs, each with its sides exchanged or not as its id decides, which the run's seed enters."""
    return [turned(p) if p["rejected_ids"] and int(digest("turned", p["pair_id"])[0], 16) < 8 else p for p in pairs]


def turned(pair: Pair) -> Pair:
    """The pair with its sides exchanged."""
    other: Any = {**pair}
    for part in SIDES:
        other[f"chosen_{part}"], other[f"rejected_{part}"] = other[f"rejected_{part}"], other[f"chosen_{part}"]
    return other


def spoil(recipe: Any, control: str) -> None:
    """Let a recipe select from meaningless labels, or turn what it selects; references are computed afterwards."""
    select = recipe.select

    def selected(group: Group, statistics: Any, settings: Any, context: Context) -> tuple[Group, list[Pair]]:
        if control == "shuffled":
            return select(dealt(group, context), statistics, settings, context)
        group, pairs = select(group, statistics, settings, context)
        return group, half_turned(pairs)

    recipe.select = selected


if __name__ == "__main__":
    named = sys.argv.pop(1)
    for name in RECIPES:
        spoil(get_recipe(name), named)
    appellate.app()
