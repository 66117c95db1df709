"""Views of a group that stages and recipes share: which samples count and what their judgements say.

Nothing depends on the order in which samples or judgements arrived: all choices go by `index`, then by id.
"""

from collections.abc import Collection

from actors.protocols import PROTOCOLS, WINNER
from actors.verdicts import as_listed
from pipelines.records import Group, Judgement, MetaJudgement, Sample
from pipelines.steps.aggregate import mean

STAGE_REASONS = ("prompt_too_long", "unusable_text")


def distinct_samples(group: Group, kinds: Collection[str] | None = None) -> list[Sample]:
    """The samples of these kinds in index order without empty and repeated texts (R4): those judged and paired.

    None means all kinds but the unsplit ones, whose hidden part nobody may read (steps/parts.py).
    A side of a pair needs a token. The text tells, and not `token_ids`, which recorded groups and gold chains may lack.
    """
    by_text: dict[str, Sample] = {}
    for sample in sorted(group["samples"], key=lambda s: (s["index"], s["sample_id"])):
        wanted = not sample["kind"].endswith("_unsplit") if kinds is None else sample["kind"] in kinds
        if sample["text"] and wanted:
            by_text.setdefault(sample["text"].strip(), sample)
    return list(by_text.values())


def read_judgement(judgement: Judgement, protocols: tuple[str, str] = ("additive", "pairwise")) -> Judgement:
    """The judgement with `value`, `verdict` and `status` read again from its text; one cut off at its limit stays so.

    `protocols` name how a text about one and about two samples is read (a recipe's `protocols`).
    Whether the engine cut the text is known only to `status`, so "truncated" is the one derived value that is kept.
    """
    if judgement.get("status") == "truncated":
        return {**judgement, "value": None, "verdict": None}
    pairwise = len(judgement["sample_ids"]) == 2
    reading = PROTOCOLS[protocols[pairwise]].read(judgement["text"], False)
    if pairwise:
        verdict = as_listed(reading.value, judgement["order"])
        return {**judgement, "value": None, "verdict": verdict, "status": reading.status}
    return {**judgement, "value": reading.value, "verdict": None, "status": reading.status}


def read_meta_judgement(judgement: MetaJudgement) -> MetaJudgement:
    """The meta-judgement with `winner` (among judgement_a and judgement_b, whatever was shown first) read again."""
    if judgement.get("status") == "truncated":
        return {**judgement, "winner": None}
    shown = WINNER.parse(judgement["text"], False)
    return {**judgement, "winner": as_listed(shown.value, judgement["order"]), "status": shown.status}


def lists_as_shown(calls: list[tuple[str, str, int]]) -> bool:
    """Whether records of (a, b, order) name the one shown first first, so that `order` only numbers the calls.

    Ours keep (a, b) and swap by order 1. Records that hold (a, b, 0) and (b, a, 1) but not (a, b, 1) have swapped the
    names already; swapping once more would say that both calls showed the same one first.
    """
    seen = set(calls)
    return any(order == 1 and (b, a, 0) in seen and not {(b, a, 1), (a, b, 0)} & seen for a, b, order in calls)


def read_group(group: Group, protocols: tuple[str, str] = ("additive", "pairwise")) -> Group:
    """The group with everything a judge or a meta-judge said read again, and without an earlier selection's verdict.

    A reason that a stage gave before anything was made (STAGE_REASONS) stays: no text can take it back. Records of
    others that list the two as shown get order 0 (see `lists_as_shown`).
    """
    judgements, metas = group["judgements"], group["meta_judgements"]
    comparisons = [j for j in judgements if len(j["sample_ids"]) == 2]
    if lists_as_shown([(j["sample_ids"][0], j["sample_ids"][1], j["order"]) for j in comparisons]):
        judgements = [Judgement(**{**j, "order": 0}) for j in judgements]
    if lists_as_shown([(m["judgement_a"], m["judgement_b"], m["order"]) for m in metas]):
        metas = [MetaJudgement(**{**m, "order": 0}) for m in metas]
    return {
        **group,
        "judgements": [{**read_judgement(j, protocols), "elo": None} for j in judgements],
        "meta_judgements": [read_meta_judgement(m) for m in metas],
        "dropped": group["dropped"] if group["dropped"] in STAGE_REASONS else None,
    }


def scored_judgements(group: Group) -> dict[str, list[Judgement]]:
    """The readable pointwise judgements of every distinct sample, by sample id, in index order.

    A sample without any is absent: it has no score (recipes never put a number in place of a missing judgement).
    """
    kept = {s["sample_id"] for s in distinct_samples(group)}
    found: dict[str, list[Judgement]] = {}
    for judgement in sorted(group["judgements"], key=lambda j: (j["index"], j["judgement_id"])):
        ids = judgement["sample_ids"]
        if len(ids) == 1 and ids[0] in kept and judgement["status"] == "ok" and judgement.get("value") is not None:
            found.setdefault(ids[0], []).append(judgement)
    return found


def values(judgements: list[Judgement]) -> list[float]:
    """Their scores."""
    return [value for j in judgements if (value := j.get("value")) is not None]


def sample_scores(group: Group) -> dict[str, float]:
    """S(y): the mean readable score of every sample that has one."""
    means = {sample_id: mean(values(judged)) for sample_id, judged in scored_judgements(group).items()}
    return {sample_id: score for sample_id, score in means.items() if score is not None}
