"""Planted records for tests: groups as plain data, and the oracle actors that write their texts (no model anywhere)."""

import hashlib
import json
from typing import Any, cast

from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context
from pipelines.records import Group, Judgement, MetaJudgement, Pair, Sample
from pipelines.steps.meta import meta_judge_pairs


def sample(name: str, text: str, index: int = 0, **other: Any) -> Sample:
    fields: dict[str, Any] = {
        "sample_id": name,
        "index": index,
        "kind": "sample",
        "text": text,
        "thought": None,
        "answer": None,
        "token_ids": [len(text), 7],
        "finish_reason": "stop",
        "n_chars": len(text),
        "n_words": len(text.split()),
        "n_tokens": 2,
        "seed": 1,
        "weight_version": "v0",
        "score": None,
        "votes": None,
    }
    return cast(Sample, {**fields, **other})


def judgement(name: str, sample_id: str, text: str, index: int = 0, **other: Any) -> Judgement:
    fields: dict[str, Any] = {
        "judgement_id": name,
        "sample_ids": [sample_id],
        "order": 0,
        "index": index,
        "text": text,
        "token_ids": [len(text), 9],
        "value": None,
        "verdict": None,
        "status": "missing",
        "seed": 1,
        "weight_version": "v0",
        "prompt_hash": "h",
        "elo": None,
    }
    return cast(Judgement, {**fields, **other})


def meta(a: str, b: str, order: int, text: str, **other: Any) -> MetaJudgement:
    fields: dict[str, Any] = {
        "meta_id": f"{a}|{b}|{order}",
        "judgement_a": a,
        "judgement_b": b,
        "order": order,
        "text": text,
        "winner": None,
        "status": "missing",
        "seed": 1,
        "weight_version": "v0",
        "prompt_hash": "h",
    }
    return cast(MetaJudgement, {**fields, **other})


def group(prompt_id: str = "p", gold: str | None = None, **other: Any) -> Group:
    fields: dict[str, Any] = {
        "prompt_id": prompt_id,
        "iteration": 0,
        "messages": [{"role": "user", "content": f"Question {prompt_id}?"}],
        "gold": gold,
        "meta": "{}",
        "samples": [],
        "judgements": [],
        "meta_judgements": [],
        "dropped": None,
    }
    return cast(Group, {**fields, **other})


def judged_group(texts: dict[str, tuple[str, list[str]]], prompt_id: str = "p", **other: Any) -> Group:
    """A group from {sample id: (response, its judgements' texts)}."""
    samples = [sample(name, text, i) for i, (name, (text, _)) in enumerate(texts.items())]
    judgements = [
        judgement(f"{name}-j{i}", name, text, i) for name, (_, said) in texts.items() for i, text in enumerate(said)
    ]
    return group(prompt_id, samples=samples, judgements=judgements, **other)


def with_meta_judge(group: Group, says: Any, iteration: int = 0, seed: int = 0) -> Group:
    """The group after the meta-judge stage: `says(first, second)` writes the reply to two judgements as shown."""
    context = Context(seed, "meta_rewarding", iteration)
    recipe = get_recipe("meta_rewarding")
    read = recipe.read(group, recipe.settings(), context)
    replies = [
        meta(a["judgement_id"], b["judgement_id"], order, says(*((b, a) if order else (a, b))))
        for a, b in meta_judge_pairs(read, context)
        for order in (0, 1)
    ]
    return {**group, "meta_judgements": replies}


def run_recipe(
    name: str, groups: list[Group], iteration: int = 0, seed: int = 0, **settings: Any
) -> tuple[list[Group], list[Pair]]:
    """Read, count and select, as a run does."""
    recipe = get_recipe(name)
    chosen, context = recipe.settings(**settings), Context(seed, name, iteration)
    read = [recipe.read(g, chosen, context) for g in groups]
    statistics = recipe.statistics(iter(read), chosen, context)
    made = [recipe.select(g, statistics, chosen, context) for g in read]
    return [g for g, _ in made], [p for _, pairs in made for p in pairs]


def noise(*parts: Any) -> float:
    """A repeatable number in [0, 1) from anything."""
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12], 16) / 16**12


def rule_judge(quality: float, spread: float, *who: Any) -> str:
    """A judge that gives planted quality plus noise, in half points on the 0-5 scale."""
    said = min(5.0, max(0.0, round(2 * (quality + spread * (2 * noise("judge", *who) - 1))) / 2))
    return f"The response earns its points. ({who})\nScore: {said:g}"


def shown_score(judgement: Any) -> float:
    return float(judgement["text"].rsplit(" ", 1)[1])


def prefers_high(first: Any, second: Any) -> str:
    a, b = shown_score(first), shown_score(second)
    return "Winner: tie" if a == b else f"Winner: {'A' if a > b else 'B'}"


def likes_place(first: Any, second: Any) -> str:
    """Mostly sincere, sometimes for a place, so that both positions win somewhere."""
    place = noise("place", first["text"], second["text"])
    return "Winner: A" if place < 0.2 else "Winner: B" if place < 0.3 else prefers_high(first, second)


def planted_iteration(prompts: int = 12) -> list[Group]:
    """Five responses with planted quality, five noisy judgements each, and a sincere meta-judge with a slight bias."""
    groups = []
    for p in range(prompts):
        texts = {
            f"{p}-y{i}": (
                f"response {i} of {p}" + " word" * i,
                [rule_judge(1 + 0.7 * i, 1.5, p, i, j) for j in range(5)],
            )
            for i in range(5)
        }
        groups.append(with_meta_judge(judged_group(texts, f"p{p}"), likes_place))
    return groups
