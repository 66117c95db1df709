"""What an iteration's records add up to: how much could be read, what was dropped and why, what the pairs look like."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args

from pipelines.records import Group, Pair, Status
from pipelines.steps.aggregate import mean
from pipelines.steps.judgements import distinct_samples, sample_scores
from pipelines.steps.select import EPSILON

BIN = 0.5  # width of the margin histogram's bins, in score units


def accounting(groups: Iterable[Group], pairs: Iterable[Pair]) -> dict[str, Any]:
    """Counts of one iteration from its groups as selection returned them, and its pairs. Plain JSON values.

    groups, judgements {total, counts, rates}, unjudged_samples (distinct ones that no judgement is about, as when the
    judge's prompt was too long; None where nothing was judged), meta_judgements (as judgements, and ties,
    first_position_rate), tied_prompts, dropped {reason: n}, pairs {kind: n}, and by kind the mean characters of both
    sides, margin mean and histogram {lower edge: n}. Rates and means of nothing are None.
    """
    groups, pairs = list(groups), list(pairs)
    meta = [m for g in groups for m in g["meta_judgements"]]
    decided = [m for m in meta if m["status"] == "ok" and m.get("winner") in ("A", "B")]
    first = sum((m.get("winner") == "B") == bool(m["order"]) for m in decided)
    kinds = sorted({p["kind"] for p in pairs})
    return {
        "groups": len(groups),
        "judgements": _statuses([j["status"] for g in groups for j in g["judgements"]]),
        "unjudged_samples": sum(map(_unjudged, groups)) if any(g["judgements"] for g in groups) else None,
        "meta_judgements": {
            **_statuses([m["status"] for m in meta]),
            "ties": sum(m["status"] == "ok" and m.get("winner") == "tie" for m in meta),
            "first_position_rate": first / len(decided) if decided else None,
        },
        "tied_prompts": sum(_tied(group) for group in groups),
        "dropped": _counts(reason for g in groups if (reason := g["dropped"])),
        "pairs": _counts(p["kind"] for p in pairs),
        "by_kind": {kind: _shape([p for p in pairs if p["kind"] == kind]) for kind in kinds},
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _statuses(statuses: list[Status]) -> dict[str, Any]:
    counts = {status: statuses.count(status) for status in get_args(Status)}
    total = len(statuses)
    return {
        "total": total,
        "counts": counts,
        "rates": {status: count / total if total else None for status, count in counts.items()},
    }


def _unjudged(group: Group) -> int:
    judged = {sample_id for j in group["judgements"] for sample_id in j["sample_ids"]}
    return sum(s["sample_id"] not in judged for s in distinct_samples(group))


def _tied(group: Group) -> bool:
    scores = sample_scores(group).values()
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
        "rejected_chars_mean": mean(len(p["rejected_text"]) for p in pairs),
        "margin_mean": mean(margins),
        "margin_histogram": {f"{edge * BIN:g}": edges[edge] for edge in sorted(edges)},
    }
