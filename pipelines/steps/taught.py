"""A teacher's judgements as rows to imitate (Auto-J, 2310.05470): kept where they agree with a human's, in both orders.

The teacher was shown criteria; the rows ask without them. Pure.
"""

import re

from actors.choice_verdicts import parse_decision
from actors.verdicts import as_listed
from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement
from pipelines.steps.labels import label_of, questions, said, said_as_shown
from pipelines.steps.pairs import make_row
from pipelines.steps.quotas import Candidates, Offers
from pipelines.steps.render import judge_messages
from pipelines.steps.select import tie_break

_THING = r"(?:responses?|answers?)"
_MENTION = re.compile(
    rf"\b({_THING}[ \t]*#?)([12])(?:([ \t]*(?:/|&|and|or|vs\.?|versus)[ \t]*)([12]))?\b"
    rf"|\b(first|second)(?=[ \t]+(?:one|{_THING})\b)",
    re.I,
)
_OTHER = {"1": "2", "2": "1", "first": "second", "second": "first"}


def is_rated(group: Group) -> bool:
    """Whether the row asks for a rating of its response: it has no label, or a number (a JudgeStep's `only`)."""
    label = label_of(group)
    return group["gold"] is None or (label is not None and label.protocol == "likert")


def swap_mentions(text: str) -> str:
    """The text with the two responses' names exchanged, as if they had been shown in the other order.

    Doing it twice gives the text back.
    """

    def other(mention: re.Match[str]) -> str:
        lead, one, between, two, ordinal = mention.groups()
        if ordinal:
            word = _OTHER[ordinal.lower()]
            return word.upper() if ordinal.isupper() else word.capitalize() if ordinal[0].isupper() else word
        return lead + _OTHER[one] + (between + _OTHER[two] if two else "")

    return _MENTION.sub(other, text)


def comparison_rows(group: Group, context: Context, template: str) -> Offers:
    """One right judgement of every order, with the verdict as shown for its class, or why there is none.

    All orders that could be read must have one: a teacher that is right in one order only is right by position. Where
    the other order was not read, its row is a copy with the responses and their mentions swapped.
    """
    label = label_of(group)
    if label is None or label.protocol != "pairwise":
        return "no_label"
    asked = questions(group)
    right = [(shown, [j for j in judgements if said(j) == label.value]) for shown, judgements in asked]
    if not asked or not all(judgements for _, judgements in right):
        return "teacher_disagrees" if asked else "no_readable_judgement"
    made: Candidates = []
    for shown, judgements in right:
        kept = min(judgements, key=lambda j: tie_break(context.run_seed, j["judgement_id"]))
        messages = judge_messages(template, group, *shown)
        made.append((said_as_shown(kept), make_row(context, group, "judge", messages, kept, None)))
        other = as_listed(str(said_as_shown(kept)), 1)
        copy = Judgement(**{**kept, "text": swap_mentions(kept["text"]), "token_ids": []})
        if len(right) == 1 and parse_decision(copy["text"]).value == other:
            messages = judge_messages(template, group, *shown[::-1])
            made.append((other, make_row(context, group, "swapped", messages, copy, None)))
    return made


def rating_rows(group: Group, context: Context, template: str) -> Offers:
    """One judgement of every rated response, with the row's number where it has one, or why there is none.

    Ratings have no class: they are not balanced.
    """
    label = label_of(group)
    asked = questions(group)
    made: Candidates = []
    for shown, judgements in asked:
        right = [j for j in judgements if label is None or said(j) == label.value]
        if right:
            kept = min(right, key=lambda j: tie_break(context.run_seed, j["judgement_id"]))
            made.append((None, make_row(context, group, "judge", judge_messages(template, group, *shown), kept,
                                        kept.get("value"))))
    return made or ("teacher_disagrees" if asked else "no_readable_judgement")
