"""The run directory under crashes, damage, two drivers and an object store."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import cast

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs as pafs

from pipelines import storage
from pipelines.ledger import Ledger, LedgerError
from pipelines.records import Group, Message, Pair, new_group

REPO = Path(__file__).parents[2]


def group(text: object, iteration: int = 0) -> Group:
    return new_group([Message(role="user", content=str(text))], iteration=iteration)


def pair(pair_id: str, chosen: str = "c") -> Pair:
    texts = dict.fromkeys(("kind", "chosen_text", "rejected_text", "chosen_from", "rejected_from"), "x")
    ids: dict[str, list] = {key: [] for key in ("messages", "prompt_ids", "chosen_ids", "rejected_ids")}
    return cast(Pair, {**texts, **ids, "pair_id": pair_id, "prompt_id": "p", "iteration": 0, "weight": 1.0,
                       "chosen_text": chosen})


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger.create(str(tmp_path / "runs"), "r", {"beta": 5e-6}, {"seed": 7})


@pytest.fixture
def bucket(monkeypatch) -> Ledger:
    """A run where files cannot be renamed or appended to."""
    memory = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory", skip_instance_cache=True)))
    place = f"bucket-{time.time_ns()}"
    monkeypatch.setattr(storage, "filesystem", lambda path: (memory, path.replace("memory://", place)))
    return Ledger.create("memory:///runs", "r", {"a": 1}, {"seed": 7})


def spawn(code: str, *args: str) -> subprocess.Popen:
    head = "import os, signal, sys, time\nfrom pipelines.ledger import Ledger\nfrom pipelines.records import *\n"
    return subprocess.Popen([sys.executable, "-c", head + code, *args], cwd=REPO, stdout=subprocess.PIPE, text=True)


# ---- birth


def test_a_run_is_made_and_opened_again(ledger, tmp_path, monkeypatch):
    again = Ledger.open(ledger.path)
    assert again == ledger == pickle.loads(pickle.dumps(ledger))
    assert len(pickle.dumps(ledger)) < 200
    assert (again.read_config(), again.read_manifest()) == ({"beta": 5e-6}, {"seed": 7})
    monkeypatch.chdir(tmp_path)
    assert Ledger.open("runs/r") == ledger  # a relative path means the same to workers elsewhere
    assert Ledger.create("runs", "s", {}, {}).path == str(tmp_path / "runs/s")


def test_names_default_to_the_day_and_a_letter(tmp_path):
    names = [Path(Ledger.create(str(tmp_path), None, {}, {}).path).name for _ in range(28)]
    assert [name[11:] for name in names[:2] + names[25:]] == ["a", "b", "z", "aa", "ab"]
    assert names[0][:4].isdigit()


def test_simultaneous_runs_get_their_own_folders(tmp_path):
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(Ledger.create(str(tmp_path), None, {}, {}).path))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8


def test_what_cannot_be_made_or_opened(ledger, tmp_path):
    with pytest.raises(LedgerError, match=r"runs/r: this run exists already; continue it with `appellate resume /"):
        Ledger.create(str(tmp_path / "runs"), "r", {}, {})
    with pytest.raises(LedgerError, match="no such run directory"):
        Ledger.open(str(tmp_path / "none"))
    with pytest.raises(LedgerError, match="not a run directory"):
        Ledger.open(str(tmp_path))
    for name in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(LedgerError, match="cannot name a file"):
            Ledger.create(str(tmp_path), name, {}, {})


# ---- groups and pairs


def test_groups_come_back_once_and_in_one_order(ledger):
    groups = [group(i) for i in range(10)]
    ledger.commit_groups(0, groups[:4])
    part = ledger.commit_groups(0, groups[4:])
    assert ledger.commit_groups(0, groups[:3:-1]) == part  # the same prompts in another order are the same part
    ledger.commit_groups(0, [{**groups[0], "dropped": "later"}])
    assert ledger.commit_groups(0, []) is None

    back = list(ledger.iter_groups(0))
    assert sorted(back, key=lambda g: g["prompt_id"]) == sorted(
        [next(b for b in back if b["prompt_id"] == groups[0]["prompt_id"]), *groups[1:]], key=lambda g: g["prompt_id"]
    )
    assert back == list(ledger.iter_groups(0))
    assert ledger.committed_prompt_ids(0) == {g["prompt_id"] for g in groups}
    assert ledger.committed_prompt_ids(1) == set()
    assert list(ledger.iter_groups(1)) == []
    assert ledger.iterations() == [0]


def test_what_the_generator_wrote_lies_beside_the_groups(ledger):
    asked, answered = [group(i) for i in range(3)], [group(f"prompt {i}") for i in range(2)]
    ledger.commit_groups(0, asked, "prompts")
    ledger.commit_groups(0, answered)
    assert ledger.committed_prompt_ids(0, "prompts") == {g["prompt_id"] for g in asked}
    assert ledger.committed_prompt_ids(0) == {g["prompt_id"] for g in answered}
    ledger.replace_groups(0, ({**g, "dropped": "repeated"} for g in ledger.iter_groups(0, "prompts")), "prompts")
    assert {g["dropped"] for g in ledger.iter_groups(0, "prompts")} == {"repeated"}
    assert {g["dropped"] for g in ledger.iter_groups(0)} == {None}


def test_equal_groups_make_equal_bytes(tmp_path):
    groups = [group(i) for i in range(5)]
    contents = []
    for name in ("a", "b"):
        run = Ledger.create(str(tmp_path), name, {}, {})
        part = run.commit_groups(0, groups if name == "a" else groups[::-1])
        contents.append(Path(run.path, "iterations/0000/groups", str(part)).read_bytes())
    assert contents[0] == contents[1]


def test_commits_that_contradict_themselves(ledger):
    with pytest.raises(ValueError, match="of iteration 1, not 0"):
        ledger.commit_groups(0, [group("a", iteration=1)])
    with pytest.raises(ValueError, match="comes twice"):
        ledger.commit_groups(0, [group("a"), group("a")])
    with pytest.raises(LedgerError, match="cannot name a file"):
        ledger.commit_pairs(0, [], "../x")
    assert ledger.iterations() == []


def test_pairs_are_sorted_and_unique(ledger):
    assert ledger.read_pairs(0).num_rows == 0
    ledger.commit_pairs(0, [pair("d"), pair("b")], "1")
    ledger.commit_pairs(0, [pair("c"), pair("b", "again"), pair("a")], "2")
    ledger.commit_pairs(0, [], "3")
    table = ledger.read_pairs(0)
    assert table["pair_id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["chosen_text"].to_pylist() == ["c"] * 4
    ledger.commit_pairs(0, [pair("z")], "2")  # a part is replaced as a whole
    assert ledger.read_pairs(0)["pair_id"].to_pylist() == ["b", "d", "z"]


def test_all_pairs_are_replaced_at_once(ledger):
    ledger.commit_pairs(0, [pair("d"), pair("b")], "1")
    ledger.commit_pairs(0, [pair("c"), pair("a")], "2")
    ledger.commit_pairs(1, [pair("a")], "1")
    ledger.replace_pairs(0, [pair(key, "new") for key in "dcba"])
    table = ledger.read_pairs(0)
    assert table["pair_id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["chosen_text"].to_pylist() == ["new"] * 4
    assert os.listdir(Path(ledger.path, "iterations/0000/pairs")) == ["part-all.parquet"]
    ledger.replace_pairs(0, [pair(key, "newer") for key in "abc"])  # the one part that there is now
    assert ledger.read_pairs(0)["chosen_text"].to_pylist() == ["newer"] * 3
    assert ledger.read_pairs(1)["chosen_text"].to_pylist() == ["c"]


def test_a_crash_while_pairs_are_replaced_leaves_every_pair_once(ledger, monkeypatch):
    for part in ("0", "1", "zz"):
        ledger.commit_pairs(0, [pair(f"p{part}")], part)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage.Folder, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            ledger.replace_pairs(0, [pair(f"p{part}", "new") for part in ("0", "1", "zz")])
    rows = ledger.read_pairs(0).to_pylist()
    assert [row["pair_id"] for row in rows] == ["p0", "p1", "pzz"]
    ledger.replace_pairs(0, [{**row, "chosen_text": "new"} for row in rows])
    assert ledger.read_pairs(0)["chosen_text"].to_pylist() == ["new"] * 3


def test_derived_fields_replace_raw_groups_part_by_part(ledger):
    groups = [group(i) for i in range(9)]
    for start in (0, 3, 6):
        ledger.commit_groups(0, groups[start : start + 3])
    ledger.commit_groups(0, groups[:2])  # a retried batch, cut differently
    files = sorted(os.listdir(Path(ledger.path, "iterations/0000/groups")))

    def filled(stop: int):
        for number, item in enumerate(ledger.iter_groups(0)):
            if number == stop:
                raise InterruptedError
            yield {**item, "dropped": "why"}

    with pytest.raises(InterruptedError):
        ledger.replace_groups(0, filled(stop=5))
    halfway = list(ledger.iter_groups(0))
    assert {g["dropped"] for g in halfway} == {None, "why"}
    for name in files:
        rows = pq.read_table(Path(ledger.path, "iterations/0000/groups", name)).to_pylist()
        assert len({row["dropped"] for row in rows if row in halfway}) <= 1

    for _ in range(2):  # repeating changes nothing
        ledger.replace_groups(0, filled(stop=99))
        back = list(ledger.iter_groups(0))
        assert len(back) == 9
        assert {g["dropped"] for g in back} == {"why"}
    assert sorted(os.listdir(Path(ledger.path, "iterations/0000/groups"))) == files
    assert pq.read_table(Path(ledger.path, "iterations/0000/groups")).num_rows == 9  # the copies are gone


def test_replacing_needs_every_prompt_once(ledger):
    a, b = group("a"), group("b")
    ledger.commit_groups(0, [a, b])
    for given_groups, message in (([a], "1 committed prompts did not come"), ([a, a], "came twice"),
                                  ([a, group("c")], "was never committed")):
        with pytest.raises(LedgerError, match=message):
            ledger.replace_groups(0, [{**g, "dropped": "x"} for g in given_groups])
        assert {g["dropped"] for g in ledger.iter_groups(0)} == {None}


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign"])
def test_a_damaged_part_is_named(ledger, damage):
    ledger.commit_groups(0, [group("a")])
    file = Path(ledger.path, "iterations/0000/groups", str(ledger.commit_groups(0, [group("b" * 500)])))
    data = bytearray(file.read_bytes())
    data[40] ^= 0xFF
    contents = {"empty": b"", "truncated": data[:-30], "flipped": data, "foreign": b"[tool]\nname = 'not parquet'\n"}
    file.write_bytes(contents[damage])
    with pytest.raises(LedgerError, match=rf"{file}: .*delete it and resume the run"):
        list(ledger.iter_groups(0))
    if damage != "flipped":
        with pytest.raises(LedgerError, match=str(file)):
            ledger.committed_prompt_ids(0)
    file.unlink()
    assert ledger.committed_prompt_ids(0) == {group("a")["prompt_id"]}


def test_a_part_of_another_version_is_named(ledger):
    file = Path(ledger.path, "iterations/0000/groups", str(ledger.commit_groups(0, [group("a")])))
    pq.write_table(pq.read_table(file).drop(["dropped"]), file)
    with pytest.raises(LedgerError, match="does not have the columns of this version"):
        list(ledger.iter_groups(0))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5, unique=True))
def test_any_text_survives(texts):
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(folder, "r", {"texts": texts}, {"texts": texts})
        groups = [group(text) for text in texts]
        ledger.commit_groups(0, groups)
        for text in texts:
            ledger.event("said", text=text)
        assert list(ledger.iter_groups(0)) == sorted(groups, key=lambda g: g["prompt_id"])
        assert ledger.read_config() == ledger.read_manifest() == {"texts": texts}
        assert [event["text"] for event in ledger.events()] == texts


# ---- crashes

COMMIT_ALL = """
ledger, total = Ledger(sys.argv[1]), int(sys.argv[2])
groups = [new_group([{"role": "user", "content": f"prompt {i}"}]) for i in range(total)]
done = ledger.committed_prompt_ids(0)
todo = [g for g in groups if g["prompt_id"] not in done]
if len(sys.argv) > 3:  # die between writing a part and giving it its name
    calls, fsync = [0], os.fsync
    def dying_fsync(handle):
        calls[0] += 1
        if calls[0] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)
    os.fsync = dying_fsync
