"""What a recipe may ask of a run beside its prompts: rows of a file, new prompts, other training, a teacher."""

import io
import json
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import pipelines.stream
from actors.chat import ChatFormat
from pipelines import loop, prompts, recipes
from pipelines.config import Sampling, dump, resolve
from pipelines.ledger import Ledger
from pipelines.loop import Run, RunError, prepare, run_iteration
from pipelines.progress import RunProgress
from pipelines.recipes.base import Context, JudgeStep, NewPrompts, Recipe, SampleStep, Step
from pipelines.recipes.method import DataFile, Method
from pipelines.records import Group, Pair
from pipelines.steps.judgements import read_group
from pipelines.steps.make_prompts import InputError
from pipelines.steps.pairs import make_pair, make_row
from pipelines.steps.render import prompt_messages
from pipelines.training import trainer
from tests.pipelines.planted import judgement, sample

ROWS = [{"prompt": "What is 2 + 2?", "response": "It is four."}, {"prompt": "Name a colour.", "response": "Red."}]
TEMPLATES = {
    "toy_judge": "{{ prompt }} {{ response }}",
    "toy_criterion": "{{ meta.criterion }}: {{ prompt }} {{ response }}",
    "toy_examples": "Write another: {% for text in examples %}[{{ text }}]{% endfor %}",
}
SHORT = Sampling(n=1, max_tokens=8)


class Settings(Method):
    seed_rows: DataFile = None
    wanted: int = 0
    with_seeds: bool = True
    template: str = "toy_judge"


class Toy(Recipe):
    """The first iteration imitates rows where there are any; afterwards new prompts are answered and judged."""

    name = "toy"
    paper = "0000.00000"
    iterations = 2
    reuse_prompts = True
    settings = Settings

    def steps(self, settings: Settings, iteration: int) -> list[Step]:
        judge = JudgeStep("additive", SHORT, settings.template, kinds=("given",))
        return [] if self.rows(settings, iteration) else [SampleStep(SHORT), judge]

    def rows(self, settings: Settings, iteration: int) -> str | None:
        return settings.seed_rows if iteration == 0 else None

    def new_prompts(self, settings: Settings, iteration: int) -> NewPrompts | None:
        if not settings.wanted or self.rows(settings, iteration):
            return None
        return NewPrompts(SHORT, "toy_examples", 2, settings.wanted, 1, with_seeds=settings.with_seeds)

    def training_at(self, settings: Settings, iteration: int) -> dict[str, Any]:
        return {"loss": "sft", "start_from": "seed"} if self.rows(settings, iteration) else {}

    def read(self, group: Group, settings: Settings, context: Context) -> Group:
        return read_group(group)

    def select(self, group: Group, statistics: Any, settings: Settings, context: Context) -> tuple[Group, list[Pair]]:
        messages, (first, *others) = prompt_messages(group), group["samples"]
        judged = group["judgements"]
        made = [make_row(context, group, "sft", messages, first, None)]
        made += [make_pair(context, group, "actor", messages, first, other, (1.0, 0.0)) for other in others]
        made += [make_pair(context, group, "judge", messages, judged[0], judged[1], (1.0, 0.0))] if judged else []
        return group, made


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The recipe by its name, and its templates."""
    recipe = Toy()
    for name, text in TEMPLATES.items():
        (tmp_path / "templates").mkdir(exist_ok=True)
        (tmp_path / "templates" / f"{name}.jinja").write_text(text)
    monkeypatch.setattr(prompts, "FOLDER", tmp_path / "templates")
    monkeypatch.setattr(recipes, "RECIPES", (*recipes.RECIPES, "toy"))
    monkeypatch.setitem(sys.modules, "pipelines.recipes.toy", cast(Any, SimpleNamespace(RECIPE=recipe)))
    prompts.load.cache_clear()
    yield recipe
    prompts.load.cache_clear()


@pytest.fixture
def make_run(tmp_path, tiny_model, chat, monkeypatch, toy):
    """`make_run("key=value", ..., rows=[...])` prepares a run; rows are those of the prompts."""
    monkeypatch.setattr(ChatFormat, "load", lambda path: chat)

    def write(name: str, rows: list[Any]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    def make(*words: str, rows: list[Any] = ROWS, seed_rows: list[Any] | None = None) -> Run:
        asked = [f"prompts={write('prompts.jsonl', rows)}", f"model={tiny_model}", *words]
        asked += [f"method.seed_rows={write('seed.jsonl', seed_rows)}"] if seed_rows else []
        config = resolve("toy", asked, "cpu")
        ledger = Ledger.create(str(tmp_path / "runs"), f"r{len(list(tmp_path.glob('runs/*')))}", dump(config), {})
        return prepare(config, ledger, RunProgress(Console(file=io.StringIO(), width=200)))

    return make


@pytest.fixture
def streamed(monkeypatch):
    """What `stream_groups` is asked to make; `says` turns a generator's request into its reply."""
    asked: list[tuple[str, list[str], list[str]]] = []
    state = SimpleNamespace(asked=asked, says=lambda number: f"Why {number * 7919} and {number * 31}?", dies_after=None)

    def stream(name: str, config: Any, sources: Any, groups: list[Group], steps: list[Step], context: Any,
               ledger: Ledger, kind: Any) -> Any:  # fmt: skip
        role = [step.role for step in steps if isinstance(step, SampleStep)]
        asked.append((kind, role, [group["messages"][-1]["content"] for group in groups]))
        for count, group in enumerate(groups):
            if state.dies_after == count:
                raise KeyboardInterrupt
            number = json.loads(group["meta"]).get("number", 0)
            text = state.says(number) if kind == "prompts" else "An answer."
            made = sample(f"{group['prompt_id']}-s", text, 1 + len(group["samples"]))
            ledger.commit_groups(context.iteration, [Group(**{**group, "samples": [*group["samples"], made]})], kind)
            yield {"groups": 1, "tokens": 5, "judgements": 0, "parsed": 0}

    monkeypatch.setattr(pipelines.stream, "stream_groups", stream)
    monkeypatch.setattr(pipelines.stream, "stream_pairs", lambda name, config, sources, pairs, done: pairs)
    return state


