"""Pairs of responses whose better side is known because the other one was made worse (2408.02666). Pure.

The worse one answers a changed question as well as it can, and is then put under the question itself. Rows may bring
their own pair (`chosen`, `rejected`) or the response to be corrupted (`response`).
"""

from collections.abc import Collection
from typing import Any

from pipelines.recipes.base import Context
from pipelines.records import Group, Sample
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.parts import changed_question, visible

BETTER = ("sample", "given", "chosen")
WORSE = ("corrupted", "rejected")


def to_answer(group: Group, context: Context) -> list[dict[str, Any]]:
    """A request for the baseline response, unless the row has brought one (a SampleStep's `shown`)."""
    return [] if _first(group, BETTER) else [{"key": "baseline"}]


def to_corrupt(group: Group, context: Context) -> list[dict[str, Any]]:
    """A request to change the question of the baseline response, unless there is a worse one (`shown` too)."""
    baseline = _first(group, BETTER)
    if baseline is None or _first(group, WORSE):
        return []
    return [{"key": baseline["sample_id"], "response": visible(baseline)}]


def constructed_pair(group: Group) -> tuple[Sample, Sample] | str:
    """The better and the worse response to the prompt, or why nothing is known of them.

    A question that was not changed, or an answer that did not change with it, makes no worse response.
    """
    better, worse = _first(group, BETTER), _first(group, WORSE)
    if better is None or worse is None:
        return "no_corrupted_response" if better else "no_response"
    asked = next((m["content"] for m in reversed(group["messages"]) if m["role"] == "user"), "")
    if _same(changed_question(worse.get("thought") or "") or "", asked):
        return "unchanged_question"
    return "same_responses" if _same(visible(better), visible(worse)) else (better, worse)


def _first(group: Group, kinds: Collection[str]) -> Sample | None:
    return next(iter(distinct_samples(group, kinds)), None)


def _same(one: str, other: str) -> bool:
    return one.casefold().split() == other.casefold().split()
