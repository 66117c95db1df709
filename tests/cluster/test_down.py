"""Notes of live drivers, and what `appellate down` stops when the cluster does not answer."""

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest

from cluster import down
from cluster.processes import run_environment


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(down, "cache_dir", lambda: tmp_path)
    return tmp_path / "live"


def plant(folder, name: str = "other.json", **fields):
    me = psutil.Process()
    note = {"run": "r", "host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "address": None}
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(note | fields))
    return folder / name


def test_a_driver_is_noted_while_it_lives(folder):
    with down.driver_note("mine", "auto"):
        (note,) = down.live_drivers("mine")
        assert (note["pid"], note["host"], note["address"]) == (os.getpid(), socket.gethostname(), "auto")
        assert [file.suffix for file in folder.iterdir()] == [".json"]
        assert down.live_drivers("yours") == []
    assert list(folder.iterdir()) == []


def test_a_note_appears_whole_or_not_at_all(folder, monkeypatch):
    def replace(draft, file):
        assert down.live_drivers() == []
        assert json.loads(draft.read_text())["run"] == "mine"
        os.rename(draft, file)

    monkeypatch.setattr(down.os, "replace", replace)
    with down.driver_note("mine", None):
        assert len(down.live_drivers()) == 1


def test_notes_of_dead_drivers_go_and_those_of_other_hosts_stay(folder):
    dead = plant(folder, "dead.json", started=1.0)
    elsewhere = plant(folder, "elsewhere.json", host="other-host", started=1.0)
    assert down.live_drivers() == []
    assert not dead.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize("text", ['{"run": "r", "pi', "", "[]", "7", '{"run": "r"}', "\udcff"])
def test_a_half_written_note_is_passed_over(folder, text):
    plant(folder)
    (folder / "half.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [note["run"] for note in down.live_drivers()] == ["r"]


def test_a_run_is_meant_by_its_name_or_its_id(folder):
    for run_id in ("mine-0a1b2c", "mine-two-0a1b2c", "mine-ffffff"):
        plant(folder, f"{run_id}.json", run=run_id)
    assert [note["run"] for note in down.live_drivers("mine")] == ["mine-0a1b2c", "mine-ffffff"]
    assert [note["run"] for note in down.live_drivers("mine-0a1b2c")] == ["mine-0a1b2c"]
    assert len(down.live_drivers()) == 3


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("mine", {"mine-0a1b2c"}),
        ("mine-0a1b2c", {"mine-0a1b2c"}),
        ("mine-two", {"mine-two-0a1b2c"}),
        ("serve-123abc", {"serve-123abc"}),
        ("m", set()),
        ("min.", set()),
    ],
)
def test_applications_of_a_run_whose_name_begins_alike_stay(run, expected):
    names = ["appellate-mine-0a1b2c-actor", "appellate-mine-0a1b2c-http", "appellate-mine-two-0a1b2c-actor",
             "appellate-serve-123abc-actor", "other-mine-0a1b2c-actor"]
    assert down.run_ids(names, run) == expected


@pytest.mark.parametrize("named", ["{}", "{}-0a1b2c"])
def test_a_wrong_address_still_stops_what_is_left_here(monkeypatch, named):
    def delete(run, address):
        raise ConnectionError("no answer\nfrom there")

    monkeypatch.setattr(down, "_delete_applications", delete)
    run = f"down-test-{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env=os.environ | run_environment(named.format(run)), stdout=subprocess.PIPE,
    ) as left:
        try:
            assert left.stdout is not None
            left.stdout.readline()
            with pytest.raises(down.DownError) as caught:
                down.take_down(run, "10.0.0.1:1")
            assert left.wait(timeout=10) != 0
        finally:
            left.kill()
    message = str(caught.value)
    assert message.startswith("nothing deleted on the cluster at 10.0.0.1:1: no answer from there; stopped 1 processes")
