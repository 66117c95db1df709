"""What a judge can learn from its own verdicts on pairs whose better side is known (2408.02666). Pure."""

from collections.abc import Hashable, Mapping
from typing import Literal, NamedTuple

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, Sample
from pipelines.steps.constructed import constructed_pair
from pipelines.steps.pairs import make_pair, make_row
from pipelines.steps.quotas import Candidates
from pipelines.steps.render import judge_messages
from pipelines.steps.select import tie_break


class Question(NamedTuple):
    """One request to a judge of a known pair, with its judgements by whether they are right.

    `shown` is the pair in the order shown, `label` the right verdict, "A" or "B". `wrong` holds the other verdict, ties
    and unreadable texts; both leave out repeated and empty texts. `share` is the part of all judgements that is right.
    """

    shown: tuple[Sample, Sample]
    label: str
    right: list[Judgement]
    wrong: list[Judgement]
    share: float


def known_questions(group: Group, better: Sample, worse: Sample) -> list[Question]:
    """What judges were asked about the two, first with the better one shown first; empty where nothing was asked."""
    questions = []
    for shown, label in (((better, worse), "A"), ((worse, better), "B")):
        ids = [s["sample_id"] for s in shown]
        asked = [j for j in group["judgements"] if _shown(j) == ids]
        asked.sort(key=lambda j: (j["index"], j["judgement_id"]))
        right = [j for j in asked if _winner(j) == better["sample_id"]]
        wrong = [j for j in asked if _winner(j) != better["sample_id"]]
        if asked:
            questions.append(Question(shown, label, _distinct(right), _distinct(wrong), len(right) / len(asked)))
    return questions


def lessons(
    group: Group, context: Context, template: str, variant: Literal["sft", "dpo"], min_share: float, num_pairs: int
) -> Candidates | str:
    """Pairs of the judgements of a prompt's known pair, each with the right verdict, or why there are none (R3).

    sft: one right judgement of every question, drawn by seeded hash, as a row with the question's share for a score.
    dpo: up to `num_pairs` of right against wrong ones of a question. A question counts when one of its judgements is
    right, and at least `min_share` of them are. `template` is what the judge was asked by.
    """
    pair = group["dropped"] or constructed_pair(group)
    if isinstance(pair, str):
        return pair
    questions = known_questions(group, *pair)
    usable = [q for q in questions if q.right and q.share >= min_share]
    if not usable:
        none_right = "no_right_judgement" if questions else "no_judgement"
        return "too_few_right_judgements" if any(q.right for q in questions) else none_right
    made: Candidates = []
    for q in usable:
        messages = judge_messages(template, group, *q.shown)
        if variant == "sft":
            right = min(q.right, key=lambda j: tie_break(context.run_seed, j["judgement_id"]))
            found = [make_row(context, group, "judge", messages, right, q.share)]
        else:
            found = [make_pair(context, group, "judge", messages, r, w, (1.0, 0.0)) for r in q.right for w in q.wrong]
            found = sorted(found, key=lambda pair: tie_break(context.run_seed, pair["pair_id"]))[:num_pairs]
        made += [(q.label, pair) for pair in found]
    return made or "no_wrong_judgement"


def same_number(counts: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """As many of either verdict as of the rarer one, which may be none."""
    return dict.fromkeys(counts, min(counts.get("A", 0), counts.get("B", 0)))


def _shown(judgement: Judgement) -> list[str]:
    ids = list(judgement["sample_ids"])
    return ids[::-1] if judgement["order"] else ids


def _winner(judgement: Judgement) -> str | None:
    """The sample that a readable judgement prefers."""
    place = {"A": 0, "B": 1}.get(judgement.get("verdict") or "")
    return None if judgement["status"] != "ok" or place is None else judgement["sample_ids"][place]


def _distinct(judgements: list[Judgement]) -> list[Judgement]:
    by_text: dict[str, Judgement] = {}
    for judgement in judgements:
        if judgement["text"].strip():
            by_text.setdefault(judgement["text"].strip(), judgement)
    return list(by_text.values())
