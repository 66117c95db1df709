"""Judgements of one question against each other: right ones against wrong ones, or better reasons against worse."""

from collections import Counter
from collections.abc import Iterable

from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, Pair, Sample
from pipelines.steps.judgements import values
from pipelines.steps.labels import Label, distance, right_and_wrong, said, said_as_shown, score_of, verdict_line
from pipelines.steps.meta import judgement_elo
from pipelines.steps.pairs import make_pair
from pipelines.steps.render import judge_messages
from pipelines.steps.select import best_worst, parallel_walk


def modal_score(values: Iterable[float], least_share: float = 0.0) -> float | None:
    """The most frequent score; None where two are, or where its share is below `least_share` (self-consistency)."""
    counts = Counter(values)
    ranked = counts.most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    score, votes = ranked[0]
    return score if votes / counts.total() >= least_share else None


def right_score(group: Group, judgements: list[Judgement], evidence: str, majority_share: float) -> float | str:
    """The score that counts as right, or why there is none.

    `evidence` "gold": the label's; "majority": the most frequent one; "meta": the label's, else the most frequent one,
    whatever its share.
    """
    score = score_of(group) if evidence != "majority" else None
    if score is not None or evidence == "gold":
        return "no_gold_score" if score is None else score
    modal = modal_score(values(judgements), majority_share if evidence == "majority" else 0.0)
    return "no_majority" if modal is None else modal


def verdict_pairs(
    group: Group, context: Context, template: str, shown: tuple[Sample, ...], judgements: list[Judgement],
    right: str | float, margin: float, most: int,
) -> list[Pair] | str:
    """Up to `most` pairs of a judgement that says `right` and one at least `margin` from it, or why there is none.

    The scores of a pair are the distances from `right`, negated (R11, 2410.05495; R13, 2409.14664).
    """
    good, bad = right_and_wrong(judgements, right, margin)
    if not good or not bad:
        return "no_wrong_judgement" if good else "no_right_judgement"
    by_id = {j["judgement_id"]: j for j in (*good, *bad)}
    messages = judge_messages(template, group, *shown)
    walk = parallel_walk([j["judgement_id"] for j in good], [j["judgement_id"] for j in bad], most)
    return [
        make_pair(context, group, "judge", messages, by_id[g], by_id[b], (0.0, -distance(by_id[b], right)))
        for g, b in walk
    ]


def bare_pairs(
    group: Group, context: Context, template: str, shown: tuple[Sample, ...], judgements: list[Judgement],
    label: Label,
) -> list[Pair]:
    """The right verdict against each wrong one without their reasons, each once; `template` asks for no more (R13)."""
    good, bad = right_and_wrong(judgements, label.value)
    by_line: dict[str, Judgement] = {}
    for judgement in [*good, *bad]:
        by_line.setdefault(verdict_line(label.protocol, said_as_shown(judgement)), judgement)
    lines = [Judgement(**{**j, "text": line, "token_ids": []}) for line, j in by_line.items()]
    messages = judge_messages(template, group, *shown) if good and bad else []
    return [
        make_pair(context, group, "verdict", messages, lines[0], line, (0.0, -distance(line, label.value)))
        for line in (lines[1:] if good else [])
    ]


def rationale_pair(
    group: Group, context: Context, template: str, shown: tuple[Sample, ...], judgements: list[Judgement],
    right: float, weights: tuple[float, float] | None,
) -> list[Pair] | str:
    """The best and the worst judgement by the meta-judge's Elo among those that say `right`, or why there is none.

    `weights` are those of its wins by position; None where it only ever chose one position (R11, 2410.05495).
    """
    if weights is None:
        return "one_sided_meta_judge"
    elo = judgement_elo(group, weights, context)
    by_id = {j["judgement_id"]: j for j in judgements if said(j) == right and j["judgement_id"] in elo}
    ends = best_worst({i: elo[i] for i in by_id}, context.run_seed)
    if ends is None:
        return "tied_judgements" if by_id else "no_battles"
    chosen, rejected = by_id[ends[0]], by_id[ends[1]]
    if chosen["text"] == rejected["text"]:
        return "same_judgement"
    messages = judge_messages(template, group, *shown)
    return [make_pair(context, group, "judge", messages, chosen, rejected, (elo[ends[0]], elo[ends[1]]))]
