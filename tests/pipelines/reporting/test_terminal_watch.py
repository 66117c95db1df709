"""The terminal view of a run: what it shows of each state, and that it ends with the run."""

import io
from typing import Any

from rich.console import Console

from pipelines.reporting.view import RunView
from pipelines.reporting.watch import current, look_at, screen, watch
from tests.pipelines.reporting.planted_runs import Clock, plant, planted_run, start_run, step_metrics


def shown(summary: dict[str, Any], width: int = 80) -> str:
    screen_ = io.StringIO()
    Console(file=screen_, width=width, color_system=None).print(screen(summary))
    return screen_.getvalue()


def test_a_finished_run(tmp_path) -> None:
    ledger = planted_run(tmp_path, 2, 12)
    text = shown(look_at(ledger.path)())
    assert "meta_rewarding  finished  weights v2" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("0 ", "1 "))]
    assert [row[:2] for row in rows] == [["0", "12"], ["1", "12"]]
    assert rows[0][-5:] == ["0.685", "→", "0.493", "90%", "12.8"]
    assert max(map(len, text.splitlines())) <= 80


def test_what_goes_on_now(tmp_path) -> None:
    ledger = start_run(tmp_path, "meta_rewarding", "prompts_limit=9")
    view = RunView(ledger)
    with ledger.lock():
        ledger.event("stage_started", iteration=0, stage="groups")
        ledger.commit_groups(0, planted_groups(4))
        view.refresh()
        assert current(view.summary()) == "iteration 0: groups, 4 of 9 committed"
        Clock(ledger).stage(0, "pairs", 1)
        ledger.event("stage_started", iteration=0, stage="train")
        ledger.append_metrics(0, {"event": "start", "steps": 8, "first_step": 0})
        ledger.append_metrics(0, step_metrics(0, 0, 8))
        view.refresh()
        assert current(view.summary()) == "iteration 0: train, step 1 of 8"
    assert current(view.summary()) == ""
    assert view.summary()["run"]["state"] == "stopped"


def planted_groups(count: int) -> list[Any]:
    return [plant(n, 0) for n in range(count)]


def test_watching_ends_with_the_run_and_shows_hostile_names_as_text(tmp_path) -> None:
    ledger = planted_run(tmp_path, 1, 4)
    last = look_at(ledger.path)()
    states = iter(["running", "running", "finished"])

    def look() -> dict[str, Any]:
        run = {**last["run"], "state": next(states), "path": "/x/\x1b[2J[red]"}
        return {**last, "run": run}

    out = io.StringIO()
    assert watch(Console(file=out, force_terminal=True, width=80), look, 0.0)["run"]["state"] == "finished"
    assert "\x1b[2J[red]" not in out.getvalue()
    assert "[2J[red]" in out.getvalue()


def test_off_a_terminal_it_is_shown_once(tmp_path) -> None:
    ledger = start_run(tmp_path, "irpo")
    with ledger.lock():
        out = io.StringIO()
        assert watch(Console(file=out, width=80), look_at(ledger.path))["run"]["state"] == "running"
        assert out.getvalue().count("irpo") >= 1
