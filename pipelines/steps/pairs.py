"""From readable records to pairs, the same for every recipe. A function that finds no preference says why."""

from typing import cast

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, Message, Pair, PairKind, Sample, record_id
from pipelines.steps.judgements import distinct_samples, sample_scores
from pipelines.steps.render import judge_messages, prompt_messages, sample_by_id
from pipelines.steps.select import best_worst, tier_pair


def make_pair(
    context: Context,
    group: Group,
    kind: PairKind,
    messages: list[Message],
    chosen: Sample | Judgement,
    rejected: Sample | Judgement,
    scores: tuple[float, float],
    weight: float = 1.0,
) -> Pair:
    """Two continuations of `messages` with their (chosen, rejected) scores.

    The token ids are the engine's own. Prompt ids, reference log-probabilities and the chat template's hash are filled
    when the reference scores the pair. Raises ValueError for texts or scores that prefer nothing (equal ones).
    """
    chosen_id, rejected_id = _id(chosen), _id(rejected)
    if chosen["text"] == rejected["text"] or scores[0] == scores[1] or not weight:
        raise ValueError(f"prompt {group['prompt_id']}: {chosen_id} and {rejected_id} express no preference")
    place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], f"{kind}_pair")
    return Pair(
        pair_id=record_id(*place, chosen_id, rejected_id),
        prompt_id=group["prompt_id"],
        iteration=context.iteration,
        kind=kind,
        messages=messages,
        prompt_ids=[],
        chosen_ids=list(chosen["token_ids"]),
        rejected_ids=list(rejected["token_ids"]),
        chosen_text=chosen["text"],
        rejected_text=rejected["text"],
        chosen_from=chosen_id,
        rejected_from=rejected_id,
        weight=weight,
        chosen_score=scores[0],
        rejected_score=scores[1],
        ref_logp_chosen=None,
        ref_logp_rejected=None,
        ref_version=None,
        template_hash=None,
    )


def response_pair(group: Group, context: Context, rho: float, max_chars: int | None = None) -> Pair | str:
    """The pair of responses by mean score with length tiers (R4), or why there is none; rho = 0 is R8's rule.

    `max_chars` drops a pair whose chosen response is longer.
    """
    scores = sample_scores(group)
    if len(distinct_samples(group)) < 2:
        return "too_few_samples"
    if len(scores) < 2:
        return "one_readable_score" if scores else "no_readable_score"
    lengths = {i: len(sample_by_id(group, i)["text"]) for i in scores}
    tiers = tier_pair(scores, lengths, rho, context.run_seed)
    if tiers is None:
        return "tied_scores"
    chosen, rejected = tiers
    if max_chars and lengths[chosen] > max_chars:
        return "chosen_too_long"
    return make_pair(
        context, group, "actor", prompt_messages(group), sample_by_id(group, chosen), sample_by_id(group, rejected),
        (scores[chosen], scores[rejected]),
    )


def judgement_pair(
    group: Group, context: Context, elo: dict[str, float], template: str, max_chars: int | None = None
) -> Pair | str:
    """The pair of the best and the worst judgement by Elo (R4), asked by `template`, or why there is none."""
    ends = best_worst(elo, context.run_seed)
    if ends is None:
        return "tied_judgements" if elo else "no_battles"
    by_id = {j["judgement_id"]: j for j in group["judgements"]}
    chosen, rejected = by_id[ends[0]], by_id[ends[1]]
    if max_chars and len(chosen["text"]) > max_chars:
        return "chosen_judgement_too_long"
    if chosen["text"] == rejected["text"]:
        return "same_judgement"
    messages = judge_messages(template, group, sample_by_id(group, chosen["sample_ids"][0]))
    return make_pair(context, group, "judge", messages, chosen, rejected, (elo[ends[0]], elo[ends[1]]))


def _id(record: Sample | Judgement) -> str:
    return cast(str, record.get("sample_id") or record.get("judgement_id"))
