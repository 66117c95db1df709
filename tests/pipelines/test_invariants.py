"""What every recipe must satisfy, by being registered: its own steps are played by oracles, and its records selected.

Rows are the recipe's natural input, examples/NAME.jsonl, or questions with known answers where it has no file of its
own. The settings are those of its preset `small`, with every choice that they offer.
"""

import ast
import copy
import functools
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actors.protocols import PROTOCOLS
from pipelines.config import from_layers
from pipelines.recipes import RECIPES, get_recipe
from pipelines.recipes.base import JudgeStep, MetaJudgeStep, SampleStep
from pipelines.records import Group, Pair, groups_table, pairs_table
from pipelines.replay import replay
from pipelines.steps.accounting import accounting
from pipelines.steps.make_prompts import prompts_for_iteration, read_prompts
from pipelines.steps.parts import visible
from tests.oracles import CHAT, Cast, answers, mute, place, rule
from tests.pipelines.planted import run_recipe
from tests.playing import Played, play

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = re.compile(r"Literal\[([^\[\]]*)\]")
UNREADABLE = ("", "no verdict", "Score: 3-4", "Score: 99", "[[A]] or [[B]]", 'It says "Winner: A".', "Rating: [[11]]")
UNREADABLE_IS_WRONG = ({"variant": "dpo"},)  # the release of 2408.02666 takes what cannot be read for a text to avoid
PARTS = ("samples", "judgements", "meta_judgements")
every_recipe = pytest.mark.parametrize("name", RECIPES)
worlds = st.integers(0, 9)
in_every_world = settings(max_examples=10, deadline=None)
at_random = settings(max_examples=25, deadline=None)


def natural_rows(name: str, count: int, seed: int = 0) -> list[Group]:
    """Some rows of the input that the recipe is made for, as groups of iteration 0."""
    own = EXAMPLES / f"{name}.jsonl"
    found = read_prompts(str(own if own.exists() else EXAMPLES / "arithmetic.jsonl")).groups
    return prompts_for_iteration(found, 0, count, True, seed)


@functools.cache
def choices(name: str) -> list[dict[str, Any]]:
    """What can be chosen in a recipe's settings, one at a time: other words for a word, the opposite of yes or no."""
    found: list[dict[str, Any]] = [{}]
    for key, field in get_recipe(name).settings.model_fields.items():
        words = WORDS.search(str(field.annotation))
        if words:
            default = field.default if isinstance(field.default, list) else [field.default]
            found += [{key: word} for word in ast.literal_eval(f"[{words[1]}]") if word not in default]
        elif field.annotation is bool:
            found.append({key: not field.default})
    return found


def chosen(name: str, world: int) -> dict[str, Any]:
    """The choice of a world."""
    return choices(name)[world % len(choices(name))]


@functools.cache
def small(name: str, world: int) -> Any:
    """The method's settings in its preset `small` with the world's choice, as plain data."""
    layers: list[Any] = [{"prompts": "-", "preset": "small"}, {"method": chosen(name, world)}]
    return from_layers(name, layers, "cpu").method.model_dump()


def cast_of(world: int) -> Cast:
    """The actors of a world; some are more reliable than others."""
    chance = random.Random(world)
    judge = place if world == 9 else rule(chance.choice([1.0, 3.0, 6.0]))  # one is always content with what it sees
    return Cast(
        policy=answers(right=chance.choice([0.1, 0.4, 0.7])),
        judge=mute(chance.choice([0, 0.3]), judge),
        meta_judge=rule(chance.choice([0.0, 2.0])),
        spoilt=chance.choice([0, 0.2, 0.4]),
    )


@functools.cache
def played(name: str, world: int) -> Played:
    """An iteration in one of several worlds, which differ in rows, iteration, seed and actors."""
    return play(name, natural_rows(name, 5, world), cast_of(world), world % 3, world, **small(name, world))


def selected(name: str, world: int, groups: list[Group] | None = None) -> tuple[list[Group], list[Pair]]:
    """What the recipe makes of the records of a world, or of others in their place."""
    groups = played(name, world).groups if groups is None else groups
    return run_recipe(name, groups, groups[0]["iteration"], world, **small(name, world))


def compares(name: str, world: int) -> bool:
    """Whether a judge of the recipe compares responses in this world."""
    steps = get_recipe(name).steps(get_recipe(name).settings(**small(name, world)), 0)
    return any(isinstance(step, JudgeStep) and PROTOCOLS[step.protocol].responses == 2 for step in steps)


