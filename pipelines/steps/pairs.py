"""From readable records to pairs, the same for every recipe. A function that finds no preference says why."""

from typing import cast

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, Message, Pair, Sample, record_id
from pipelines.steps.judgements import distinct_samples, sample_scores
from pipelines.steps.parts import visible
from pipelines.steps.render import judge_messages, prompt_messages, sample_by_id
from pipelines.steps.select import best_worst, tier_pair


def make_pair(
    context: Context,
    group: Group,
    kind: str,
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
    return _pair(context, group, kind, messages, chosen, rejected, scores, weight)


def make_row(
    context: Context, group: Group, kind: str, messages: list[Message], chosen: Sample | Judgement, score: float | None,
    weight: float = 1.0,
) -> Pair:
    """A continuation of `messages` to imitate: a pair without a rejected side, for losses of the chosen side alone.

    Raises ValueError for an empty text or no weight.
    """
    if not chosen["text"] or not weight:
        raise ValueError(f"prompt {group['prompt_id']}: nothing to learn from {_id(chosen)}")
    return _pair(context, group, kind, messages, chosen, None, (score, None), weight)


def policys_own(pairs: list[Pair], groups: list[Group], version: str | None, teaches: bool) -> list[Pair]:
    """The pairs that a policy of weights `version` may learn from; without one, all weights but frozen ones are its.

    Sides that another model wrote lose their token ids, which are of its tokenizer, and are tokenised again as text.
    Another model's judgements are left out unless the recipe `teaches`.
    """
    records: list[Sample | Judgement] = [r for g in groups for r in (*g["samples"], *g["judgements"])]

    def own(made_by: str) -> bool:
        return made_by == version if version else made_by != "frozen"

    foreign = {_id(record): "judgement_id" in record for record in records if not own(record["weight_version"])}
    kept = []
    for pair in pairs:
        chosen, rejected = pair["chosen_from"], pair["rejected_from"]
        if teaches or not (foreign.get(chosen) or foreign.get(rejected)):
            chosen_ids = [] if chosen in foreign else pair["chosen_ids"]
            rejected_ids = [] if rejected in foreign else pair["rejected_ids"]
            kept.append(Pair(**{**pair, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids}))
    return kept


def response_pair(group: Group, context: Context, rho: float, max_chars: int | None = None) -> Pair | str:
    """The pair of responses by mean score with length tiers (R4), or why there is none; rho = 0 is R8's rule.

    `max_chars` drops a pair whose chosen response is longer.
    """
    scores = sample_scores(group)
    if len(distinct_samples(group)) < 2:
        return "too_few_samples"
    if len(scores) < 2:
        return "one_readable_score" if scores else "no_readable_score"
    lengths = {i: len(visible(sample_by_id(group, i))) for i in scores}
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


def _pair(
    context: Context, group: Group, kind: str, messages: list[Message], chosen: Sample | Judgement,
    rejected: Sample | Judgement | None, scores: tuple[float | None, float | None], weight: float,
) -> Pair:
    place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], f"{kind}_pair")
    rejected_id = _id(rejected) if rejected else ""
    return Pair(
        pair_id=record_id(*place, _id(chosen), rejected_id),
        prompt_id=group["prompt_id"],
        iteration=context.iteration,
        kind=kind,
        messages=messages,
        prompt_ids=[],
        chosen_ids=list(chosen["token_ids"]),
        rejected_ids=list(rejected["token_ids"]) if rejected else [],
        chosen_text=chosen["text"],
        rejected_text=rejected["text"] if rejected else "",
        chosen_from=_id(chosen),
        rejected_from=rejected_id,
        weight=weight,
        chosen_score=scores[0],
        rejected_score=scores[1],
        ref_logp_chosen=None,
        ref_logp_rejected=None,
        ref_version=None,
        template_hash=None,
    )


def _id(record: Sample | Judgement) -> str:
    return cast(str, record.get("sample_id") or record.get("judgement_id"))
