"""The order of things without a cluster: what fails before any actor starts, and what a resumed run skips."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import ray
from rich.console import Console

from actors.chat import ChatFormat
from actors.checkpoints import CheckpointError
from actors.weights import SyncReport
from pipelines import loop
from pipelines.config import dump, resolve
from pipelines.ledger import Ledger, LedgerError
from pipelines.loop import Run, RunError, prepare, run_iteration, summarise
from pipelines.progress import RunProgress
from pipelines.records import new_group
from pipelines.steps.make_prompts import InputError
from pipelines.steps.render import prompt_messages
from pipelines.training import trainer
from tests.pipelines.planted import planted_iteration

ROWS = [{"prompt": "What is 2 + 2?", "gold": "4"}, {"prompt": "What is 3 + 3?", "gold": "6"}]


@pytest.fixture
def make_run(tmp_path, tiny_model, chat, monkeypatch):
    """`make_run(rows, "key=value", ...)` prepares a run on the tiny model; `said()` is what it printed."""
    screen = io.StringIO()
    monkeypatch.setattr(ChatFormat, "load", lambda path: chat)  # the tiny model's own, loaded once

    def make(rows: list[Any] = ROWS, *words: str, recipe: str = "meta_rewarding", model: str = tiny_model) -> Run:
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        config = resolve(recipe, [f"prompts={prompts}", f"model={model}", *words], "cpu")
        ledger = Ledger.create(str(tmp_path / "runs"), f"r{len(list(tmp_path.glob('runs/*')))}", dump(config), {})
        return prepare(config, ledger, RunProgress(Console(file=screen, width=200)))

    cast(Any, make).said = screen.getvalue
    return make


# ---- before any actor


def test_a_good_run_is_prepared_without_a_cluster(make_run, tiny_model):
    run = make_run()
    assert [group["gold"] for group in run.prompts] == ["4", "6"]
    assert run.model_folder == tiny_model
    assert not ray.is_initialized()


def prompt_limit(run: Run, recipe_template: bool = False) -> int:
    chat = ChatFormat.load(run.model_folder)
    template = "irpo_question" if recipe_template else None
    return max(len(chat.render(prompt_messages(group, template))) for group in run.prompts)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(make_run):
    rows = [*ROWS, {"prompt": "Tell me everything. " * 20}]
    longest = prompt_limit(make_run(rows))
    make_run(rows, f"models.actor.max_model_len={longest + 1}")
    with pytest.raises(InputError) as error:
        make_run(rows, f"models.actor.max_model_len={longest}")
    message = str(error.value)
    assert "prompts.jsonl: prompt 3 ('Tell me everything." in message
    assert f"has {longest} tokens, the model takes {longest} with the answer" in message
    assert "raise models.actor.max_model_len" in message


def test_the_length_is_that_of_the_prompt_in_the_methods_template(make_run):
    run = make_run(recipe="irpo")
    bare, filled = (prompt_limit(run, recipe_template) for recipe_template in (False, True))
    assert filled > bare + 20
    with pytest.raises(InputError, match=f"has {filled} tokens"):
        make_run(ROWS, f"models.actor.max_model_len={filled}", recipe="irpo")
    make_run(ROWS, f"models.actor.max_model_len={filled}")  # Meta-Rewarding asks the bare prompt


def test_bad_rows_are_named_by_file_row_and_field(make_run):
    with pytest.raises(InputError, match=r"prompts\.jsonl:2: prompt: is empty"):
        make_run([ROWS[0], {"prompt": " "}])


def test_bad_rows_that_are_left_out_are_counted_and_listed(make_run):
    run = make_run([ROWS[0], {"prompt": " "}, "no json", ROWS[1]], "on_bad_rows=quarantine")
    assert len(run.prompts) == 2
    (event,) = [event for event in run.ledger.events() if event["kind"] == "bad_rows"]
    assert event["count"] == 2
    assert [row.split("prompts.jsonl")[1][:3] for row in event["rows"]] == [":2:", ":3:"]
    assert "2 bad rows left out, listed in" in make_run.said()


def test_text_that_the_chat_format_cannot_hold_is_named_by_its_prompt(make_run):
    with pytest.raises(InputError, match=r"prompts\.jsonl: prompt 2 .*U\+E000"):
        make_run([ROWS[0], {"prompt": "\ue0000\ue001"}])


def test_a_model_without_a_chat_template_is_refused(make_run, tiny_model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="lacks a chat template"):
        make_run(model=str(base))
    with pytest.raises(CheckpointError, match="no such folder"):
        make_run(model="/no/such/model")


def test_no_session_is_opened_for_input_that_is_refused_and_the_lock_is_given_back(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(loop, "open_session", lambda *_: pytest.fail("opened a session"))
    config = resolve("irpo", [f"prompts={tmp_path}/none.jsonl", f"model={tiny_model}"], "cpu")
    ledger = Ledger.create(str(tmp_path), "r", dump(config), {})
    progress = RunProgress(Console(file=io.StringIO()), quiet=True)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        loop.execute(config, ledger, progress)
    with ledger.lock(), pytest.raises(LedgerError, match="has driven this run"):
        loop.execute(config, ledger, progress)


def test_a_finished_run_is_not_prepared_again(tmp_path, monkeypatch):
    config = resolve("irpo", [f"prompts={tmp_path}/none.jsonl"], "cpu")
    ledger = Ledger.create(str(tmp_path), "r", dump(config), {})
    ledger.mark_finished({"run": "r", "iterations": []})
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("prepared again"))
    done = loop.execute(config, ledger, RunProgress(Console(file=io.StringIO()), quiet=True))
    assert (done["run"], done["iterations"]) == ("r", [])


# ---- versions and folders


def test_versions_and_folders(make_run, tiny_model):
    run = make_run()
    assert run.ledger.run_id.startswith(run.ledger.path.rsplit("/", 1)[1] + "-")
    assert run.folder(0) == tiny_model
    assert run.folder(1) == run.ledger.checkpoint_dir(0)
    assert run.folder(3) == run.ledger.checkpoint_dir(2)
    context = run.context(2)
    assert (context.run_seed, context.recipe, context.iteration) == (0, "meta_rewarding", 2)


def test_models_without_a_checkpoint_of_their_own_follow_training(make_run, tiny_model):
    assert make_run().followers() == ["actor", "reference"]
    frozen = make_run(ROWS, f"models.reference.path={tiny_model}")
    assert frozen.followers() == ["actor"]


class ScriptedSession:
    """A session whose models serve what is planted; every call is recorded."""

    def __init__(self, **versions: list[str]):
        self.url, self.synced, self.started = None, [], {}
        self.clients = {name: SimpleNamespace(versions=lambda found=found: found) for name, found in versions.items()}

    def start_models(self, sources: dict[str, tuple[str, str]], waiting: Any) -> None:
        self.started = sources

    def sync(self, model: str, version: str, folder: str) -> SyncReport:
        self.synced.append((model, version, folder))
        return SyncReport(version, 2, 0.5, 0.25)


def test_models_start_from_the_newest_checkpoint_and_frozen_ones_from_their_own(make_run, tiny_model):
    run = make_run(ROWS, f"models.reference.path={tiny_model}", "serve.enabled=false")
    session: Any = ScriptedSession()
    loop._start_models(run, session, 2)
    assert session.started == {"actor": ("v2", run.ledger.checkpoint_dir(1)), "reference": ("frozen", tiny_model)}


def test_only_models_on_another_version_are_updated(make_run):
    run = make_run()
    session: Any = ScriptedSession(actor=["v1", "v0"], reference=["v1"])
    info = loop.update_weights(run, session, 0)
    assert session.synced == [("actor", "v1", run.ledger.checkpoint_dir(0))]
    report = {"replicas": 2, "prepare_s": 0.5, "load_s": 0.25}
    assert info == {"version": "v1", "models": {"actor": report}, "judge_after": None}


# ---- order and resume


def test_stages_run_in_order_once_each_and_a_resumed_iteration_goes_on_where_it_was(make_run, monkeypatch):
    run, ran = make_run(), []
    stages = {"groups": "make_groups", "pairs": "make_pairs", "train": "train_policy", "sync": "update_weights"}
    failing = {"train"}

    def stage(name: str) -> Any:
        def work(run: Run, session: Any, iteration: int) -> dict[str, Any]:
            ran.append((iteration, name))
            if name in failing:
                raise RuntimeError("killed")
            return {"made_by": name}

        return work

    for name, function in stages.items():
        monkeypatch.setattr(loop, function, stage(name))
    with pytest.raises(RuntimeError, match="killed"):
        run_iteration(run, cast(Any, None), 1)
    failing.clear()
    run_iteration(run, cast(Any, None), 1)
    run_iteration(run, cast(Any, None), 1)
    assert ran == [(1, "groups"), (1, "pairs"), (1, "train"), (1, "train"), (1, "sync")]
    for name in stages:
        assert (run.ledger.done(1, name) or {})["made_by"] == name
    assert run.progress.version == "v1"
    kinds = [(event["kind"], event["stage"]) for event in run.ledger.events()]
    assert kinds[-2:] == [("stage_started", "sync"), ("stage_done", "sync")]


def test_groups_that_are_all_committed_are_not_made_again(make_run):
    """No session, no stream: nothing is left to ask for."""
    run = make_run(ROWS, "prompts_limit=1", "iterations=2")
    for iteration in (0, 1):
        taken = [{**group, "iteration": iteration} for group in run.prompts]
        run.ledger.commit_groups(iteration, cast(Any, taken))
        info = loop.make_groups(run, cast(Any, None), iteration)
        assert info == {"groups": 1, "already_there": 1, "tokens": 0}


def test_groups_that_did_not_arrive_end_the_stage(make_run, monkeypatch):
    import pipelines.stream

    run = make_run()
    run.ledger.commit_groups(0, run.prompts[:1])
    asked = []

    def stream(name: str, config: Any, sources: dict[str, Any], groups: list[Any], *rest: Any) -> Any:
        asked.append((sources["actor"], [group["prompt_id"] for group in groups]))
        return iter([{"groups": 1, "tokens": 5, "judgements": 0, "parsed": 0}])

    monkeypatch.setattr(pipelines.stream, "stream_groups", stream)
    with pytest.raises(RunError, match=r"iteration 0: 1 groups were not committed; run `appellate resume`"):
        loop.make_groups(run, cast(Any, None), 0)
    assert asked == [(("v0", run.model_folder), [run.prompts[1]["prompt_id"]])]


def test_pairs_are_selected_scored_and_committed_and_the_groups_filled(make_run, monkeypatch):
    import pipelines.stream

    run = make_run()
    run.ledger.commit_groups(0, planted_iteration(6))
    asked = []

    def stream(name: str, config: Any, sources: dict[str, Any], pairs: list[Any], done: Any) -> Any:
        version, folder = sources["reference"]
        asked.append((folder, version))
        return [{**pair, "ref_logps_chosen": [-0.75, -0.25], "ref_logp_chosen": -1.0, "ref_version": version}
                for pair in pairs]

    monkeypatch.setattr(pipelines.stream, "stream_pairs", stream)
    info = loop.make_pairs(run, cast(Any, None), 0)
    table = run.ledger.read_pairs(0)
    assert info["pairs"] == table.num_rows == sum(info["accounting"]["pairs"].values()) > 6
    assert set(table["ref_version"].to_pylist()) == {"v0"}
    assert table["ref_logps_chosen"].to_pylist() == [[-0.75, -0.25]] * table.num_rows
    assert asked == [(run.model_folder, "v0")]
    first = (run.ledger.path, table.to_pylist())
    assert all(s["score"] is not None for group in run.ledger.iter_groups(0) for s in group["samples"])
    loop.make_pairs(run, cast(Any, None), 0)  # a crash before the mark: the same pairs again
    assert (run.ledger.path, run.ledger.read_pairs(0).to_pylist()) == first


def test_an_iteration_without_a_pair_says_why_and_keeps_its_weights(make_run):
    run = make_run()
    run.ledger.commit_groups(0, run.prompts)
    info = loop.make_pairs(run, cast(Any, None), 0)
    assert info["pairs"] == 0
    assert info["accounting"]["dropped"] == {"too_few_samples": 2}
    run.ledger.mark(0, "pairs", info)
    assert loop.train_policy(run, cast(Any, None), 0) == {"skipped": True, "steps": 0}
    run.ledger.mark(0, "train", {"skipped": True, "steps": 0})
    assert run.folder(1) == run.model_folder
    assert run.folder(2) == run.ledger.checkpoint_dir(1)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_trainer_is_told_whose_log_probabilities_the_pairs_hold(make_run, tiny_model, monkeypatch, frozen):
    words = [f"models.reference.path={tiny_model}"] if frozen else []
    run = make_run(ROWS, "training.loss=dpo + nll", "seed=4", *words)
    run.ledger.mark(1, "pairs", {"pairs": 3})
    given = []
    monkeypatch.setattr(trainer, "train", lambda *words: given.append(words) or {"steps": 2})
    summary = loop.train_policy(run, cast(Any, ScriptedSession()), 1)
    assert given == [
        (run.config.training, 4, run.ledger, 1, "v1", run.ledger.checkpoint_dir(0), "frozen" if frozen else "v1")
    ]
    assert summary == {"steps": 2, "judge_before": None}


# ---- the live judge in the summary


def test_a_judge_that_does_not_answer_is_told_and_stops_nothing(make_run, monkeypatch):
    run = make_run()
    session = ScriptedSession()
    session.url = "http://127.0.0.1:9"

    def post(*_: Any, **__: Any) -> Any:
        raise httpx.ReadTimeout("slow")

    monkeypatch.setattr(httpx, "post", post)
    run.ledger.commit_groups(0, [new_group([{"role": "user", "content": "dropped before it was answered"}])])
    assert loop._ask_judge(run, cast(Any, session), 0) is None
    run.ledger.commit_groups(0, planted_iteration(1))
    assert loop._ask_judge(run, cast(Any, session), 0) == {"error": "no answer: ReadTimeout('slow')"}


def test_the_summary_is_read_from_the_marks(make_run):
    run = make_run(ROWS, "iterations=2")
    run.ledger.mark(0, "groups", {"groups": 2})
    run.ledger.mark(0, "pairs", {"pairs": 3, "accounting": {"pairs": {"actor": 2, "judge": 1}}})
    run.ledger.mark(0, "train", {"steps": 4})
    summary = summarise(run)
    assert (summary["run"], summary["recipe"]) == (run.ledger.path, "meta_rewarding")
    first, second = summary["iterations"]
    assert (first["groups"], first["pairs"], first["training"]["steps"]) == (2, {"actor": 2, "judge": 1}, 4)
    assert (first["sync"], first["checkpoint"]) == (None, run.ledger.checkpoint_dir(0))
    assert (second["groups"], second["pairs"], second["training"]) == (None, None, None)
    assert Path(second["checkpoint"]).parent.name == "0001"
