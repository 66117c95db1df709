"""The numbers of a run, from what is known of its groups, its pairs, its marks and its metrics. Pure; plain JSON."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np

from pipelines.records import Status
from pipelines.reporting.facts import GroupFacts
from pipelines.training.trainer import current_steps

STATUSES: tuple[str, ...] = get_args(Status)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
MAX_BINS = 20
MAX_POINTS = 400  # of a curve; more are drawn as means of neighbours
CURVES = (
    "loss", "dpo_loss", "accuracy", "margin", "reward_chosen", "reward_rejected", "grad_norm", "learning_rate",
    "entropy", "kl", "tokens_per_s",
)


def iteration_numbers(
    iteration: int, facts: Sequence[GroupFacts], shapes: dict[str, Any], kinds: Counter[str], metrics: list[dict],
    marks: dict[str, dict[str, Any] | None],
) -> dict[str, Any]:
    """One iteration: records by sort, health of judge and meta-judge, pairs, training and weight update.

    `shapes` and `kinds` are those of its pairs, `marks` what each stage recorded when it was complete.
    """
    counts = sum_counts(f.counts for f in facts)
    scores = [score for f in facts for score in f.scores]
    return {
        "iteration": iteration,
        "groups": len(facts),
        "samples": counts["samples"],
        "kinds": dict(sorted(Counter(s.kind for f in facts for s in f.samples).items())),
        "truncated": counts["truncated"],
        "tokens": counts["tokens"],
        "judge": _health(counts, "judgement", ""),
        "meta_judge": _health(counts, "meta", "meta_"),
        "flips": counts["flips"],
        "both": counts["both"],
        "scored": len(scores),
        "mean_score": _mean(scores),
        "mean_words": _mean([s.words for f in facts for s in f.samples]),
        "length_correlation": length_correlation(facts),
        "pairs": dict(sorted(kinds.items())),
        "shapes": shapes,
        "dropped": dict(Counter(f.dropped for f in facts if f.dropped).most_common()),
        "training": training(metrics),
        "summary": marks.get("train"),
        "sync": marks.get("sync"),
        "new_prompts": marks.get("prompts"),
    }


def sum_counts(counts: Iterable[Counter[str]]) -> Counter[str]:
    """Their sum."""
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return total


def _health(counts: Counter[str], record: str, place: str) -> dict[str, Any]:
    """Counts by status, and of comparisons: ties, those decided, and the share of these for what was shown first."""
    decided = counts[f"{place}decided"]
    by_status = {status: counts[f"{record}.{status}"] for status in STATUSES}
    return {
        "total": sum(by_status.values()),
        "statuses": by_status,
        "tied": counts[f"{place}tied"],
        "decided": decided,
        "first_position_rate": counts[f"{place}first"] / decided if decided else None,
    }


def length_correlation(facts: Iterable[GroupFacts]) -> dict[str, Any]:
    """Pearson's r of score and visible length, each as its difference from the prompt's mean, and the samples' number.

    Differences, because a prompt that asks for more has longer answers. None where either does not vary.
    """
    gaps: list[tuple[float, float]] = []
    for f in facts:
        known = [(sample.score, float(sample.chars)) for sample in f.samples if sample.score is not None]
        if len(known) > 1:
            centre = [math.fsum(values) / len(known) for values in zip(*known, strict=True)]
            gaps += [(score - centre[0], chars - centre[1]) for score, chars in known]
    scores, chars = np.asarray(gaps, float).reshape(-1, 2).T
    if len(gaps) < 3 or scores.std() < 1e-9 or chars.std() < 1e-9:
        return {"r": None, "n": len(gaps)}
    return {"r": float(np.corrcoef(scores, chars)[0, 1]), "n": len(gaps)}


def training(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves over the steps that count {name: [[step, value], ...]}, validation losses, and what went wrong."""
    steps = current_steps(metrics)
    curves = {name: thinned([(s["step"], s[name]) for s in steps if _number(s.get(name))]) for name in CURVES}
    bad = [s for s in steps if s.get("skipped")]
    validation = [m for m in metrics if m.get("event") == "validation" and _number(m["loss"])]
    memory = [s["peak_memory_gib"] for s in steps if _number(s.get("peak_memory_gib"))]
    return {
        "steps": len(steps),
        "planned": next((m["steps"] for m in reversed(metrics) if m.get("event") == "start"), None),
        "curves": {name: curve for name, curve in curves.items() if curve},
        "validation": [[m["steps"], m["loss"]] for m in validation],
        "skipped": [{"step": s["step"], "pair_ids": s.get("bad_pair_ids")} for s in bad],
        "left_out": [m for m in metrics if m.get("event") == "left_out"],
        "errors": [m["message"] for m in metrics if m.get("event") == "error"],
        "starts": sum(m.get("event") == "start" for m in metrics),
        "tokens": int(sum(s.get("tokens") or 0 for s in steps)),
        "seconds": sum(s.get("seconds") or 0.0 for s in steps),
        "peak_memory_gib": max(memory, default=None),
    }


def thinned(points: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> list[list[float]]:
    """At most `most` points of a curve: means of runs of neighbours, at the run's last step."""
    width = math.ceil(len(points) / most) or 1
    runs = [points[i : i + width] for i in range(0, len(points), width)]
    return [[run[-1][0], math.fsum(value for _, value in run) / len(run)] for run in runs]


def distribution(values: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Values by iteration as histograms over common bins, quantiles (QUANTILES) and means; None without any value.

    Where there are at most MAX_BINS different values each has a bin of its own, and `edges` holds them.
    """
    arrays = [np.asarray(some, float) for some in values]
    every = np.concatenate([*arrays, np.empty(0)])
    if not every.size:
        return None
    distinct = np.unique(every)
    if len(distinct) <= MAX_BINS:
        edges = distinct
        counts = [np.bincount(np.searchsorted(distinct, some), minlength=len(distinct)) for some in arrays]
    else:
        edges = np.linspace(every.min(), every.max(), MAX_BINS + 1)
        counts = [np.histogram(some, edges)[0] for some in arrays]
    return {
        "values": len(distinct) <= MAX_BINS,
        "edges": [float(edge) for edge in edges],
        "counts": [some.tolist() for some in counts],
        "quantiles": [np.quantile(some, QUANTILES).tolist() if len(some) else None for some in arrays],
        "means": [_mean(some) for some in values],
        "n": [len(some) for some in values],
    }


def distributions(facts: Sequence[Sequence[GroupFacts]]) -> dict[str, Any]:
    """Of the iterations' sample scores, words, and the Elo scores of judgements."""
    return {
        "scores": distribution([[score for f in some for score in f.scores] for some in facts]),
        "words": distribution([[s.words for f in some for s in f.samples] for some in facts]),
        "elo": distribution([[elo for f in some for elo in f.elo] for some in facts]),
    }


def growth(values: Sequence[float | None]) -> float | None:
    """The last known value over the first; None with fewer than two, or where the first is 0."""
    known = [value for value in values if value is not None]
    return known[-1] / known[0] if len(known) > 1 and known[0] else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
