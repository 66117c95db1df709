"""A run folder as the report and the live page read it: numbers, the list of prompts, and groups by part.

What was read of a part is kept as facts until the part is replaced, so looking again costs only what is new.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines.config import ConfigError, load_dump, training_at
from pipelines.ledger import Ledger
from pipelines.records import Group
from pipelines.reporting.facts import GroupFacts, group_facts, pair_shapes
from pipelines.reporting.lineage import group_detail, pair_rows, rule, steps_of_pairs
from pipelines.reporting.numbers import distributions, iteration_numbers
from pipelines.reporting.problems import find_problems
from pipelines.reporting.timeline import costs, stages, state, updates
from pipelines.training.alone import is_training, load_train
from pipelines.training.config import TrainingConfig

MARKS = ("prompts", "groups", "pairs", "train", "sync")


def training_of(config: dict[str, Any], iteration: int) -> tuple[TrainingConfig | None, int]:
    """The trainer's settings in an iteration, and the seed; None where the configuration is of another version."""
    try:
        if is_training(config):
            alone = load_train(config)
            return alone.training, alone.seed
        run = load_dump(config)
        return training_at(run, iteration), run.seed
    except (ConfigError, KeyError, ValueError):
        return None, 0


class IterationPairs:
    """The pairs of an iteration, without token ids: rows by prompt, kinds, and shapes by kind."""

    def __init__(self, ledger: Ledger, iteration: int, config: TrainingConfig | None, seed: int):
        table = ledger.read_pairs(iteration)
        steps = steps_of_pairs(table, config, seed) if config else {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for row in pair_rows(table, steps):
            self.rows.setdefault(row["prompt_id"], []).append(row)
        self.kinds = Counter(row["kind"] for rows in self.rows.values() for row in rows)
        self.shapes = pair_shapes(table)


class RunView:
    """What a run folder holds now. `refresh` looks again; not for several threads at a time."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.config = ledger.read_config()
        self.manifest = ledger.read_manifest()
        self._facts: dict[tuple[int, str], tuple[str, list[GroupFacts]]] = {}
        self._pairs: dict[int, IterationPairs] = {}
        self.places: dict[tuple[int, str], str] = {}  # (iteration, prompt id) -> part

    def refresh(self) -> None:
        """Read the parts that are new or replaced, and the pairs of iterations that have them since."""
        self.places = {}
        there = set()
        for iteration in self.ledger.iterations():
            for part, stamp in self.ledger.group_parts(iteration).items():
                there.add((iteration, part))
                known = self._facts.get((iteration, part))
                if known is None or known[0] != stamp:
                    groups = self.ledger.read_groups(iteration, part)
                    known = self._facts[iteration, part] = (stamp, [group_facts(group) for group in groups])
                for fact in known[1]:
                    self.places.setdefault((iteration, fact.prompt_id), part)
            if iteration not in self._pairs and self.ledger.done(iteration, "pairs"):
                config, seed = training_of(self.config, iteration)
                self._pairs[iteration] = IterationPairs(self.ledger, iteration, config, seed)
        for gone in self._facts.keys() - there:
            del self._facts[gone]

    def facts(self, iteration: int) -> list[GroupFacts]:
        """Of every prompt of the iteration once, in the ledger's order."""
        return [
            fact for (t, part), (_, facts) in sorted(self._facts.items()) if t == iteration
            for fact in facts if self.places[iteration, fact.prompt_id] == part
        ]

    def details(self, iteration: int, part: str) -> Iterator[dict[str, Any]]:
        """The groups of a part with their pairs, as the page shows them."""
        pairs = self._pairs[iteration].rows if iteration in self._pairs else {}
        groups: list[Group] = self.ledger.read_groups(iteration, part)
        for group in groups:
            if self.places.get((iteration, group["prompt_id"])) == part:
                yield group_detail(group, pairs.get(group["prompt_id"], []))

    def detail(self, iteration: int, prompt_id: str) -> dict[str, Any]:
        """One group with its pairs."""
        found = self.details(iteration, self.places[iteration, prompt_id])
        return next(detail for detail in found if detail["prompt_id"] == prompt_id)

    def pairs(self, iteration: int) -> dict[str, list[dict[str, Any]]]:
        """Rows by prompt."""
        return self._pairs[iteration].rows if iteration in self._pairs else {}

    def parts(self) -> list[tuple[int, str]]:
        """Iteration and name of every part that was read."""
        return sorted(self._facts)

    def summary(self) -> dict[str, Any]:
        """Every number of the page, plain JSON."""
        events, iterations, facts = self.ledger.events(), [], []
        for iteration in self.ledger.iterations():
            marks = {name: self.ledger.done(iteration, name) for name in MARKS}
            pairs = self._pairs.get(iteration)
            facts.append(self.facts(iteration))
            iterations.append(iteration_numbers(
                iteration, facts[-1], pairs.shapes if pairs else {}, pairs.kinds if pairs else Counter(),
                self.ledger.read_metrics(iteration), marks,
            ))
        attempts = stages(events)
        spread = distributions(facts)
        return {
            "run": self._identity(events, iterations),
            "iterations": iterations,
            "distributions": spread,
            "stages": attempts,
            "costs": costs(attempts),
            "updates": updates(events),
            "problems": [p._asdict() for p in find_problems(iterations, spread["scores"], events)],
            "templates": {hashed: name for name, hashed in self.manifest.get("templates", {}).items()},
        }

    def _identity(self, events: list[dict[str, Any]], iterations: list[dict[str, Any]]) -> dict[str, Any]:
        finished = self.ledger.finished()
        synced = [n["sync"]["version"] for n in iterations if n["sync"]]
        recipe = self.config.get("recipe")
        return {
            "name": self.ledger.path.partition("?")[0].rstrip("/").rsplit("/", 1)[-1],
            "path": self.ledger.path,
            "recipe": recipe,
            "rule": rule(recipe),
            "model": self.config.get("model"),
            "planned_iterations": self.config.get("iterations", 1),
            "state": state(events, finished is not None, self.ledger.driven()),
            "started": events[0]["time"] if events else None,
            "last_event": finished["time"] if finished else events[-1]["time"] if events else None,
            "version": synced[-1] if synced else "v0",
            "config": self.config,
            "manifest": {key: value for key, value in self.manifest.items() if key != "templates"},
        }

    def index(self, chunk_of: dict[tuple[int, str], int | str] | None = None) -> dict[str, list[Any]]:
        """The list of all prompts as columns: id, iteration, prompt, dropped, kinds of pairs, counts and scores.

        `chunk` names where a group's detail is found: its part, or what `chunk_of` has for (iteration, prompt id).
        """
        columns: dict[str, list[Any]] = {name: [] for name in INDEX}
        for iteration in self.ledger.iterations():
            pairs = self.pairs(iteration)
            for fact in self.facts(iteration):
                key = (iteration, fact.prompt_id)
                judged = sum(count for name, count in fact.counts.items() if name.startswith("judgement."))
                scores = fact.scores
                row = (
                    fact.prompt_id, iteration, fact.prompt, fact.dropped,
                    sorted({pair["kind"] for pair in pairs.get(fact.prompt_id, [])}), len(fact.samples), judged,
                    judged - fact.counts["judgement.ok"], _short(max(scores, default=None)),
                    _short(min(scores, default=None)),
                    self.places[key] if chunk_of is None else chunk_of.get(key),
                )
                for name, value in zip(INDEX, row, strict=True):
                    columns[name].append(value)
        return columns


INDEX = ("id", "iteration", "prompt", "dropped", "kinds", "samples", "judged", "unreadable", "best", "worst", "chunk")


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
