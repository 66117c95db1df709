"""A recipe's steps played in this process: the product's stages and roles, with oracles in place of model pools."""

import asyncio
import random
import typing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from actors.engine import Completion, Engine, Request
from actors.protocols import PROTOCOLS, WINNER
from pipelines import stream
from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context, MetaJudgeStep, SampleStep, Step
from pipelines.records import Group, Sample, groups_table
from tests.oracles import BEST, CHAT, VERSION, Cast, JudgeOracle, PolicyOracle, Truth

ROOM = 10**6  # characters an oracle can read


class Direct:
    """What a role asks instead of a pool: one engine, at once."""

    model = "oracle"

    def __init__(self, engine: Engine):
        self.engine = engine

    async def generate(self, request: Request, version: str | None = None) -> list[Completion]:
        return await self.engine.generate(request)

    async def score(
        self, prompt_ids: list[int], responses: list[list[int]], version: str | None = None
    ) -> tuple[list[list[float]], str]:
        return await self.engine.score(prompt_ids, responses), VERSION


class ClaimsOracle:
    """Splits critiques at their lines, and takes three claims in four for true, by the request's seed."""

    async def generate(self, request: Request) -> list[Completion]:
        asked = CHAT.decode(request.prompt_ids)
        said = "I miss nothing here."
        if "<claim>" in asked:
            said = f"The claim is {'true' if random.Random(request.seed).random() < 0.75 else 'false'}"
        elif "<critique>" in asked:
            lines = asked.rpartition("<critique>\n")[2].partition("\n</critique>")[0].splitlines()
            said = "\n".join(f"- {line.strip('- ')}" for line in lines if line.strip("- "))
        return [Completion(0, said, CHAT.turn(said), "stop", request.seed, VERSION)]


def engine_of(step: Step, truth: Truth, cast: Cast) -> Engine:
    """The oracle that plays the role of a step."""
    if isinstance(step, SampleStep):
        return PolicyOracle(step, truth, cast)
    if isinstance(step, MetaJudgeStep) and step.by == "claims":
        return typing.cast(Engine, ClaimsOracle())
    if isinstance(step, MetaJudgeStep):
        return JudgeOracle(step, truth, cast, WINNER, 2, cast.meta_judge)
    protocol = PROTOCOLS[step.protocol]
    return JudgeOracle(step, truth, cast, protocol.verdict, protocol.responses, cast.judge)


async def run_step(step: Step, groups: list[Group], truth: Truth, cast: Cast, context: Context) -> list[Group]:
    """The groups after one of the product's stages, each worked on as a batch of its own."""
    settings = SimpleNamespace(models={Direct.model: SimpleNamespace(max_model_len=ROOM)})
    connected = (Direct(engine_of(step, truth, cast)), CHAT, VERSION, settings)
    with patch.object(stream, "_connect", lambda *_: connected):
        stage = stream.RoleStage("oracles", {}, {}, step, context)
    batches = await asyncio.gather(*(stage(groups_table([group])) for group in groups))
    return [group for batch in batches for group in batch.to_pylist()]


@dataclass(frozen=True)
class Played:
    """An iteration of a recipe as the oracles played it, before anything was read."""

    groups: list[Group]
    truth: Truth


def play(name: str, rows: list[Group], cast: Cast, iteration: int = 0, seed: int = 0, **settings: Any) -> Played:
    """Run the steps of a recipe over the groups of an iteration; `settings` are the method's."""
    recipe, context = get_recipe(name), Context(seed, name, iteration)
    truth = Truth(rows)
    for group in rows:
        for sample in group["samples"]:
            truth.note(truth.answers, group, sample["text"], planted_quality(group, sample))

    async def run() -> list[Group]:
        groups = [Group(**{**group, "iteration": iteration}) for group in rows]
        for step in recipe.steps(recipe.settings(**settings), iteration):
            groups = await run_step(step, groups, truth, cast, context)
        return groups

    return Played(asyncio.run(run()), truth)


def planted_quality(group: Group, sample: Sample) -> float:
    """How good a text of a row is: what the row's label says of it."""
    given = [s["sample_id"] for s in group["samples"] if s["kind"] == "given"]
    gold = group["gold"] or ""
    if sample["kind"] in ("chosen", "rejected"):
        return 4.0 if sample["kind"] == "chosen" else 1.5
    if len(given) == 2 and gold.upper() in ("A", "B"):
        return 4.0 if given.index(sample["sample_id"]) == "AB".index(gold.upper()) else 1.5
    if gold.isdecimal():
        return (int(gold) - 1) / (4 if int(gold) <= 5 else 9) * BEST  # scales from 1 to 5 and to 10
    return {"yes": 4.0, "no": 1.5}.get(gold.lower(), BEST / 2)
