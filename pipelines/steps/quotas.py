"""How many pairs of each class an iteration keeps, and which: the same number of each, or a given ratio. Pure.

Recipes offer candidates, group by group; quotas need the counts of the whole iteration, so they come from `statistics`.
What is over its quota is left out by seeded hash, a prompt's second pair before another prompt's first.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipelines.records import Group, Pair
from pipelines.steps.select import tie_break

Candidates = list[tuple[Hashable, Pair]]  # of one group: class and pair, those to keep first before the others
Offers = Candidates | str  # or why the group has none
Quotas = Callable[[Mapping[Any, int]], Mapping[Any, int]]  # from the candidates by class


def together(parts: Iterable[Sequence[tuple[Hashable, Pair]] | str], nothing: str) -> Offers:
    """The pairs of all parts of a group; without any the last part's reason, or `nothing` where it has no parts."""
    made: Candidates = []
    for part in parts:
        if isinstance(part, str):
            nothing = part
        else:
            made += part
    return made or nothing


def even(most: float | None) -> Quotas:
    """At most `most` times the pairs of the rarest class that has any: 1 gives every class the same number.

    None keeps all, and the class None is all kept.
    """

    def quotas(counts: Mapping[Any, int]) -> Mapping[Any, int]:
        rarest = min((n for name, n in counts.items() if name is not None), default=0)
        limit = max(counts.values(), default=0) if most is None else math.floor(most * rarest)
        return {name: n if name is None else min(n, limit) for name, n in counts.items()}

    return quotas


def in_ratio(ratio: Mapping[Any, int]) -> Quotas:
    """As many pairs as there can be in the whole-number `ratio`, each class rounded up.

    A class of ratio 0 gives none. A class without any candidate is left out of the ratio: it must not empty the others.
    """

    def quotas(counts: Mapping[Any, int]) -> Mapping[Any, int]:
        whole = min((Fraction(n, ratio[name]) for name, n in counts.items() if ratio.get(name)), default=Fraction(0))
        return {name: min(n, math.ceil(whole * ratio.get(name, 0))) for name, n in counts.items()}

    return quotas


def kept_pairs(offers: Iterable[Offers], quotas: Quotas, seed: int) -> frozenset[str]:
    """Ids of the pairs that fill the quotas of their classes."""
    found: dict[Hashable, list[tuple[int, str, str]]] = {}
    for offered in offers:
        rank: Counter[Hashable] = Counter()
        for name, pair in [] if isinstance(offered, str) else offered:
            found.setdefault(name, []).append((rank[name], tie_break(seed, pair["pair_id"]), pair["pair_id"]))
            rank[name] += 1
    allowed = quotas({name: len(places) for name, places in found.items()})
    return frozenset(i for name, places in found.items() for _, _, i in sorted(places)[: allowed[name]])


def take(group: Group, offered: Offers, kept: frozenset[str]) -> tuple[Group, list[Pair]]:
    """The group's pairs that are kept, and the group with the reason where there is none."""
    if isinstance(offered, str):
        return {**group, "dropped": offered}, []
    pairs = [pair for _, pair in offered if pair["pair_id"] in kept]
    return {**group, "dropped": None if pairs else "over_quota"}, pairs
