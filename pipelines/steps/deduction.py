"""Responses worked out from what a judge says about them (SFR-Judge, 2409.14664): the original against a guess.

A model that sees the question and a right judgement writes what was judged. Learning to prefer the real responses, a
judge learns what its words stand for. Pure.
"""

import json
from typing import Any

from pipelines.recipes.base import Context
from pipelines.records import Group, Pair
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.labels import label_of, questions, said, said_as_shown
from pipelines.steps.make_prompts import given_sample
from pipelines.steps.pairs import make_pair
from pipelines.steps.parts import visible
from pipelines.steps.render import prompt_messages, sample_by_id
from pipelines.steps.select import tie_break

TEMPLATE = "deduction"
GUESS, ORIGINAL = "reconstruction", "original"  # kinds of samples


def deductions(group: Group, context: Context) -> list[dict[str, Any]]:
    """The request for a guess, from one right judgement drawn by seeded hash (a SampleStep's `shown`).

    None without a right one, and none where all verdicts on a pair name the same position: such a judge may be right
    by chance of the order.
    """
    label = label_of(group)
    asked = [(shown, j) for shown, judgements in questions(group) for j in judgements]
    if label is None or (label.protocol == "pairwise" and len({said_as_shown(j) for _, j in asked}) < 2):
        return []
    right = {j["judgement_id"]: (shown, j) for shown, j in asked if said(j) == label.value}
    if not right:
        return []
    chosen = min(right, key=lambda i: tie_break(context.run_seed, i))
    shown, judgement = right[chosen]
    criterion = json.loads(group["meta"]).get("criterion")
    return [
        {"key": chosen, "critique": judgement["text"], "compared": len(shown) == 2, "criterion": criterion,
         "responses": [s["sample_id"] for s in shown]}
    ]


def with_original(group: Group, context: Context) -> Group:
    """The group with what a guess is held against: two responses as one text, where a pair was judged."""
    samples = [s for s in group["samples"] if s["kind"] != ORIGINAL]
    asked = deductions({**group, "samples": samples}, context) if distinct_samples(group, (GUESS,)) else []
    if asked and asked[0]["compared"]:
        a, b = (visible(sample_by_id(group, i)) for i in asked[0]["responses"])
        index = 1 + max(s["index"] for s in samples)
        samples.append(given_sample(group["prompt_id"], index, ORIGINAL, f"[Response A]\n{a}\n\n[Response B]\n{b}"))
    return {**group, "samples": samples}


def deduction_pairs(group: Group, context: Context) -> list[Pair]:
    """The real responses against each guess at them; the group is one of `with_original`."""
    asked, guesses = deductions(group, context), distinct_samples(group, (GUESS,))
    if not asked or not guesses:
        return []
    original = next(iter(distinct_samples(group, (ORIGINAL,))), None) or sample_by_id(group, asked[0]["responses"][0])
    messages = prompt_messages(group, TEMPLATE, **asked[0])
    return [
        make_pair(context, group, "deduction", messages, original, guess, (1.0, 0.0))
        for guess in guesses
        if guess["text"].strip() != original["text"].strip()
    ]
