"""Samples against the known answer of their prompt: which are right, and the pairs of right and wrong ones (R6)."""

from collections.abc import Callable

from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, Sample
from pipelines.steps.answers import extract_answer, gold_answer, plain_answer, same_answer
from pipelines.steps.pairs import make_pair
from pipelines.steps.render import prompt_messages, sample_by_id

Walk = Callable[[list[str], list[str]], list[tuple[str, str]]]  # ids of right and of wrong samples -> (right, wrong)


def mark_answers(samples: list[Sample], gold: str | None, strict: bool = False) -> list[Sample]:
    """The samples with `answer` read again, and `score` 1 for the gold answer and 0 for another or none.

    With `strict` an answer in another form than the one asked for is none (`plain_answer`). A human solution is right.
    There is no score where there is no gold answer (R6, 2404.19733 section 2).
    """
    marked: list[Sample] = []
    for s in samples:
        answer = plain_answer(s["text"]) if strict else extract_answer(s["text"])
        right = s["kind"] == "gold_chain" or (answer is not None and gold is not None and same_answer(answer, gold))
        marked.append({**s, "answer": answer, "score": None if gold is None else float(right)})
    return marked


def correctness_pairs(
    group: Group, context: Context, template: str, samples: list[Sample], walk: Walk
) -> tuple[list[Pair], str | None]:
    """The pairs of `walk` between right samples (score above 0) and wrong ones (score 0), or why there is none.

    Samples without a score are neither. The reasons are no_gold_answer, no_samples, no_correct_sample and
    no_wrong_sample.
    """
    right = [s["sample_id"] for s in samples if s.get("score")]
    wrong = [s["sample_id"] for s in samples if s.get("score") == 0.0]
    reason = "no_correct_sample" if not right else None if wrong else "no_wrong_sample"
    reason = "no_gold_answer" if gold_answer(group) is None else reason if samples else "no_samples"
    scores = {s["sample_id"]: s.get("score") or 0.0 for s in samples}
    pairs = [
        make_pair(
            context, group, "actor", prompt_messages(group, template), sample_by_id(group, c), sample_by_id(group, w),
            (scores[c], scores[w]),
        )
        for c, w in walk(right, wrong)
    ]
    return pairs, reason
