"""What deserves a second look in a run, from its numbers and events. Pure; each threshold is named once, here."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipelines.reporting.numbers import growth

MANY = 30  # observations below which a rate says little
UNREADABLE = (0.1, 0.5)  # share of judgements: worth a look, serious
DROPPED = (0.5, 0.9)  # share of prompts without a pair
TRUNCATED = 0.1
FLIPPED = 0.4
PLACE_BIAS = 0.15  # distance of the first position's rate from a half
LENGTH_CORRELATION = 0.5
CHOSEN_LONGER = 1.3  # mean characters of chosen over rejected
GROWTH = 1.5  # of the mean length over the run
AT_THE_TOP = 0.8  # share of scores that are the highest one


class Problem(NamedTuple):
    """One finding. `iteration` is None for the whole run; `serious` ones make what follows from the run doubtful."""

    iteration: int | None
    serious: bool
    title: str
    detail: str


def find_problems(
    iterations: Sequence[dict[str, Any]], scores: dict[str, Any] | None, events: Sequence[dict[str, Any]]
) -> list[Problem]:
    """Every finding, serious ones first, then by iteration. `scores` is their distribution over the run."""
    found = [*_of_events(events), *_of_run(iterations)]
    for place, numbers in enumerate(iterations):
        made = [*_of_judge(numbers), *_of_samples(numbers), *_of_pairs(numbers), *_of_training(numbers)]
        made += _of_update(numbers)
        if scores:
            made += _of_scores(scores, place)
        found += [Problem(numbers["iteration"], *finding) for finding in made]
    return sorted(found, key=lambda p: (not p.serious, -1 if p.iteration is None else p.iteration))


Finding = tuple[bool, str, str]


def _of_judge(n: dict[str, Any]) -> Iterator[Finding]:
    for name, health in (("judgements", n["judge"]), ("meta-judgements", n["meta_judge"])):
        total, statuses = health["total"], health["statuses"]
        unreadable = total - statuses["ok"]
        if total and unreadable / total >= UNREADABLE[0]:
            worst = max((s for s in statuses if s != "ok"), key=lambda s: statuses[s])
            yield (
                unreadable / total >= UNREADABLE[1], f"{unreadable / total:.0%} of {name} cannot be read",
                f"{unreadable:,} of {total:,} are abstentions, most of them {worst}. Longer max_tokens help truncated "
                "ones, method.structured=true those without a verdict.",
            )
        first, decided = health["first_position_rate"], health["decided"]
        if first is not None and decided >= MANY and abs(first - 0.5) >= PLACE_BIAS:
            yield (
                False, f"{name.capitalize()} favour a position",
                f"What was shown first wins {first:.0%} of {decided:,} decided comparisons.",
            )
    if n["both"] >= MANY and n["flips"] / n["both"] >= FLIPPED:
        yield (
            False, f"{n['flips'] / n['both']:.0%} of verdicts flip with the order",
            f"{n['flips']:,} of {n['both']:,} comparisons read in both orders.",
        )
    r, count = n["length_correlation"]["r"], n["length_correlation"]["n"]
    if r is not None and count >= MANY and abs(r) >= LENGTH_CORRELATION:
        yield (
            False, "Scores follow length",
            f"Within a prompt, score and length correlate with r = {r:+.2f} over {count:,} samples.",
        )


def _of_samples(n: dict[str, Any]) -> Iterator[Finding]:
    if n["samples"] and n["truncated"] / n["samples"] >= TRUNCATED:
        yield (
            False, f"{n['truncated'] / n['samples']:.0%} of samples are cut off",
            f"{n['truncated']:,} of {n['samples']:,} reached method.samples.max_tokens.",
        )


def _of_scores(scores: dict[str, Any], place: int) -> Iterator[Finding]:
    if not scores["values"] or scores["n"][place] < MANY or len(scores["edges"]) < 3:
        return
    share = scores["counts"][place][-1] / scores["n"][place]
    if share >= AT_THE_TOP:
        yield (
            False, f"{share:.0%} of scores are the highest",
            f"The judge gives {scores['edges'][-1]:g} to nearly everything, so few samples can be told apart.",
        )


def _of_pairs(n: dict[str, Any]) -> Iterator[Finding]:
    selected = n["dropped"] or n["pairs"] or n["summary"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in n["dropped"].items())
    dropped = sum(n["dropped"].values())
    if n["groups"] and selected and not n["pairs"]:
        yield True, "No pair was made", f"The weights stay as they are. Dropped: {reasons or 'none'}."
    elif n["groups"] and dropped / n["groups"] >= DROPPED[0]:
        yield (
            dropped / n["groups"] >= DROPPED[1], f"{dropped / n['groups']:.0%} of prompts made no pair",
            f"{dropped:,} of {n['groups']:,}: {reasons}.",
        )
    for kind, shape in n["shapes"].items():
        chosen, rejected = shape["chosen_chars_mean"], shape["rejected_chars_mean"]
        if chosen and rejected and n["pairs"].get(kind, 0) >= MANY and chosen / rejected >= CHOSEN_LONGER:
            yield (
                False, f"Chosen {kind} texts are {chosen / rejected:.1f} times as long",
                f"{chosen:,.0f} characters on average against {rejected:,.0f} of rejected ones.",
            )


def _of_training(n: dict[str, Any]) -> Iterator[Finding]:
    training = n["training"]
    if training["skipped"]:
        ids = [step["pair_ids"] for step in training["skipped"] if step["pair_ids"]]
        yield (
            True, f"{len(training['skipped'])} steps were not finite and not taken",
            f"Steps {', '.join(str(step['step']) for step in training['skipped'][:10])}; pairs {'; '.join(ids)[:300]}.",
        )
    for record in training["left_out"]:
        yield False, f"{record['count']:,} pairs were not trained on", f"They are {record['reason']}."
    for message in training["errors"]:
        yield True, "Training reported an error", message[:500]
    curve = training["curves"].get("dpo_loss") or training["curves"].get("loss") or []
    if len(curve) > 3 and curve[-1][1] >= curve[0][1]:
        yield False, "The loss did not fall", f"{curve[0][1]:.4f} at the first step, {curve[-1][1]:.4f} at the last."


def _of_update(n: dict[str, Any]) -> Iterator[Finding]:
    for when, mark in (("before", n["summary"]), ("after", n["sync"])):
        reply = (mark or {}).get(f"judge_{when}")
        if reply and "error" in reply:
            yield False, f"The live judge did not answer {when} the update", str(reply["error"])[:300]


def _of_run(iterations: Sequence[dict[str, Any]]) -> Iterator[Problem]:
    rate = growth([n["mean_words"] for n in iterations])
    if rate is not None and rate >= GROWTH:
        yield Problem(
            None, False, f"Samples grew {rate:.1f} times as long",
            "Mean words, last iteration over first. Where quality did not grow with it, the judge rewards length.",
        )


def _of_events(events: Sequence[dict[str, Any]]) -> Iterator[Problem]:
    resumed_at = max((i for i, e in enumerate(events) if e["kind"] == "stage_started"), default=-1)
    for place, event in enumerate(events):
        if event["kind"] == "failed":
            over = place < resumed_at
            yield Problem(None, not over, "The run failed" + (" and was resumed" if over else ""), event["error"][:800])
        if event["kind"] == "bad_rows":
            rows = "; ".join(event["rows"][:3])
            yield Problem(None, False, f"{event['count']:,} rows of the data were left out", rows[:600])