def asked_texts(state: Any, kind: str) -> list[list[str]]:
    return [texts for found, _, texts in state.asked if found == kind]


# ---- rows in place of prompts


def test_an_iteration_takes_its_rows_and_the_next_one_the_prompts(make_run, streamed):
    run = make_run(seed_rows=[{"prompt": f"seed {i}", "response": "yes"} for i in range(3)])
    assert loop.make_groups(run, cast(Any, None), 0) == {"groups": 3, "already_there": 0, "tokens": 15}
    loop.make_groups(run, cast(Any, None), 1)
    first, second = asked_texts(streamed, "groups")
    assert (sorted(first), sorted(second)) == (["seed 0", "seed 1", "seed 2"], sorted(row["prompt"] for row in ROWS))
    assert {group["iteration"] for group in run.ledger.iter_groups(1)} == {1}


def test_rows_are_checked_before_any_actor(make_run):
    with pytest.raises(InputError, match=r"seed\.jsonl:2: prompt: is empty"):
        make_run(seed_rows=[{"prompt": "a"}, {"prompt": " "}])
    run = make_run(seed_rows=[{"prompt": "a"}])
    assert list(run.rows) == [run.config.method.seed_rows]


@pytest.mark.parametrize("rows", [True, False])
def test_training_of_an_iteration_is_its_own_and_may_begin_at_the_start_model(make_run, monkeypatch, rows):
    run = make_run("training.epochs=3", seed_rows=[{"prompt": "seed", "response": "yes"}] if rows else None)
    given: list[Any] = []
    monkeypatch.setattr(trainer, "train", lambda *words: given.append(words) or {"steps": 2})
    for iteration in (0, 1):
        run.ledger.mark(iteration, "pairs", {"pairs": 3})
        loop.train_policy(run, cast(Any, SimpleNamespace(url=None)), iteration)
    settings = [(words[0].loss, words[0].start_from, words[0].epochs) for words in given]
    assert settings == [("sft", "seed", 3) if rows else ("dpo", "previous", 3), ("dpo", "previous", 3)]
    trained = run.ledger.checkpoint_dir(0)
    assert [words[4:] for words in given] == [("v0", run.model_folder, "v0"), ("v1", trained, "v1")]


