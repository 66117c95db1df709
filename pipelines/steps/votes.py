"""Self-consistency as a preference: answers vote, the most voted meets the least voted (ScPO, 2411.04109). Pure.

Nothing depends on the order in which samples arrived; what the paper draws at random is drawn by seeded hash.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, Sample
from pipelines.steps.answers import same_answer
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.pairs import make_pair
from pipelines.steps.render import prompt_messages, sample_by_id
from pipelines.steps.select import EPSILON, tie_break


def answer_classes(answers: Iterable[str]) -> dict[str, str]:
    """Every answer with the name of those that say the same: the first of them in alphabetical order.

    Two answers say the same when `same_answer` finds so either way round, or both say the same as a third.
    """
    classes: list[list[str]] = []
    for answer in sorted(set(answers)):
        equal = [c for c in classes if any(same_answer(answer, other) or same_answer(other, answer) for other in c)]
        classes = [c for c in classes if c not in equal] + [[answer, *(other for c in equal for other in c)]]
    return {answer: min(c) for c in classes for answer in c}


def count_votes(samples: Iterable[Sample]) -> dict[str, int]:
    """V(y): how many samples of kind "sample" gave the answer of each sample, by id (R1, 2411.04109 section 2).

    A sample without an answer casts no vote and has none. Repeated texts vote as often as they were drawn, and samples
    of other kinds have the votes that their answer got.
    """
    samples = list(samples)
    classes = answer_classes(answer for s in samples if (answer := s.get("answer")) is not None)
    given = {s["sample_id"]: classes.get(s.get("answer") or "") for s in samples}
    cast = Counter(given[s["sample_id"]] for s in samples if s["kind"] == "sample")
    return {i: 0 if answer is None else cast[answer] for i, answer in given.items()}


def most_and_least(
    votes: Mapping[str, int], choosable: Collection[str], rejectable: Collection[str], seed: int = 0
) -> tuple[str, str] | None:
    """(chosen, rejected): one of the most voted `choosable` and one of the least voted `rejectable`, by seeded hash.

    None unless the first has more votes than the second (R1, 2411.04109 section 2).
    """
    best = max((votes[i] for i in choosable), default=0)
    worst = min((votes[i] for i in rejectable), default=best)
    if best <= worst:
        return None
    return (
        min((i for i in choosable if votes[i] == best), key=lambda i: tie_break(seed, i)),
        min((i for i in rejectable if votes[i] == worst), key=lambda i: tie_break(seed, i)),
    )


def consistency_pair(
    group: Group, context: Context, template: str, tau: float, unread_rejected: bool
) -> Pair | str:
    """The pair of the most and the least voted sample with weight (V+ - V-) / k, or why there is none (R1).

    Samples carry `answer` and `votes`. k is the number drawn, readable or not, and V+ must be at least `tau` k. Hot
    samples can only be rejected; one without an answer can be where `unread_rejected`.
    """
    regular = distinct_samples(group, ("sample",))
    k = sum(s["kind"] == "sample" for s in group["samples"])
    votes = {s["sample_id"]: s.get("votes") or 0 for s in group["samples"]}
    most = max((votes[s["sample_id"]] for s in regular), default=0)
    if not most:
        return "no_answer" if regular else "no_samples"
    if most < tau * k - EPSILON:
        return "no_majority"
    rejectable = [s for s in distinct_samples(group, ("sample", "hot")) if unread_rejected or s.get("answer")]
    found = most_and_least(
        votes, [s["sample_id"] for s in regular], [s["sample_id"] for s in rejectable], context.run_seed
    )
    if found is None:
        return "tied_votes"
    chosen, rejected = (sample_by_id(group, i) for i in found)
    scores = float(votes[found[0]]), float(votes[found[1]])
    weight = (scores[0] - scores[1]) / k
    return make_pair(context, group, "actor", prompt_messages(group, template), chosen, rejected, scores, weight)
