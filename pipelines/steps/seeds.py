"""Rows to imitate before a model learns from itself: instructions (IFT) and evaluations (EFT), as R8 has them."""

import json

from actors.protocols import PROTOCOLS
from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, Sample
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.pairs import make_row
from pipelines.steps.render import judge_messages, prompt_messages


def seed_rows(group: Group, context: Context, protocol: str, template: str) -> list[Pair] | str:
    """The rows of a prompt with given responses, or why there is none (2401.10020, section 2).

    Without `judgement` in the prompt's meta every given response is imitated. With it the judgement is: as the answer
    to what a judge of `protocol` is asked by `template` about the first response, and only if it can be read.
    """
    given = distinct_samples(group, ("given",))
    judgement = json.loads(group["meta"]).get("judgement")
    if not given:
        return "no_response"
    if judgement is None:
        return [make_row(context, group, "actor", prompt_messages(group), sample, None) for sample in given]
    known = PROTOCOLS[protocol]
    reading = known.read(str(judgement), False)
    if reading.status != "ok":
        return "unreadable_judgement"
    answer: Sample = {**given[0], "text": str(judgement), "token_ids": []}
    asked = judge_messages(template, group, given[0], **known.variables)
    return [make_row(context, group, "judge", asked, answer, reading.value)]