def by_id(pairs: list[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: pair["pair_id"])


@every_recipe
def test_the_worlds_make_pairs(name: str) -> None:
    """Without any, the properties below would say nothing."""
    made = [len(selected(name, world)[1]) for world in range(10)]
    assert sum(map(bool, made)) >= 4, made


@every_recipe
@in_every_world
@given(world=worlds)
def test_d1_both_sides_answer_one_prompt(name: str, world: int) -> None:
    """A pair is trained under what both sides were written to, unless the policy is taught another one's texts."""
    truth = played(name, world).truth
    plain: dict[str, set[str]] = {}  # prompt id -> what was asked with nothing shown beside the prompt
    asked: dict[str, set[str]] = {}  # reply -> what it may be trained under
    for step, request, completions in truth.asked:
        text = CHAT.decode(request.prompt_ids)
        prompts = plain.setdefault(truth.about(text)["prompt_id"], set())
        if isinstance(step, SampleStep) and step.shown is None:
            prompts.add(text)
        hinted = isinstance(step, SampleStep) and step.shown  # a hint may be taken back
        for completion in completions:
            asked.setdefault(completion.text, set()).update({text}, prompts if hinted else ())
    groups, pairs = selected(name, world)
    thoughts = {s["sample_id"]: bool(s.get("thought")) for g in groups for s in g["samples"]}
    for pair in pairs:
        sides = [asked[text] for text in (pair["chosen_text"], pair["rejected_text"]) if text and text in asked]
        if len(sides) == 2:
            assert sides[0] & sides[1]
        if not get_recipe(name).teaches:
            assert all(CHAT.decode(CHAT.render(pair["messages"])) in prompts for prompts in sides)
        if pair["rejected_text"]:
            assert thoughts.get(pair["chosen_from"]) == thoughts.get(pair["rejected_from"])


@every_recipe
@in_every_world
@given(world=worlds)
def test_d2_a_pair_prefers_something(name: str, world: int) -> None:
    _, pairs = selected(name, world)
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair["chosen_text"].strip() and pair["weight"] > 0
        if not pair["rejected_text"]:  # a row to learn by heart
            assert pair["rejected_ids"] == []
            continue
        assert pair["chosen_text"].strip() != pair["rejected_text"].strip()
        assert pair["chosen_score"] is not None and pair["rejected_score"] is not None
        assert pair["chosen_score"] > pair["rejected_score"]


@every_recipe
@at_random
@given(world=worlds, data=st.data())
def test_d3_an_unreadable_judgement_changes_only_its_count(name: str, world: int, data: st.DataObject) -> None:
    assume(chosen(name, world) not in UNREADABLE_IS_WRONG)
    groups = copy.deepcopy(played(name, world).groups)
    read, pairs = selected(name, world)
    added = 0
    for group in groups:
        seen = {(*j["sample_ids"], j["order"]): j for j in group["judgements"]}
        for i, judgement in enumerate(seen.values()):
            text = data.draw(st.sampled_from(UNREADABLE))
            more: Any = {**judgement, "judgement_id": f"unreadable {i}", "index": 99, "text": text, "status": "missing"}
            group["judgements"].insert(data.draw(st.integers(0, len(group["judgements"]))), more)
            added += 1
    again, same = selected(name, world, groups)
    assert without_row_scores(same) == without_row_scores(pairs)
    for before, after in zip(read, again, strict=True):
        assert after["samples"] == before["samples"]
    before, after = accounting(read, pairs), accounting(again, same)
    assert after["judgements"]["total"] - after["judgements"]["counts"]["ok"] == added + (
        before["judgements"]["total"] - before["judgements"]["counts"]["ok"]
    )


@every_recipe
@at_random
@given(world=worlds, chance=st.randoms(use_true_random=False))
def test_d4_the_order_of_arrival_changes_nothing(name: str, world: int, chance: random.Random) -> None:
    mixed = copy.deepcopy(played(name, world).groups)
    for group in mixed:
        for part in PARTS:
            chance.shuffle(group[part])
    chance.shuffle(mixed)
    assert by_id(selected(name, world, mixed)[1]) == by_id(selected(name, world)[1])


@every_recipe
@in_every_world
@given(world=worlds, chosen=st.integers(0, 4))
def test_d5_a_prompt_alone_gets_the_records_it_gets_among_others(name: str, world: int, chosen: int) -> None:
    """Ids and seeds come from a record's place, so neither company nor order nor a second attempt changes them."""
    among = played(name, world)
    group = among.groups[chosen]
    (row,) = [g for g in among.truth.groups if g["prompt_id"] == group["prompt_id"]]
    alone = play(name, [row], cast_of(world), group["iteration"], world, **small(name, world))
    assert alone.groups == [group]


@every_recipe
def test_d5_no_two_records_share_a_seed(name: str) -> None:
    """Of different prompts, steps, samples, iterations or runs."""
    places = [(0, 0), (0, 1), (1, 0)]
    found = [play(name, natural_rows(name, 5), cast_of(0), t, seed, **small(name, 0)).groups for seed, t in places]
    groups = [group for groups in found for group in groups]
    seeds = [record["seed"] for group in groups for part in PARTS for record in group[part] if record["seed"]]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("name", [name for name in RECIPES if any(compares(name, world) for world in range(10))])
@in_every_world
@given(world=worlds)
def test_d6_a_judge_of_positions_is_right_half_the_time_and_makes_no_pair(name: str, world: int) -> None:
    assume(compares(name, world))
    liked_first = play(name, natural_rows(name, 12, world), Cast(judge=place), world % 3, world, **small(name, world))
    read, pairs = selected(name, world, liked_first.groups)
    compared = {g["prompt_id"] for g in read if any(len(j["sample_ids"]) == 2 for j in g["judgements"])}
    assert compared and not [pair for pair in pairs if pair["prompt_id"] in compared]
    right = []
    for group in read:
        known = liked_first.truth.answers[group["prompt_id"]]
        quality = {s["sample_id"]: known.get(visible(s).strip()) for s in group["samples"]}
        for judgement in [j for j in group["judgements"] if len(j["sample_ids"]) == 2]:
            a, b = (quality[i] for i in judgement["sample_ids"])
            if a is not None and b is not None and a != b:
                right.append(judgement["verdict"] == ("A" if a > b else "B"))
    assert right and sum(right) * 2 == len(right)


@every_recipe
@in_every_world
@given(world=worlds)
def test_d8_no_judge_sees_a_hidden_thought(name: str, world: int) -> None:
    found = played(name, world)
    hidden = {thought.strip() for g in found.groups for s in g["samples"] if (thought := s.get("thought"))}
    judges = JudgeStep | MetaJudgeStep
    judged = [CHAT.decode(r.prompt_ids) for step, r, _ in found.truth.asked if isinstance(step, judges)]
    assert not [text for text in judged for thought in hidden if thought in text]


@every_recipe
@in_every_world
@given(world=worlds)
def test_d9_everything_is_accounted_for(name: str, world: int) -> None:
    groups, pairs = selected(name, world)
    report = accounting(groups, pairs)
    assert json.loads(json.dumps(report)) == report
    for part in ("judgements", "meta_judgements"):
        assert sum(report[part]["counts"].values()) == report[part]["total"] == sum(len(g[part]) for g in groups)
    paired = {pair["prompt_id"] for pair in pairs}
    assert all((g["prompt_id"] in paired) != bool(g["dropped"]) for g in groups)
    assert sum(report["dropped"].values()) + len(paired) == report["groups"] == len(groups)
    assert sum(report["pairs"].values()) == len(pairs)
    for kind, shape in report["by_kind"].items():
        mine = [pair for pair in pairs if pair["kind"] == kind]
        assert shape["chosen_chars_mean"] == pytest.approx(sum(len(p["chosen_text"]) for p in mine) / len(mine))
        assert sum(shape["margin_histogram"].values()) == sum(p["rejected_score"] is not None for p in mine)


@every_recipe
@in_every_world
@given(world=worlds)
def test_d10_selecting_again_gives_the_same_bytes(name: str, world: int) -> None:
    records = played(name, world).groups
    before = copy.deepcopy(records)
    first, pairs = selected(name, world)
    assert records == before  # nothing is changed in place
    second, again = selected(name, world, first)
    assert second == first
    assert table_bytes(pairs) == table_bytes(again)


@every_recipe
def test_d10_a_replay_of_the_records_gives_the_pairs_of_the_run(name: str, tmp_path: Path) -> None:
    for world in range(len(choices(name))):
        source, out = tmp_path / f"{world}.parquet", tmp_path / f"{world}-pairs.parquet"
        pq.write_table(groups_table(played(name, world).groups), source)
        words = [f"method.{key}={json.dumps(value)}" for key, value in chosen(name, world).items()]
        summary = replay(name, source, out, ["preset=small", f"seed={world}", *words])
        groups, pairs = selected(name, world)
        assert by_id(pq.read_table(out).to_pylist()) == by_id(pairs_table(pairs).to_pylist())
        assert summary["dropped"] == accounting(groups, pairs)["dropped"]


def without_row_scores(pairs: list[Pair]) -> list[Pair]:
    """The pairs; a row's score may be the share of judgements that are right, and an unreadable one is not right."""
    return by_id([pair if pair["rejected_text"] else {**pair, "chosen_score": None} for pair in pairs])


def table_bytes(pairs: list[Pair]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pairs_table(pairs), out)
    return out.getvalue()