for start in range(0, len(todo), 4):
    ledger.commit_groups(0, todo[start:start + 4])
print(len(todo))
"""


def test_kill_in_the_middle_of_commits_loses_and_repeats_nothing(ledger):
    total = 600
    folder = Path(ledger.path, "iterations/0000/groups")
    child = spawn(COMMIT_ALL, ledger.path, str(total))
    deadline = time.monotonic() + 30
    while not folder.exists() or len(list(folder.glob("part-*"))) < 10:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.002)
    child.kill()
    child.communicate()
    first = ledger.committed_prompt_ids(0)
    assert 40 <= len(first) < total
    assert len(first) % 4 == 0  # whole parts only

    for call in ("5", "6"):  # odd calls sync the draft, even ones the folder after the rename
        child = spawn(COMMIT_ALL, ledger.path, str(total), call)
        child.communicate(timeout=30)
        assert child.returncode == -signal.SIGKILL
    assert len([name for name in os.listdir(folder) if name.startswith(".")]) >= 1  # a draft was left behind
    committed = ledger.committed_prompt_ids(0)
    assert len(committed) == len(first) + 2 * 4 + 3 * 4

    child = spawn(COMMIT_ALL, ledger.path, str(total))
    assert int(child.communicate(timeout=60)[0]) == total - len(committed)
    assert child.returncode == 0
    rows = pq.read_table(folder)["prompt_id"].to_pylist()  # other readers do not see drafts either
    expected = [group(f"prompt {i}") for i in range(total)]
    assert sorted(rows) == sorted(g["prompt_id"] for g in expected)
    assert sorted(ledger.iter_groups(0), key=lambda g: g["prompt_id"]) == sorted(expected, key=lambda g: g["prompt_id"])


def test_a_failed_write_leaves_no_draft(ledger, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    ledger.commit_groups(0, [group("a")])
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.commit_groups(0, [group("b")])
    assert len(os.listdir(Path(ledger.path, "iterations/0000/groups"))) == 1


# ---- stages, metrics, events


def test_stage_marks(ledger):
    assert ledger.done(0, "groups") is None
    ledger.mark(0, "groups", {"count": 3})
    ledger.mark(0, "train")
    assert (ledger.done(0, "groups") or {})["count"] == 3
    assert ledger.done(0, "train")
    assert ledger.done(1, "groups") is None
    assert ledger.finished() is None
    ledger.mark_finished({"iterations": 1})
    assert (Ledger.open(ledger.path).finished() or {})["iterations"] == 1
    Path(ledger.path, "iterations/0000/done/groups.json").write_text("{")
    with pytest.raises(LedgerError, match=r"done/groups\.json: not JSON"):
        ledger.done(0, "groups")


def test_a_stage_is_completed_once(ledger):
    ran = []

    def work() -> dict[str, int]:
        ran.append("work")
        if len(ran) == 1:
            raise RuntimeError("killed")
        return {"steps": 3}

    with pytest.raises(RuntimeError, match="killed"):
        ledger.complete(0, "train", work)
    assert ledger.done(0, "train") is None
    for _ in range(2):
        ledger.complete(0, "train", work)
    assert ran == ["work"] * 2
    assert (ledger.done(0, "train") or {})["steps"] == 3
    events = [(event["kind"], event["stage"], event.get("steps")) for event in ledger.events()]
    assert events == [("stage_started", "train", None)] * 2 + [("stage_done", "train", 3)]


def test_metrics_are_strict_json(ledger):
    class Scalar:
        def item(self):
            return 0.5

    ledger.append_metrics(0, {"step": 1, "loss": float("nan"), "more": [float("inf"), Scalar()]})
    ledger.append_metrics(0, {"step": 2})
    assert ledger.read_metrics(0) == [{"step": 1, "loss": None, "more": [None, 0.5]}, {"step": 2}]
    assert ledger.read_metrics(1) == []
    assert ledger.checkpoint_dir(3) == f"{ledger.path}/iterations/0003/checkpoint"


def test_a_torn_line_costs_only_itself(ledger):
    ledger.event("started", note="é\ud800\n")
    file = Path(ledger.path, "events.jsonl")
    with file.open("ab") as stream:
        stream.write(b'{"time": "2026-01-01", "kind": "half')
    assert [event["kind"] for event in ledger.events()] == ["started"]
    ledger.event("resumed")
    assert [event["kind"] for event in ledger.events()] == ["started", "resumed"]
    assert ledger.events()[0]["note"] == "é\ud800\n"
    assert ledger.events()[0]["time"].endswith("+00:00")


def test_events_of_many_writers_stay_whole(ledger):
    def write(who: int):
        for number in range(50):
            ledger.event("tick", who=who, number=number, text="x" * 500)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [(event["who"], event["number"]) for event in ledger.events()]
    assert sorted(seen) == [(who, number) for who in range(4) for number in range(50)]


# ---- an object store


def test_a_run_in_an_object_store(bucket):
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create("memory:///runs", "r", {}, {})
    assert Ledger.open("memory:///runs/r").read_config() == {"a": 1}
    groups = [group(i) for i in range(4)]
    with bucket.lock():
        with pytest.raises(LedgerError, match="has driven this run"), bucket.lock():
            pass
        bucket.commit_groups(0, groups[:2])
        bucket.commit_groups(0, groups[2:])
        bucket.replace_groups(0, [{**g, "dropped": "x"} for g in bucket.iter_groups(0)])
        bucket.commit_pairs(0, [pair("b"), pair("a")], "0")
        bucket.replace_pairs(0, [pair("a"), pair("b")])
        bucket.mark(0, "pairs")
        for number in range(3):
            bucket.append_metrics(0, {"step": number})
        bucket.event("one")
        bucket.event("two")
    assert {g["prompt_id"]: g["dropped"] for g in bucket.iter_groups(0)} == {g["prompt_id"]: "x" for g in groups}
    assert bucket.read_pairs(0)["pair_id"].to_pylist() == ["a", "b"]
    assert bucket.read_metrics(0) == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert [event["kind"] for event in bucket.events()] == ["one", "two"]
    assert bucket.done(0, "pairs") and not bucket.done(0, "train")
    assert bucket.iterations() == [0]
    assert bucket.checkpoint_dir(0) == "memory:///runs/r/iterations/0000/checkpoint"


def test_a_uri_keeps_its_options_at_its_end():
    assert storage.join("s3://b/runs?region=x", "r") == "s3://b/runs/r?region=x"
    assert storage.join("/data/what?", "r") == "/data/what?/r"
