"""How good checkpoints are on held-out rows: problems to answer, or two answers to judge whose label is known.

    python -m benchmarks.evaluation REQUEST.json RESULT.json

Prompts, protocols and lengths are those of the recipe's own steps, and one engine takes the checkpoints one after the
other, as a run's engines do. It runs in a process of its own, so that nothing of an engine stays with its caller.
"""

import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from actors.protocols import PROTOCOLS
from benchmarks.scoring import judge_numbers, majority, mean, strict_number
from pipelines import prompts
from pipelines.config import ModelConfig, RunConfig, Sampling, dump
from pipelines.records import Group, Message, digest, new_group

ROOT = Path(__file__).resolve().parents[1]
GREEDY = Sampling(n=1, temperature=0.0)
VOTES = Sampling(n=8, temperature=0.8)
COLUMNS = ("prompt", "gold", "response_a", "response_b", "label")
SHOWN = 3  # texts of each evaluation that are kept to be read


async def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Numbers of each of the `checkpoints` (name to folder) of a request made by `request_of`."""
    from actors.local import local_speaker
    from pipelines.recipes import get_recipe

    recipe = get_recipe(request["recipe"])
    steps = recipe.steps(recipe.settings.model_validate(request["method"]), 0)
    model, folders = ModelConfig.model_validate(request["model"]), list(request["checkpoints"].values())
    if not folders:
        return {}
    groups = [group_of(row) for row in request["rows"]]
    found = {}
    async with local_speaker(folders[0], model) as speaker:
        for name, folder in request["checkpoints"].items():
            if folder != folders[0]:
                await cast(Any, speaker.client).engine.load_weights(folder)
            if "label" in request["rows"][0]:
                found[name] = await judge(speaker, steps, groups, request["rows"])
            else:
                found[name] = await answer(speaker, steps, groups, request["lead"], request["vote"])
    return found


def group_of(row: dict[str, str]) -> Group:
    """A row as the group that a run would make of it."""
    messages = [Message(role="user", content=row["prompt"])]
    return new_group(messages, gold=row.get("gold"), meta={k: v for k, v in row.items() if k not in COLUMNS})


async def answer(speaker: Any, steps: list[Any], groups: list[Group], lead: str, vote: bool) -> dict[str, Any]:
    """Greedy accuracy, majority of 8, and the share of greedy answers whose last line has the form asked for."""
    from pipelines.evaluation.asking import ask_all
    from pipelines.recipes.base import SampleStep
    from pipelines.steps.answers import extract_answer, same_answer
    from pipelines.steps.render import prompt_messages

    step = next(s for s in steps if isinstance(s, SampleStep))
    asked = [prompt_messages(group, step.template) for group in groups]
    gold = [int(group["gold"] or "") for group in groups]

    async def texts(sampling: Sampling) -> list[list[str]]:
        sampling = sampling.model_copy(update={"max_tokens": step.sampling.max_tokens})
        replies = await ask_all(speaker, asked, sampling)
        return [[completion.text for completion in reply] or [""] for reply in replies]  # no room for an answer: none

    def right(numbers: list[int | None]) -> list[float]:
        return [float(number == g) for number, g in zip(numbers, gold, strict=True)]

    first = [text for (text,) in await texts(GREEDY)]
    numbers = [strict_number(text, lead) for text in first]
    loose = [(extract_answer(text), str(g)) for text, g in zip(first, gold, strict=True)]
    found: dict[str, Any] = {
        "greedy": mean(right(numbers)),
        "format": mean([float(number is not None) for number in numbers]),
        "greedy_any_format": mean([float(a is not None and same_answer(a, g)) for a, g in loose]),
        "points": right(numbers),
        "examples": first[:SHOWN],
    }
    if vote:
        voted = [majority([strict_number(text, lead) for text in several]) for several in await texts(VOTES)]
        found["majority_of_8"] = mean(right(voted))
    return found


async def judge(speaker: Any, steps: list[Any], groups: list[Group], rows: list[dict[str, str]]) -> dict[str, Any]:
    """Greedy judgements by the protocol of the recipe's judge, each two answers in both orders, or each one scored.

    Rows that leave the model no room for a judgement are left out and counted.
    """
    from actors.judge import Judge
    from actors.votes import votes_of
    from pipelines.evaluation.judges.comparisons import Comparison
    from pipelines.evaluation.judges.judged import Judged, judge_pair, sample_ids
    from pipelines.recipes.base import Context, JudgeStep

    recipes = next(s for s in steps if isinstance(s, JudgeStep))
    sampling = recipes.sampling.model_copy(update={"n": 1, "temperature": 0.0, "top_p": 1.0})
    step = JudgeStep(recipes.protocol, sampling, recipes.template, recipes.structured)
    pointwise = PROTOCOLS[step.protocol].responses == 1

    async def ask(number: int, group: Group, row: dict[str, str]) -> tuple[Judged, str] | None:
        own = Group(**{**group, "prompt_id": digest(group["prompt_id"], number)[:24]})  # a prompt may come twice
        made = Comparison(number, row["prompt"], row["response_a"], row["response_b"], row["label"])
        texts = (made.response_a, made.response_b)
        said = await judge_pair(Judge(speaker), own, texts, step, Context(0, "bench", 0), "")
        if isinstance(said, str):
            return None
        return Judged(made, tuple(votes_of(said, step.protocol, sample_ids(own))), pointwise), said[0]["text"]

    replies = await together(ask(i, group, row) for i, (group, row) in enumerate(zip(groups, rows, strict=True)))
    read = [reply for reply in replies if reply]
    return {
        **judge_numbers(
            [(made.verdicts[0], made.verdicts[-1]) for made, _ in read], [made.comparison.label for made, _ in read],
            [made.comparison.longer for made, _ in read],
            tie=0.5 if pointwise else 0.0,  # scores cannot but be equal at times; a verdict need not
        ),
        "too_long": len(rows) - len(read),
        "examples": [text for _, text in read[:SHOWN]],
    }


async def together(work: Any) -> list[Any]:
    """Results in order; the engine batches what runs at once."""
    tasks: list[Coroutine[Any, Any, Any]] = list(work)
    return list(await asyncio.gather(*tasks))


def request_of(config: RunConfig, rows: list[dict[str, str]], lead: str = "", vote: bool = False) -> dict[str, Any]:
    """What `evaluate` takes but for `checkpoints`: all that decides what a checkpoint says to the rows.

    Rows have `gold`, and then `lead` stands before the number of an answer's last line, and the majority of 8 is asked
    for with `vote`; or they have `response_a`, `response_b` and `label` (A, B, tie).
    """
    return {"recipe": config.recipe, "method": dump(config)["method"], "lead": lead, "vote": vote, "rows": rows,
            "model": config.models[config.roles["policy"]].model_dump(mode="json"),
            "templates": {name: prompts.load(name).hash for name in prompts.names()}}


def ask(request: dict[str, Any], folder: Path, log: Path) -> dict[str, Any]:
    """`evaluate` in a process of its own; what was measured before is kept in the folder."""
    kept = folder / f"evaluation-{digest(request)[:16]}.json"
    if not kept.exists():
        asked = kept.with_suffix(".request")
        asked.write_text(json.dumps(request), encoding="utf-8")
        command(["benchmarks.evaluation", str(asked), str(kept)], log)
    return json.loads(kept.read_text("utf-8"))


def command(words: list[str], log: Path) -> None:
    """Run a module of this tree; what it prints goes to the log."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("APPELLATE_RUN", "RAY_"))}
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment | {"HF_HUB_OFFLINE": "1"},
                              stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}; see {log}\n{log.read_text('utf-8')[-2000:]}")


def start_folder(config: RunConfig) -> str:
    """The weights that a run starts from."""
    from actors.checkpoints import as_trained, resolve_model

    return as_trained(resolve_model(config.model))


def trained(iterations: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """The weight version after each iteration of a run's summary, and the folders of those that were trained."""
    versions: list[str] = []
    folders: dict[str, str] = {}
    for item in iterations:
        versions.append(versions[-1] if versions else "v0")
        if item["training"] and not item["training"].get("skipped"):
            versions[-1] = f"v{item['iteration'] + 1}"
            folders[versions[-1]] = item["checkpoint"]
    return versions, folders


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    return {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count()}


def write(target: Path, result: dict[str, Any]) -> None:
    """One result as a file that people read too."""
    target.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(asyncio.run(evaluate(json.loads(source.read_text())))))
