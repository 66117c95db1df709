"""What the terminal shows at the end: numbers as they are, a model's words as text, paths in one piece."""

import io
from typing import Any

from rich.console import Console

from pipelines.evaluation.base import Estimate, Result
from pipelines.progress import RunProgress
from pipelines.reporting.terminal import print_evaluation, print_summary, print_training

RUN = "/data/runs/with-a-rather-long-folder-name-that-must-not-be-broken-over-two-lines/2026-11-22-a"
JUDGE = {"weight_version": "v0", "scores": [2.5], "readable": 2, "votes": 3, "text": "Reasons.\nScore: 2.5"}
TRAINING = {"steps": 3, "first_dpo_loss": 0.693147, "last_dpo_loss": 0.5, "last_accuracy": 0.75}
SYNC = {"version": "v1", "models": {"actor": {"replicas": 1, "prepare_s": 0.5, "load_s": 1.25}}}


def shown(**changes: Any) -> str:
    item = {
        "iteration": 0, "groups": 12, "pairs": {"judge": 4, "actor": 9}, "training": TRAINING, "sync": SYNC,
        "checkpoint": f"{RUN}/iterations/0000/checkpoint", **changes,
    }
    screen = io.StringIO()
    summary = {"run": RUN, "recipe": "meta_rewarding", "iterations": [item]}
    print_summary(Console(file=screen, width=100), summary)
    return screen.getvalue()


def test_a_whole_run_is_shown():
    text = shown()
    assert f"meta_rewarding finished in {RUN}\n" in text
    for part in ("12", "9 actor, 4 judge", "0.6931", "0.5000", "75%", "v1", "actor 1.8"):
        assert part in text
    assert f"  appellate serve --model {RUN}/iterations/0000/checkpoint\n" in text
    assert f"  appellate replay meta_rewarding --groups {RUN}/iterations/0000/groups --out pairs.parquet\n" in text
    assert "live judge" not in text


def test_a_training_that_compares_nothing_has_a_loss_alone():
    text = shown(training={"steps": 3, "first_loss": 2.25, "last_loss": 1.5})
    assert "loss 2.2500" in text and "1.5000" in text and "%" not in text


def test_what_a_model_wrote_is_never_markup():
    hostile = {**JUDGE, "text": "Reasons.\n[/INST] [red]Score[/red]: 5"}
    text = shown(training={**TRAINING, "judge_before": hostile}, sync={**SYNC, "judge_after": {"error": "[/b] 500"}})
    assert "live judge before: weights v0, scores [2.5], 2 of 3 votes readable" in text
    assert "“[/INST] [red]Score[/red]: 5”" in text.replace("\n", "")
    assert "live judge after : [/b] 500" in text


def test_a_judge_that_said_nothing_and_a_training_without_a_step():
    text = shown(
        training={"steps": 0, "skipped_steps": 2, "judge_before": {**JUDGE, "text": "  \n"}}, sync=None, pairs=None,
        groups=None,
    )
    assert "ends “”" in text.replace("\n", " ")
    assert "nan" not in text


def shown_training(**changes: Any) -> str:
    screen = io.StringIO()
    training = {"steps": 3, "first_loss": 0.693147, "last_loss": 0.25, "last_accuracy": 0.75, "tokens_per_s": 1234.5}
    summary = {"run": RUN, "pairs": 48, "checkpoint": f"{RUN}/iterations/0000/checkpoint", "bad_rows": 0,
               "training": {**training, **changes}}
    print_training(Console(file=screen, width=100), summary)
    return screen.getvalue()


def test_a_training_alone_is_shown():
    text = shown_training()
    assert f"training finished in {RUN}\n" in text
    for part in ("48", "3", "0.6931", "0.2500", "75%", "1234"):
        assert part in text
    assert f"  appellate serve --model {RUN}/iterations/0000/checkpoint\n" in text


def test_a_training_alone_without_a_step_is_shown():
    text = shown_training(steps=0, first_loss=None, last_loss=None, last_accuracy=None, tokens_per_s=None)
    assert "48" in text
    assert "None" not in text


def test_progress_off_a_terminal_is_a_line_at_each_end_and_keeps_brackets():
    screen = io.StringIO()
    with RunProgress(Console(file=screen, width=60)) as progress:
        progress.version = "v0"
        progress.stage("iteration 0: groups", 3)
        for done in (1, 2, 3):
            progress.update(done, 10 * done, 0.5, note="[/odd]")
        progress.say(f"[x] {RUN}")
    lines = screen.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines[:-1]] == ["iteration 0: groups: 0/3", "iteration 0: groups: 3/3"]
    assert "[/odd]" in lines[1]
    assert "parsed 50%" in lines[1]
    assert lines[-1] == f"[x] {RUN}"


def test_quiet_progress_says_nothing():
    screen = io.StringIO()
    with RunProgress(Console(file=screen), quiet=True) as progress:
        progress.stage("training", 2)
        progress.update(2)
        progress.say("done")
    assert screen.getvalue() == ""


def breakdown(width: int, terminal: bool) -> str:
    """An evaluation's result with a table of ten columns, as a console of this width shows it."""
    rows = [{"subset": "content continuation", **{f"measure {i}": 0.123456 + i for i in range(9)}, "why": "x" * 60}]
    estimates = {"a": Estimate(value=0.5, n=3)}
    result = Result(evaluation="e", data="d", data_hash=None, rows=1, estimates=estimates, tables={"by": rows})
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_evaluation(console, result)
    text: Any = console.file
    return text.getvalue()


def test_a_breakdown_shows_the_columns_that_fit_and_names_the_rest() -> None:
    narrow = breakdown(80, True)
    assert "content continuation" in narrow and "0.1235" in narrow and "3.123" in narrow and "9.1" not in narrow
    assert "--json has measure 4, " in " ".join(narrow.split())
    assert max(map(len, narrow.splitlines())) <= 80
    piped = breakdown(80, False)
    assert "8.123" in piped and "--json has why too" in piped
