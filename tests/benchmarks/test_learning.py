"""The learning bench around its runs: settings, controls, what is asked of a result. No model is started."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import learning
from benchmarks.controls import dealt, half_turned, spoil, turned
from benchmarks.evaluation import group_of
from benchmarks.learning import BENCHES, CONTROLS, SMOKE, Bench, Setup, gsm8k_rows, judged, run_bench, stage_seconds
from pipelines.config import training_at
from pipelines.ledger import Ledger
from pipelines.recipes.base import Context
from pipelines.records import Group, Pair
from pipelines.steps.make_prompts import read_prompts
from tests.pipelines.planted import sample

every_bench = pytest.mark.parametrize("name", BENCHES)


def pair(name: str, **other: Any) -> Pair:
    sides = {f"{side}_{part}": [ord(side[0])] if part == "ids" else 1.0 if part == "score" else f"{side} {part}"
             for side in ("chosen", "rejected") for part in ("ids", "text", "from", "score")}
    return cast(Pair, {"pair_id": name, "prompt_id": "p", "messages": [], **sides, **other})


@pytest.fixture
def arranged(tmp_path: Path) -> Setup:
    (tmp_path / "learning-fair.json").write_text(json.dumps({"chosen": "to9"}))
    return Setup(tmp_path, tmp_path, None)


@every_bench
def test_settings_resolve_and_the_supervised_control_trains_on_chosen_sides_alone(name: str, arranged: Setup) -> None:
    bench = BENCHES[name]
    config = arranged.config(name, "prompts=none")
    assert config.prompts_limit and training_at(config, 0).needs_reference
    assert set(bench.controls) <= set(CONTROLS)
    if "sft" in bench.controls:
        supervised = training_at(arranged.config(name, "prompts=none", bench.sft), 0)
        assert not supervised.needs_pairs
        assert supervised.learning_rate == training_at(config, 0).learning_rate
    assert Setup(arranged.work, arranged.work, None, words=SMOKE).config(name, "prompts=none").iterations == 1


@pytest.mark.parametrize("task", ["hard", "fair", "verdicts", "scores"])
def test_rows_are_an_input_that_a_run_accepts(task: str, arranged: Setup) -> None:
    rows = arranged.rows(task, "train", 20, 0)
    file = arranged.work / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = read_prompts(str(file)).groups
    assert len(groups) == 20
    kinds = {"hard": set(), "fair": set(), "verdicts": {"chosen", "rejected"}, "scores": {"given"}}[task]
    assert {s["kind"] for group in groups for s in group["samples"]} == kinds
    assert all(group["gold"] for group in groups) == (task != "verdicts")


@pytest.mark.parametrize("task", ["verdicts", "scores"])
def test_what_a_judge_is_tested_with_is_what_it_is_trained_with_less_the_label(task: str, arranged: Setup) -> None:
    test = arranged.rows(task, "test", 5, 0)[0]
    group = group_of(test)
    assert group["gold"] is None
    assert "label" not in group["meta"] and "response" not in group["meta"]
    trained = arranged.rows(task, "train", 4, 0)[0]
    assert json.loads(group["meta"]).get("criterion") == trained.get("criterion", test["criterion"])


def test_gsm8k_comes_from_a_folder_that_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--gsm8k"):
        gsm8k_rows(None, "test", 1)
    (tmp_path / "test.jsonl").write_text('{"question": "1 + 1?", "final_answer": "2"}\n' * 3)
    assert gsm8k_rows(tmp_path, "test", 2) == [{"prompt": "1 + 1?", "gold": "2"}] * 2


def test_the_fair_task_must_have_been_chosen(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--pick-fair"):
        Setup(tmp_path, tmp_path, None).rows("fair", "train", 1, 0)


def test_turning_a_pair_exchanges_its_sides_and_nothing_else() -> None:
    one = pair("a", chosen_score=2.0)
    other = turned(one)
    assert (other["chosen_text"], other["rejected_text"]) == ("rejected text", "chosen text")
    assert (other["chosen_ids"], other["rejected_ids"]) == (one["rejected_ids"], one["chosen_ids"])
    assert (other["chosen_score"], other["rejected_score"]) == (1.0, 2.0)
    assert turned(other) == one and other.keys() == one.keys()


def test_about_half_of_the_pairs_are_turned_by_their_ids() -> None:
    pairs = [pair(f"{i:04d}") for i in range(400)]
    count = sum(p["chosen_text"] == "rejected text" for p in half_turned(pairs))
    assert 160 < count < 240
    assert half_turned(pairs) == half_turned(pairs)
    alone = [pair(f"{i}", rejected_ids=[], rejected_text="") for i in range(20)]
    assert half_turned(alone) == alone


def test_dealing_gives_samples_of_a_kind_each_other_s_labels() -> None:
    samples = [sample(f"{i}", f"text {i}", i, kind="hot" if i > 7 else "sample", answer=str(i), score=float(i), votes=i)
               for i in range(12)]
    group = cast(Group, {"prompt_id": "p", "samples": samples})
    mixed = dealt(group, Context(0, "irpo", 1))["samples"]
    assert mixed == dealt(group, Context(0, "irpo", 1))["samples"] != dealt(group, Context(1, "irpo", 1))["samples"]
    assert [(s["sample_id"], s["text"], s["kind"]) for s in mixed] == [
        (s["sample_id"], s["text"], s["kind"]) for s in samples
    ]
    assert all(s.get("answer") == str(s.get("votes")) for s in mixed)
    for part in (slice(0, 8), slice(8, 12)):
        assert sorted(s.get("score") or 0.0 for s in mixed[part]) == [s.get("score") for s in samples[part]]
    assert [s.get("score") for s in mixed] != [s.get("score") for s in samples]
    assert [s.get("score") for s in samples] == list(range(12))  # the records themselves stay


def test_a_spoilt_recipe_selects_from_dealt_labels_or_turns_its_pairs() -> None:
    class Recipe:
        def select(self, group: Any, statistics: Any, settings: Any, context: Any) -> Any:
            return {**group, "seen": statistics}, [pair(s["sample_id"]) for s in group["samples"] if s["score"]]

    samples = [sample(f"{i}", f"text {i}", i, score=float(i < 5)) for i in range(40)]
    group = cast(Group, {"prompt_id": "p", "samples": samples})
    shuffled, turning = Recipe(), Recipe()
    spoil(shuffled, "shuffled")
    spoil(turning, "turned")
    seen, pairs = shuffled.select(group, 3, None, Context(0, "irpo", 0))
    assert seen["seen"] == 3 and len(pairs) == 5
    assert {p["pair_id"] for p in pairs} != {f"{i}" for i in range(5)}
    assert turning.select(group, 3, None, Context(0, "irpo", 0))[1] == half_turned([pair(f"{i}") for i in range(5)])


def test_what_is_asked_of_a_result() -> None:
    hard, fair = Bench("hard", must_reach=0.5), Bench("fair", must_gain=0.1)

    def numbers(greedy: float, majority: float = 0.3) -> dict[str, float]:
        return {"greedy": greedy, "majority_of_8": majority}

    assert judged(hard, "none", numbers(0.02), numbers(0.5))["reached"]
    assert not judged(hard, "none", numbers(0.02), numbers(0.49))["reached"]
    assert judged(fair, "none", numbers(0.2), numbers(0.3))["reached"]
    assert not judged(fair, "none", numbers(0.2), numbers(0.3, 0.2))["reached"]
    assert judged(hard, "shuffled", numbers(0.02), numbers(0.07))["reached"]
    assert not judged(hard, "turned", numbers(0.02), numbers(0.08))["reached"]
    assert judged(hard, "sft", numbers(0.02), numbers(0.9))["reached"] is None
    verdicts = judged(Bench("verdicts", must_gain=0.15), "none", {"accuracy": 0.5}, {"accuracy": 0.65})
    assert verdicts == {"metric": "accuracy", "start": 0.5, "last": 0.65, "gain": 0.15, "reached": True}


def test_a_result_that_is_there_is_not_made_again(arranged: Setup) -> None:
    (arranged.results / "learning-irpo-hard-seed0-sft.json").write_text('{"gain": 0.5}')
    assert run_bench("irpo", 0, "sft", arranged) == {"gain": 0.5}


@pytest.mark.parametrize(
    ("control", "program"), [("none", ["appellate"]), ("turned", ["benchmarks.controls", "turned"])]
)
def test_a_result_tells_the_run_and_leaves_no_path_of_this_machine(
    control: str, program: list[str], arranged: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    asked: list[dict[str, str]] = []

    def run(words: list[str], log: Path) -> None:
        ran.append(words)
        name = next(word.removeprefix("name=") for word in words if word.startswith("name="))
        ledger = Ledger.create(str(arranged.work), name, {}, {})
        made = ledger.checkpoint_dir(0)
        Path(made).mkdir(parents=True)
        trained = {"iteration": 0, "pairs": {"actor": 3}, "training": {"steps": 2}, "checkpoint": made}
        skipped = {"iteration": 1, "pairs": None, "training": {"skipped": True, "steps": 0}, "checkpoint": "none"}
        ledger.mark_finished({"iterations": [trained, skipped]})
        log.write_text(f"run folder {learning.ROOT}/runs/x\n")

    def ask(request: dict[str, Any], folder: Path, log: Path) -> dict[str, Any]:
        asked.append(request["checkpoints"])
        rights = {"v0": 1, "v1": 4}
        return {name: {"greedy": rights[name] / 8, "majority_of_8": 0.5, "points": [1.0] * rights[name] + [0.0] *
                       (8 - rights[name]), "examples": [f"by {name}"]} for name in request["checkpoints"]}

    for name, stand_in in (("command", run), ("ask", ask), ("start_folder", lambda config: "start")):
        monkeypatch.setattr(learning, name, stand_in)
    result = run_bench("irpo", 3, control, arranged)
    title = "learning-irpo-hard-seed3" + ("" if control == "none" else f"-{control}")
    text = (arranged.results / f"{title}.json").read_text()
    assert json.loads(text) == result
    assert ran[0][:len(program) + 1] == [*program, "run"] and "seed=3" in ran[0]
    assert asked == [{"v0": "start"}, {"v1": str(arranged.work / title / "iterations/0000/checkpoint")}]
    assert [item["weights"] for item in result["iterations"]] == ["v0", "v1", "v1"]
    assert (result["start"], result["last"], result["gain"]) == (0.125, 0.5, 0.375)
    assert result["reached"] is (control == "none")
    assert result["iterations"][1]["points"] == "22220000"
    low, high = result["iterations"][1]["interval"]
    assert 0 <= low < 0.375 < high <= 1
    assert str(arranged.work) not in text and str(learning.ROOT) not in text
    log = (arranged.results / f"{title}.log").read_text()
    assert log.splitlines() == ["run folder runs/x", "v0 says: 'by v0'", "v1 says: 'by v1'", "v1 says: 'by v1'"]
    assert not Path(arranged.work / title / "iterations/0000/checkpoint").exists()
    assert len((arranged.work / f"{title}.jsonl").read_text().splitlines()) == 192


def test_stage_seconds_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    ledger = Ledger.create(str(tmp_path), "run", {}, {})
    lines = [
        ("stage_started", "10:00:00", 0), ("stage_started", "10:05:00", 0), ("stage_done", "10:05:30", 0),
        ("stage_started", "11:00:00", 1), ("stage_done", "11:01:00", 1),
    ]
    (tmp_path / "run" / "events.jsonl").write_text("".join(
        json.dumps({"time": f"2026-01-01T{clock}+00:00", "kind": kind, "stage": "groups", "iteration": t}) + "\n"
        for kind, clock, t in lines
    ))
    assert (stage_seconds(ledger, 0), stage_seconds(ledger, 1)) == ({"groups": 30}, {"groups": 60})
