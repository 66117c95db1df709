"""Views of a group that stages and recipes share: which samples count and what their judgements say.

Nothing depends on the order in which samples or judgements arrived: all choices go by `index`, then by id.
"""

from actors.verdicts import as_listed, parse_pairwise, parse_score
from pipelines.records import Group, Judgement, MetaJudgement, Sample
from pipelines.steps.aggregate import mean

STAGE_REASONS = ("prompt_too_long", "unusable_text")


def distinct_samples(group: Group) -> list[Sample]:
    """The samples in index order without empty and repeated texts (R4): the ones that are judged and paired.

    A side of a pair needs a token. The text tells, and not `token_ids`, which recorded groups and gold chains may lack.
    """
    by_text: dict[str, Sample] = {}
    for sample in sorted(group["samples"], key=lambda s: (s["index"], s["sample_id"])):
        if sample["text"]:
            by_text.setdefault(sample["text"].strip(), sample)
    return list(by_text.values())


def read_judgement(judgement: Judgement, low: float = 0, high: float = 5) -> Judgement:
    """The judgement with `value`, `verdict` and `status` read again from its text; one cut off at its limit stays so.

    Whether the engine cut the text is known only to `status`, so "truncated" is the one derived value that is kept.
    """
    if judgement.get("status") == "truncated":
        return {**judgement, "value": None, "verdict": None}
    if len(judgement["sample_ids"]) == 2:
        shown = parse_pairwise(judgement["text"])
        verdict = as_listed(shown.value, judgement["order"])
        return {**judgement, "value": None, "verdict": verdict, "status": shown.status}
    score = parse_score(judgement["text"], low, high)
    return {**judgement, "value": score.value, "verdict": None, "status": score.status}


def read_meta_judgement(judgement: MetaJudgement) -> MetaJudgement:
    """The meta-judgement with `winner` (among judgement_a and judgement_b, whatever was shown first) read again."""
    if judgement.get("status") == "truncated":
        return {**judgement, "winner": None}
    shown = parse_pairwise(judgement["text"])
    return {**judgement, "winner": as_listed(shown.value, judgement["order"]), "status": shown.status}


def read_group(group: Group) -> Group:
    """The group with everything a judge or a meta-judge said read again, and without an earlier selection's verdict.

    A reason that a stage gave before anything was made (STAGE_REASONS) stays: no text can take it back.
    """
    return {
        **group,
        "judgements": [{**read_judgement(j), "elo": None} for j in group["judgements"]],
        "meta_judgements": [read_meta_judgement(m) for m in group["meta_judgements"]],
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
