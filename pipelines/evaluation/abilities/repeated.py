"""Several answers to one question: how often one of them is right, and what they say by majority. Pure."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of `k` answers drawn from `n`, of which `right` are right, is right (2107.03374 section 2.1).

    1 - C(n - right, k) / C(n, k), which is unbiased. Raises ValueError unless 0 <= right <= n and 1 <= k <= n.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} answers with {right} right ones is not defined")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority_right(answers: Sequence[Hashable | None], right: Sequence[bool]) -> float:
    """Whether the most frequent answer is right, 0 or 1; of equally frequent ones the share that is right.

    That share is what breaking the tie by chance gives on average. `answers` that say the same are equal; None is an
    unreadable one and does not vote. 0 where nobody votes.
    """
    pairs = list(zip(answers, right, strict=True))
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    first = [answer for answer, count in votes.items() if count == most]
    return sum(any(is_right for other, is_right in pairs if other == answer) for answer in first) / len(first)
