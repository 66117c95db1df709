"""Scores become preferences: the selection rules of the papers. Pure, and independent of the order of arrival.

Items are named by record ids. Where a paper breaks ties at random, the tie goes to the id whose seeded hash is
smallest, so that the same records always make the same pairs.
"""

from collections.abc import Mapping, Sequence

from pipelines.records import digest
from pipelines.steps.aggregate import variance

EPSILON = 1e-9  # scores closer than this are equal


def tie_break(seed: int, record_id: str) -> str:
    """Sort key that orders equal items like a seeded shuffle."""
    return digest("tie", seed, record_id)


def tier_pair(
    scores: Mapping[str, float], lengths: Mapping[str, int], rho: float, seed: int = 0
) -> tuple[str, str] | None:
    """(chosen, rejected): the shortest of the best tier and the longest of the worst (R4, 2407.19594 section 2).

    The tiers are score >= (1-rho) max + rho min and score <= (1-rho) min + rho max; rho = 0 is plain best and worst.
    Among equal lengths the better (for rejected: the worse) score wins, then the seeded hash. None when no two scores
    differ. Raises ValueError for rho >= 0.5, where the tiers would overlap.
    """
    if not 0 <= rho < 0.5:
        raise ValueError(f"rho must be at least 0 and below 0.5, got {rho}")
    if len(scores) < 2:
        return None
    best, worst = max(scores.values()), min(scores.values())
    spread = best - worst
    if spread <= EPSILON:
        return None
    top = [i for i, score in scores.items() if score >= best - rho * spread - EPSILON]
    bottom = [i for i, score in scores.items() if score <= worst + rho * spread + EPSILON]
    chosen = min(top, key=lambda i: (lengths[i], -scores[i], tie_break(seed, i)))
    rejected = min(bottom, key=lambda i: (-lengths[i], scores[i], tie_break(seed, i)))
    return chosen, rejected


def max_variance(scores: Mapping[str, Sequence[float]], seed: int = 0) -> str | None:
    """The id whose scores vary most, ties by seeded hash; None without items (R4, 2407.19594 section 2)."""
    if not scores:
        return None
    spread = {i: variance(values) for i, values in scores.items()}
    most = max(spread.values())
    return min((i for i, v in spread.items() if v >= most - EPSILON), key=lambda i: tie_break(seed, i))


def best_worst(scores: Mapping[str, float], seed: int = 0) -> tuple[str, str] | None:
    """(best, worst) by score, ties by seeded hash; None when no two scores differ."""
    if not scores or max(scores.values()) - min(scores.values()) <= EPSILON:
        return None
    best, worst = max(scores.values()), min(scores.values())
    return (
        min((i for i, s in scores.items() if s >= best - EPSILON), key=lambda i: tie_break(seed, i)),
        min((i for i, s in scores.items() if s <= worst + EPSILON), key=lambda i: tie_break(seed, i)),
    )


def parallel_walk(correct: Sequence[str], wrong: Sequence[str], k: int) -> list[tuple[str, str]]:
    """Up to `k` (correct, wrong) pairs: both lists walked together, restarting when exhausted (R6, 2404.19733).

    Step i pairs correct[i mod n] with wrong[i mod m]; repeated items of a list and repeated pairs are dropped. Empty
    when one list is.
    """
    good, bad = list(dict.fromkeys(correct)), list(dict.fromkeys(wrong))
    if not good or not bad:
        return []
    return list(dict.fromkeys((good[i % len(good)], bad[i % len(bad)]) for i in range(min(k, len(good) * len(bad)))))