def test_training_from_the_start_model_stays_there(make_run, monkeypatch):
    run = make_run("training.loss=sft", "training.start_from=seed")
    given: list[Any] = []
    monkeypatch.setattr(trainer, "train", lambda *words: given.append(words) or {"steps": 2})
    run.ledger.mark(1, "pairs", {"pairs": 3})
    loop.train_policy(run, cast(Any, SimpleNamespace(url=None)), 1)
    assert given[0][4:6] == ("v0", run.model_folder)


# ---- new prompts


def test_new_prompts_come_before_the_groups_and_are_answered_beside_the_seeds(make_run, streamed, monkeypatch):
    monkeypatch.setattr(loop, "train_policy", lambda *_: {"steps": 0})
    monkeypatch.setattr(loop, "update_weights", lambda *_: {})
    run = make_run("method.wanted=5")
    run_iteration(run, cast(Any, None), 0)
    assert [(kind, roles) for kind, roles, _ in streamed.asked] == [("prompts", ["generator"]), ("groups", ["policy"])]
    info = run.ledger.done(0, "prompts") or {}
    assert (info["asked"], info["kept"], info["dropped"]) == (5, 5, {})
    written = [streamed.says(number) for number in range(5)]
    assert sorted(asked_texts(streamed, "groups")[0]) == sorted([*written, *(row["prompt"] for row in ROWS)])
    report = (run.ledger.done(0, "pairs") or {})["accounting"]
    assert (report["groups"], report["new_prompts"]["kept"]) == (7, 5)
    run_iteration(run, cast(Any, None), 0)
    assert len(streamed.asked) == 2
    kept = [group["samples"][0]["answer"] for group in run.ledger.iter_groups(0, "prompts")]
    assert sorted(kept) == sorted(written)


def test_what_is_lacking_is_asked_for_again_with_other_numbers_and_examples(make_run, streamed):
    run = make_run("method.wanted=3", "method.with_seeds=false")
    new = streamed.says
    streamed.says = lambda number: "Is it of any use?" if number < 2 else new(number)
    info = loop.make_prompts(run, cast(Any, None), 0)
    assert info == {"asked": 4, "kept": 3, "dropped": {"repeated": 1}}
    first, second = asked_texts(streamed, "prompts")
    assert (len(first), len(second)) == (3, 1)
    assert any(f"[{streamed.says(number)}]" in second[0] for number in range(3))  # one of its examples
    assert not any(f"[{streamed.says(number)}]" in text for number in range(3) for text in first)
    loop.make_groups(run, cast(Any, None), 0)
    (texts,) = asked_texts(streamed, "groups")
    assert len(texts) == 3 and not {row["prompt"] for row in ROWS} & set(texts)


def test_prompts_of_earlier_iterations_are_not_made_again(make_run, streamed):
    run = make_run("method.wanted=2")
    loop.make_prompts(run, cast(Any, None), 0)
    new = streamed.says
    streamed.says = lambda number: new(number % 3)
    info = loop.make_prompts(run, cast(Any, None), 1)
    assert info == {"asked": 8, "kept": 1, "dropped": {"repeated": 7}}


def test_a_generator_that_says_nothing_new_ends_after_four_times_what_is_wanted(make_run, streamed):
    run = make_run("method.wanted=3", "method.with_seeds=false")
    streamed.says = lambda number: ROWS[0]["prompt"]
    assert loop.make_prompts(run, cast(Any, None), 0) == {"asked": 12, "kept": 0, "dropped": {"repeated": 12}}
    with pytest.raises(RunError, match="none of the generator's replies"):
        loop.make_groups(run, cast(Any, None), 0)


