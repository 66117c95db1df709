"""Run folders for the report's tests: planted iterations, selected by the recipe, committed by the ledger."""

import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.config import dump, resolve
from pipelines.ledger import Ledger
from pipelines.records import Group, Pair
from tests.pipelines.planted import judged_group, likes_place, noise, rule_judge, run_recipe, with_meta_judge

TOPICS = (
    "how bees find their way home", "why bread rises", "what a mortgage is", "the rules of chess", "how vaccines work",
    "the water cycle", "what inflation does", "how to plan a small garden", "why the sky is blue",
    "how a bicycle stays up",
)
OPENINGS = ("Let me explain", "In short", "Think of it this way", "There are three things", "Most people wonder")
WORDS = re.findall(r"\w+", """
    the first step is small and easy to see while later ones follow from it because each part depends on what came
    before so it helps to go slowly look closely and ask what would change if one thing were different
""")


def plant(number: int, iteration: int, samples: int = 4, votes: int = 3) -> Group:
    """A judged and meta-judged group with planted quality; a tenth of the judgements cannot be read."""
    texts = {}
    for i in range(samples):
        key = (number, iteration, i)
        quality = 1.2 + 0.5 * iteration + 2.4 * noise("quality", *key)
        length = int(25 + 15 * iteration + 60 * noise("length", *key))
        body = " ".join(WORDS[int(noise("word", *key, n) * len(WORDS))] for n in range(length))
        said = [
            "I am not sure about this one." if noise("mute", *key, j) < 0.1 else rule_judge(quality, 1.3, *key, j)
            for j in range(votes)
        ]
        texts[f"y{iteration}-{number}-{i}"] = (f"{OPENINGS[i % 5]}: {body}.", said)
    topic = TOPICS[number % len(TOPICS)]
    asked = [{"role": "user", "content": f"Explain {topic} to somebody who is {number % 60 + 5} years old. ({number})"}]
    name = f"p{iteration}-{number:06d}"
    return with_meta_judge(judged_group(texts, name, iteration=iteration, messages=asked), likes_place, iteration)


def planted_run(folder: Path, iterations: int = 3, prompts: int = 30, steps: int = 24) -> Ledger:
    """A finished Meta-Rewarding run whose groups and pairs are the recipe's own selection from planted texts."""
    ledger = start_run(folder, "meta_rewarding", f"iterations={iterations}")
    clock = Clock(ledger)
    for t in range(iterations):
        raw = [plant(n, t) for n in range(prompts)]
        selected, pairs = run_recipe("meta_rewarding", raw, t)
        commit(ledger, t, selected, pairs)
        clock.stage(t, "groups", 300 + 60 * t, groups=prompts, already_there=0, tokens=40_000 + 9000 * t)
        clock.stage(t, "pairs", 45, pairs=len(pairs))
        for step in range(steps):
            ledger.append_metrics(t, step_metrics(t, step, steps))
        reply = {"weight_version": f"v{t}", "scores": [2.5], "readable": 3, "votes": 3, "text": "Clear.\nScore: 2.5"}
        clock.stage(t, "train", 420, steps=steps, seconds=400.0, tokens_per_s=210.0, judge_before=reply)
        models = {"actor": {"replicas": 1, "prepare_s": 0.4 + 0.1 * t, "load_s": 1.2}}
        after = {**reply, "weight_version": f"v{t + 1}"}
        clock.stage(t, "sync", 3, version=f"v{t + 1}", models=models, judge_after=after)
    ledger.mark_finished({"run": ledger.path, "recipe": "meta_rewarding", "iterations": []})
    return ledger


def start_run(folder: Path, recipe: str, *words: str) -> Ledger:
    """An empty run with the recipe's settings."""
    config = dump(resolve(recipe, ["prompts=p.jsonl", "model=tiny", *words], "cpu"))
    manifest = {"recipe": recipe, "seed": 0, "templates": {"judge_additive": "h"}, "packages": {"ray": "2.60.0"}}
    return Ledger.create(str(folder), f"{recipe}-run", config, manifest)


def commit(ledger: Ledger, iteration: int, groups: list[Group], pairs: list[Pair], part: int = 16) -> None:
    """Groups in parts, and pairs with prompt ids, as a run leaves them."""
    for i in range(0, len(groups), part):
        ledger.commit_groups(iteration, groups[i : i + part])
    scored = [Pair(**{**pair, "prompt_ids": [1, 2, 3], "ref_version": f"v{iteration}"}) for pair in pairs]
    ledger.commit_pairs(iteration, scored, "all")


def step_metrics(iteration: int, step: int, steps: int) -> dict[str, Any]:
    """One training step that goes well."""
    done = (step + 1) / steps
    margin = 0.8 * done * (1 + 0.2 * math.sin(5 * step))
    return {
        "step": step, "loss": 0.693 - 0.2 * done + 0.02 * math.sin(7 * step), "dpo_loss": 0.693 - 0.2 * done,
        "accuracy": 0.5 + 0.4 * done, "margin": margin, "reward_chosen": 0.6 * margin, "reward_rejected": -0.4 * margin,
        "grad_norm": 4.0 - done, "learning_rate": 5e-6, "skipped": 0.0, "seconds": 16.0, "tokens": 3400.0,
        "tokens_per_s": 212.5, "peak_memory_gib": 2.5 + 0.1 * iteration,
    }


class Clock:
    """Writes a run's marks, and events at planted times."""

    def __init__(self, ledger: Ledger, start: str = "2026-11-22T08:00:00"):
        self.ledger, self.now = ledger, 0.0
        self.start = start

    def event(self, kind: str, **fields: Any) -> None:
        """An event at the clock's time."""
        time = datetime.fromisoformat(self.start + "+00:00") + timedelta(seconds=self.now)
        record = {"time": time.isoformat(timespec="milliseconds"), "kind": kind, **fields}
        self.ledger._folder.append("events.jsonl", record)

    def stage(self, iteration: int, stage: str, took_s: float, /, **info: Any) -> None:
        """A stage that takes so long and says so much."""
        self.event("stage_started", iteration=iteration, stage=stage)
        self.now += took_s
        self.ledger.mark(iteration, stage, info)
        self.event("stage_done", iteration=iteration, stage=stage, **info)
