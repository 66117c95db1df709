"""A digit for how good a response is, from the model's own view of it and its likeness to a reference. Pure.

Both are brought to one scale over the responses of an iteration first, so that neither counts for more by being spread
wider, and nothing depends on the order of arrival.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, Pair
from pipelines.steps.judgements import distinct_samples, sample_scores, scored_judgements
from pipelines.steps.new_prompts import words
from pipelines.steps.pairs import make_row
from pipelines.steps.parts import visible
from pipelines.steps.render import judge_messages, sample_by_id
from pipelines.steps.select import EPSILON

MIDDLE = 0.5  # where values that do not differ stand


def cosine(a: str, b: str) -> float:
    """Cosine of two texts' word counts, 0 to 1; 0 where one has no word."""
    first, second = Counter(words(a)), Counter(words(b))
    norm = math.sqrt(sum(n * n for n in first.values()) * sum(n * n for n in second.values()))
    return sum(n * second[word] for word, n in first.items()) / norm if norm else 0.0


def min_max(values: Mapping[str, float]) -> dict[str, float]:
    """The values by id, moved and stretched to 0 to 1; all `MIDDLE` where they do not differ."""
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    if high - low <= EPSILON:
        return dict.fromkeys(values, MIDDLE)
    return {key: (value - low) / (high - low) for key, value in values.items()}


def ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The values' ranks by id from 0, the lowest, to 1; equal ones share the mean of theirs, `MIDDLE` where all are."""
    found: dict[str, float] = {}
    for _, equal in groupby(sorted(values, key=lambda key: values[key]), key=lambda key: values[key]):
        same = list(equal)
        found |= dict.fromkeys(same, len(found) + (len(same) - 1) / 2)
    return {key: rank / (len(values) - 1) if len(values) > 1 else MIDDLE for key, rank in found.items()}


SCALES: dict[str, Callable[[Mapping[str, float]], dict[str, float]]] = {"rank": ranks, "min_max": min_max}


def digit_labels(groups: Iterable[Group], scale: str) -> dict[str, int]:
    """A digit for every response that has a score and a reference, by sample id (R14, 2409.00935 section 3).

    The mean of the score and the likeness to the reference, each scaled over all of them, times nine.
    """
    scores: dict[str, float] = {}
    likeness: dict[str, float] = {}
    for group in groups:
        found = sample_scores(group) if group["gold"] is not None and not group["dropped"] else {}
        scores |= found
        likeness |= {i: cosine(visible(sample_by_id(group, i)), group["gold"] or "") for i in found}
    own, near = SCALES[scale](scores), SCALES[scale](likeness)
    return {i: math.floor(9 * (own[i] + near[i]) / 2 + 0.5) for i in scores}


def digit_rows(group: Group, context: Context, template: str, labels: Mapping[str, int]) -> list[Pair] | str:
    """A row of two views for each response with a label, or why there is none.

    The teacher is asked by `template` with the reference in sight, the student without it.
    """
    if group["gold"] is None:
        return "no_reference"
    judged = scored_judgements(group)
    unseen = Group(**{**group, "gold": None})
    rows = []
    for sample in distinct_samples(group):
        if judgements := judged.get(sample["sample_id"]):
            label = labels[sample["sample_id"]]
            answer = Judgement(**{**judgements[0], "text": str(label), "token_ids": []})
            row = make_row(context, group, "judge", judge_messages(template, group, sample), answer, float(label))
            rows.append(Pair(**{**row, "student_messages": judge_messages(template, unseen, sample)}))
    return rows or ("no_readable_score" if distinct_samples(group) else "no_response")