def test_a_killed_generation_goes_on_and_ends_the_same(make_run, streamed):
    whole, killed = make_run("method.wanted=6"), make_run("method.wanted=6")
    loop.make_prompts(whole, cast(Any, None), 0)
    first = asked_texts(streamed, "prompts")[0]
    streamed.asked.clear()
    streamed.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        loop.make_prompts(killed, cast(Any, None), 0)
    streamed.dies_after = None
    assert loop.make_prompts(killed, cast(Any, None), 0) == {"asked": 6, "kept": 6, "dropped": {}}
    assert [len(texts) for texts in asked_texts(streamed, "prompts")] == [6, 2]
    assert asked_texts(streamed, "prompts")[1] == first[4:]
    made = [{group["prompt_id"]: group for group in run.ledger.iter_groups(0, "prompts")} for run in (whole, killed)]
    assert made[0] == made[1]
    ids = [{group["prompt_id"] for group in loop.iteration_prompts(run, 0)} for run in (whole, killed)]
    assert ids[0] == ids[1]


def test_a_request_that_the_generator_cannot_read_is_named(make_run, tiny_model):
    rows = [{"prompt": "Tell me everything there is to tell. " * 12}, {"prompt": "And then some more of it. " * 12}]
    words = ["method.wanted=2", f"models.writer.path={tiny_model}", "models.writer.engine=transformers"]
    make_run(*words, "roles.generator=writer", rows=rows)
    with pytest.raises(InputError, match=r"generator: .* tokens as the generator is asked, the model takes 64"):
        make_run(*words, "roles.generator=writer", "models.writer.max_model_len=64", rows=rows)


# ---- a teacher


def group_with_judgements(run: Run, version: str) -> Group:
    (group, *_) = loop.iteration_prompts(run, 0)
    made = [sample("s0", "one", 0, weight_version="v0"), sample("s1", "two", 1, weight_version="v0")]
    judged = [judgement(f"j{i}", "s0", f"{i}\nScore: {i}", i, weight_version=version) for i in range(2)]
    return Group(**{**group, "samples": made, "judgements": judged})


@pytest.mark.parametrize(
    ("version", "teaches", "kinds"),
    [("v0", False, ["actor", "judge", "sft"]), ("frozen", False, ["actor", "sft"]),
     ("frozen", True, ["actor", "judge", "sft"])],
)  # fmt: skip
def test_a_teachers_judgements_are_learnt_where_the_recipe_teaches(
    make_run, streamed, monkeypatch, toy, version, teaches, kinds
):
    monkeypatch.setattr(Toy, "teaches", teaches)
    run = make_run()
    run.ledger.commit_groups(0, [group_with_judgements(run, version)])
    assert loop.make_pairs(run, cast(Any, None), 0)["pairs"] == len(kinds)
    rows = {row["kind"]: row for row in run.ledger.read_pairs(0).to_pylist()}
    assert sorted(rows) == kinds
    assert rows["actor"]["chosen_ids"] == [3, 7]
    if "judge" in rows:
        assert rows["judge"]["chosen_ids"] == ([] if version == "frozen" else [10, 9])


# ---- before any actor


def test_a_column_that_a_template_needs_and_a_row_lacks_is_named(make_run):
    rows = [{**ROWS[0], "criterion": "Brevity"}, ROWS[1]]
    with pytest.raises(InputError, match=r"prompt 2 \('Name a colour.*toy_criterion needs .*no attribute 'criterion'"):
        make_run("method.template=toy_criterion", rows=rows)
    make_run("method.template=toy_criterion", rows=[rows[0]])
    with pytest.raises(InputError, match="no attribute 'criterion'"):
        make_run("method.template=toy_criterion", rows=[{"prompt": "Without a response."}])


def test_a_given_response_that_the_judge_cannot_read_is_named(make_run):
    rows = [ROWS[0], {"prompt": "Tell me.", "response": "Everything. " * 40}]
    make_run(rows=rows)
    with pytest.raises(InputError, match=r"prompt 2 \('Tell me.*tokens as the judge is asked, the model takes 64"):
        make_run("models.actor.max_model_len=64", rows=rows)


def test_the_resource_plan_is_that_of_the_largest_iteration(make_run):
    from pipelines.plan import resource_plan

    assert resource_plan(make_run(seed_rows=[{"prompt": "seed"}]).config)["steps"] == ["SampleStep", "JudgeStep"]
