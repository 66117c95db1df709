"""What is kept of a group when its texts are left behind: enough for every number and for the list of prompts. Pure."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from actors.votes import majorities, positions
from pipelines.records import Group
from pipelines.steps.accounting import accounting
from pipelines.steps.judgements import sample_scores
from pipelines.steps.parts import visible

HEAD_CHARS = 600  # of a prompt, which the list shows and searches


class SampleFacts(NamedTuple):
    """One sample that was made or given; `chars` of what judges see of it."""

    kind: str
    score: float | None
    words: int
    chars: int


@dataclass(frozen=True)
class GroupFacts:
    """One group. `counts` are sums, so those of an iteration are the sums of its groups'.

    samples, truncated, tokens (of samples and judgements); judgement.STATUS and meta.STATUS; compared, tied, decided,
    first, both, flips of comparisons of two samples; meta_tied, meta_decided, meta_first of the meta-judge's.
    """

    prompt_id: str
    iteration: int
    prompt: str
    dropped: str | None
    samples: tuple[SampleFacts, ...]
    elo: tuple[float, ...]
    counts: Counter[str]

    @property
    def scores(self) -> list[float]:
        """Of the samples that have one."""
        return [sample.score for sample in self.samples if sample.score is not None]


def group_facts(group: Group) -> GroupFacts:
    """The facts of one group, whether selection has filled its scores or not yet."""
    judged = sample_scores(group)
    samples = tuple(
        SampleFacts(
            s["kind"], s["score"] if s.get("score") is not None else judged.get(s["sample_id"]), s["n_words"],
            len(visible(s)),
        )
        for s in group["samples"]
    )
    last = [m["content"] for m in group["messages"] if m["role"] == "user"] or [m["content"] for m in group["messages"]]
    return GroupFacts(
        group["prompt_id"], group["iteration"], (last[-1] if last else "")[:HEAD_CHARS], group["dropped"], samples,
        tuple(elo for j in group["judgements"] if (elo := j.get("elo")) is not None), _counts(group),
    )


def _counts(group: Group) -> Counter[str]:
    samples, judgements, metas = group["samples"], group["judgements"], group["meta_judgements"]
    counts: Counter[str] = Counter(samples=len(samples))
    counts["truncated"] = sum(s["finish_reason"] == "length" for s in samples)
    counts["tokens"] = sum(len(r["token_ids"]) for r in (*samples, *judgements))
    counts.update(f"judgement.{j['status']}" for j in judgements)
    counts.update(f"meta.{m['status']}" for m in metas)
    compared = [(j.get("verdict"), j["order"]) for j in judgements if j["status"] == "ok" and len(j["sample_ids"]) == 2]
    both = majorities(judgements)
    counts.update(compared=len(compared), both=len(both), flips=sum(first != second for first, second in both))
    _count_places(counts, "", compared)
    _count_places(counts, "meta_", [(m.get("winner"), m["order"]) for m in metas if m["status"] == "ok"])
    return counts


def _count_places(counts: Counter[str], name: str, verdicts: list[tuple[str | None, int]]) -> None:
    """Ties, verdicts for one side, and those of them for what was shown first."""
    found = positions(verdicts)
    decided = sum(winner in ("A", "B") for winner, _ in verdicts)
    counts[f"{name}tied"] += found["ties"]
    counts[f"{name}decided"] += decided
    counts[f"{name}first"] += round((found["first_position_rate"] or 0.0) * decided)


def pair_shapes(pairs: pa.Table) -> dict[str, Any]:
    """By kind: mean characters of both sides, mean and histogram of the margins (steps.accounting)."""
    wanted = ["kind", "chosen_text", "rejected_text", "rejected_from", "chosen_score", "rejected_score"]
    rows: list[Any] = pairs.select(wanted).to_pylist()
    return accounting([], rows)["by_kind"]
