"""MetaCritique as Meta-Rewarding's meta-judge: the judgement whose claims hold and say enough is the chosen one."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from actors.speaker import Speaker
from pipelines import stream
from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context, MetaJudgeStep
from pipelines.records import Group, Judgement, groups_table, new_group
from pipelines.steps.make_prompts import given_sample
from tests.oracles import CHAT, VERSION
from tests.pipelines.evaluation.services.told import ROOM, tag
from tests.pipelines.evaluation.services.told import judging as told

FACTS = {"It names a fruit.", "It is one word.", "It is spelled right."}
JUDGEMENTS = {
    "right and whole": "It names a fruit. It is one word. It is spelled right. Score: 5",
    "right, but little": "It names a fruit. Score: 4",
    "half wrong": "It names a fruit. It is a verb. Score: 2",
    "wrong": "It is a verb. Score: 1",
}


def says(prompt: str, _: int) -> str:
    """A model that knows the facts, splits critiques at their sentences, and takes claims at their word."""
    if "<claim>" in prompt:
        claim = tag(prompt, "claim")
        right = claim in tag(prompt, "critique") if "<critique>" in prompt else claim in FACTS
        return f"I looked.\nThe claim is {'true' if right else 'false'}"
    if "Write a critique" in prompt:
        return " ".join(sorted(FACTS))
    if "<critique>" in prompt:
        claims = [f"{part.strip()}." for part in tag(prompt, "critique").split(".") if part.strip()]
        return "\n".join(f"- {claim}" for claim in claims if not claim.startswith("Score"))
    return "Apple."


def judged_group(texts: dict[str, str]) -> Group:
    group = new_group([{"role": "user", "content": "Name a fruit."}])
    sample = given_sample(group["prompt_id"], 0, "sample", "Apple")
    judgements = [
        Judgement(judgement_id=name, sample_ids=[sample["sample_id"]], order=0, index=i, text=text, token_ids=[1],
                  value=float(text[-1]), status="ok", seed=i, weight_version=VERSION, prompt_hash="h")
        for i, (name, text) in enumerate(texts.items())
    ]
    return Group(**{**group, "samples": [sample], "judgements": judgements})


def meta_judged(group: Group, context: Context) -> tuple[Group, list[str]]:
    """The group after the product's own stage, and what the model was asked."""
    recipe: Any = get_recipe("meta_rewarding")
    step = recipe.steps(recipe.settings(meta_judge="claims"), 0)[-1]
    assert isinstance(step, MetaJudgeStep) and step.by == "claims"
    judge, engine = told(says)
    client: Any = SimpleNamespace(model="m", generate=judge.speaker.client.generate)
    settings = SimpleNamespace(models={"m": SimpleNamespace(max_model_len=ROOM)})
    with patch.object(stream, "_connect", lambda *_: (client, CHAT, VERSION, settings)):
        stage = stream.RoleStage("run", {}, {}, step, context)
    assert isinstance(stage._speaker, Speaker)
    (made,) = asyncio.run(stage(groups_table([group]))).to_pylist()
    return made, engine.asked


def test_the_judgement_of_best_f1_is_chosen_and_replay_reads_the_same() -> None:
    context = Context(0, "meta_rewarding", 0)
    recipe: Any = get_recipe("meta_rewarding")
    settings = recipe.settings(meta_judge="claims")
    group, asked = meta_judged(judged_group(JUDGEMENTS), context)
    verdicts = {(m["judgement_a"], m["judgement_b"], m["order"]): m["winner"] for m in group["meta_judgements"]}
    names = list(JUDGEMENTS)
    assert verdicts == {(a, b, order): "A" for i, a in enumerate(names) for b in names[i + 1:] for order in (0, 1)}
    assert sum("Write a critique" in prompt for prompt in asked) == 1  # one reference a response
    assert len({m["meta_id"] for m in group["meta_judgements"]}) == 12
    for again in (group, {**group, "meta_judgements": [{**m, "winner": None} for m in group["meta_judgements"]]}):
        read = recipe.read(again, settings, context)
        _, pairs = recipe.select(read, recipe.statistics([read], settings, context), settings, context)
        (pair,) = [pair for pair in pairs if pair["kind"] == "judge"]
        assert (pair["chosen_from"], pair["rejected_from"]) == ("right and whole", "wrong")


def test_a_judgement_that_says_nothing_is_compared_with_none() -> None:
    context = Context(0, "meta_rewarding", 0)
    group, _ = meta_judged(judged_group({**JUDGEMENTS, "empty": "Score: 3"}), context)
    statuses = {m["status"] for m in group["meta_judgements"] if "empty" in (m["judgement_a"], m["judgement_b"])}
    assert statuses == {"missing"}
