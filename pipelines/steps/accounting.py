"""What an iteration's records add up to: how much could be read, what was dropped and why, what the pairs look like."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from actors.votes import positions, rates, statuses
from pipelines.records import Group, Pair
from pipelines.steps.aggregate import mean
from pipelines.steps.judgements import distinct_samples, sample_scores
from pipelines.steps.select import EPSILON

BIN = 0.5  # width of the margin histogram's bins, in score units


def accounting(groups: Iterable[Group], pairs: Iterable[Pair]) -> dict[str, Any]:
    """Counts of one iteration from its groups as selection returned them, and its pairs. Plain JSON values.

    groups, samples {total, kinds, truncated}, judgements (see actors.votes.rates), unjudged_samples (distinct ones that
    no judgement is about, as when the judge's prompt was too long, of the kinds that were judged; None where nothing
    was), meta_judgements {total, counts, rates, ties, first_position_rate}, tied_prompts, dropped {reason: n}, pairs
    {kind: n}, and by kind the mean characters of both sides, margin mean and histogram {lower edge: n}. Rates and means
    of nothing are None.
    """
    groups, pairs = list(groups), list(pairs)
    samples = [s for g in groups for s in g["samples"]]
    judgements = [j for g in groups for j in g["judgements"]]
    meta = [m for g in groups for m in g["meta_judgements"]]
    reviewed = [(m.get("winner"), m["order"]) for m in meta if m["status"] == "ok"]
    judged = {s["kind"] for g in groups if (ids := _judged(g)) for s in g["samples"] if s["sample_id"] in ids}
    kinds = sorted({p["kind"] for p in pairs})
    return {
        "groups": len(groups),
        "samples": {
            "total": len(samples),
            "kinds": _counts(s["kind"] for s in samples),
            "truncated": sum(s["finish_reason"] == "length" for s in samples),
        },
        "judgements": rates(judgements),
        "unjudged_samples": sum(_unjudged(group, judged) for group in groups) if judged else None,
        "meta_judgements": {**statuses([m["status"] for m in meta]), **positions(reviewed)},
        "tied_prompts": sum(_tied(group) for group in groups),
        "dropped": _counts(reason for g in groups if (reason := g["dropped"])),
        "pairs": _counts(p["kind"] for p in pairs),
        "by_kind": {kind: _shape([p for p in pairs if p["kind"] == kind]) for kind in kinds},
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _judged(group: Group) -> set[str]:
    return {sample_id for j in group["judgements"] for sample_id in j["sample_ids"]}


def _unjudged(group: Group, kinds: set[str]) -> int:
    judged = _judged(group)
    return sum(s["sample_id"] not in judged for s in distinct_samples(group, kinds))


def _tied(group: Group) -> bool:
    """Whether two or more scored samples all have the same score; where judges gave none, the recipe's own score."""
    own = [score for s in distinct_samples(group) if (score := s.get("score")) is not None]
    scores = list(sample_scores(group).values()) or own
    return len(scores) > 1 and max(scores) - min(scores) <= EPSILON


def _shape(pairs: list[Pair]) -> dict[str, Any]:
    margins = [
        chosen - rejected
        for p in pairs
        if (chosen := p["chosen_score"]) is not None and (rejected := p["rejected_score"]) is not None
    ]
    edges = Counter(math.floor(margin / BIN + EPSILON) for margin in margins)
    return {
        "chosen_chars_mean": mean(len(p["chosen_text"]) for p in pairs),
        "rejected_chars_mean": mean(len(p["rejected_text"]) for p in pairs if p["rejected_from"]),
        "margin_mean": mean(margins),
        "margin_histogram": {f"{edge * BIN:g}": edges[edge] for edge in sorted(edges)},
    }
