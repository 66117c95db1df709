"""appellate report, explain and watch: what they print, write, and how they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appellate import app
from pipelines.ledger import Ledger
from tests.pipelines.reporting.planted_runs import planted_run


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    return planted_run(tmp_path_factory.mktemp("runs"), 1, 6)


def appellate(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_report_lies_in_the_runs_folder_or_where_asked(ledger: Ledger, tmp_path: Path) -> None:
    inside = Path(ledger.path, "report.html")
    result = appellate("report", ledger.path)
    assert (result.exit_code, result.stdout.split(",")[0]) == (0, str(inside))
    other = tmp_path / "other.html"
    said = json.loads(appellate("report", ledger.path, "--out", str(other), "--json").stdout)
    assert said == {"report": str(other), "bytes": other.stat().st_size}
    assert other.read_text("utf-8").startswith("<!doctype html>")
    assert inside.read_text("utf-8").startswith("<!doctype html>")


def test_explain_prints_a_pair_and_gives_json(ledger: Ledger) -> None:
    pair = ledger.read_pairs(0).to_pylist()[0]
    text = appellate("explain", ledger.path, pair["pair_id"])
    assert text.exit_code == 0
    lines = [line.strip() for line in text.stdout.splitlines()]
    for line in (*pair["chosen_text"].splitlines(), *pair["rejected_text"].splitlines()):
        assert line in lines
    found = json.loads(appellate("explain", ledger.path, pair["pair_id"], "--json").stdout)
    assert found["record"]["pair_id"] == pair["pair_id"]
    assert found["sources"]["chosen"]["record"]["text"] == pair["chosen_text"]


def test_watch_off_a_terminal_shows_the_run_once(ledger: Ledger) -> None:
    result = appellate("watch", ledger.path)
    assert result.exit_code == 0
    assert "meta_rewarding  finished  weights v1" in result.stdout
    summary = json.loads(appellate("watch", ledger.path, "--json").stdout)
    assert summary["iterations"][0]["groups"] == 6


@pytest.mark.parametrize("words", [["report", "/no/such/run"], ["explain", "/no/such/run", "x" * 24],
                                   ["watch", "/no/such/run"], ["watch", "/no/such/run", "--page"]])
def test_what_is_no_run_is_refused_in_one_line(words: list[str]) -> None:
    result = appellate(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: /no/such/run: no such run directory\n"


def test_unknown_ids_and_silent_addresses_are_refused(ledger: Ledger) -> None:
    unknown = appellate("explain", ledger.path, "f" * 24, "--json")
    assert unknown.exit_code == 2
    assert "has an id ffff" in json.loads(unknown.stdout)["error"]
    silent = appellate("watch", "http://127.0.0.1:9")
    assert silent.exit_code == 1
    assert "no run can be seen at http://127.0.0.1:9/run" in silent.stderr
