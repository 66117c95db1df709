"""The report as a file: what is in it can be read again, and nothing that a model wrote can leave its place."""

import base64
import gzip
import hashlib
import json
import re
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from pipelines import storage
from pipelines.ledger import Ledger
from pipelines.reporting.page import GROUPS_A_CHUNK, live_page, report_page
from pipelines.reporting.view import RunView
from tests.pipelines.planted import judged_group, run_recipe
from tests.pipelines.reporting.planted_runs import Clock, commit, plant, planted_run, start_run

ATTACKS = [
    "</script><script>alert(1)</script>", "<!--<script>", "]]>", "<img src=x onerror=alert(1)>", "{{ script }}",
    "{{ chunk_data }}", "\u2028\u2029", "\ud800", "\x00\x1b[2J", "${alert(1)}", "`", "\\u003c/script\\u003e",
    "&lt;b&gt;",
    "javascript:alert(1)", "<style>*{display:none}</style>", "'\"><svg onload=alert(1)>", "%3Cscript%3E",
    "\u202egnp.exe",
]


def opened(ledger: Ledger) -> RunView:
    view = RunView(ledger)
    view.refresh()
    return view


def data(page: bytes) -> dict[str, Any]:
    """Every embedded value by its id."""
    tag = r'<script type="application/octet-stream" id="([\w-]+)">([A-Za-z0-9+/=]*)</script>'
    found = re.findall(tag, page.decode())
    return {name: json.loads(gzip.decompress(base64.b64decode(packed))) for name, packed in found}


def test_everything_of_a_run_can_be_read_from_its_page(tmp_path) -> None:
    ledger = planted_run(tmp_path, 2, 20)
    page = report_page(opened(ledger))
    held = data(page)
    index, summary = held["index"], held["summary"]
    assert len(index["id"]) == 40
    assert held["page"]["left_out"] == 0
    for iteration in (0, 1):
        rows = {p["pair_id"]: p for p in ledger.read_pairs(iteration).to_pylist()}
        for group in ledger.iter_groups(iteration):
            at = index["id"].index(group["prompt_id"])
            detail = next(g for g in held[f"chunk-{index['chunk'][at]}"] if g["prompt_id"] == group["prompt_id"])
            assert [s["text"] for s in detail["samples"]] == [s["text"] for s in group["samples"]]
            assert [j["text"] for j in detail["judgements"]] == [j["text"] for j in group["judgements"]]
            assert [m["winner"] for m in detail["meta_judgements"]] == [m["winner"] for m in group["meta_judgements"]]
            assert sorted(index["kinds"][at]) == sorted({p["kind"] for p in detail["pairs"]})
            assert index["unreadable"][at] == sum(j["status"] != "ok" for j in group["judgements"])
            assert index["best"][at] == pytest.approx(max(s["score"] or 0.0 for s in group["samples"]), abs=1e-4)
            for pair in detail["pairs"]:
                row = rows.pop(pair["pair_id"])
                assert (pair["chosen_from"], pair["rejected_from"]) == (row["chosen_from"], row["rejected_from"])
                assert "chosen_text" not in pair  # its source has it
                assert pair["prompt_tokens"] == 3
        assert rows == {}
    assert b"token_ids" not in gzip.compress(json.dumps(held).encode()) and "token_ids" not in json.dumps(held)
    assert summary["run"]["state"] == "finished"
    assert [n["groups"] for n in summary["iterations"]] == [20, 20]
    assert [u["version"] for u in summary["updates"]] == ["v1", "v2"]
    assert summary["run"]["version"] == "v2"


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    page = live_page("a run")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    for text, directive in ((script, "script-src"), (style, "style-src")):
        hashed = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{hashed}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bon\w+=\""
    assert not re.search(unsafe, page)
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)


def test_what_models_wrote_cannot_leave_its_place(tmp_path) -> None:
    """Every attack in prompt, gold, response and judgement; and as the run's name where a folder can have it."""
    ledger = start_run(tmp_path, "meta_rewarding")
    raw = []
    for i, attack in enumerate(ATTACKS):
        said = attack.replace("\ud800", "?")  # no file of the run can hold a lone surrogate
        texts = {f"{i}g": (f"good {said}", [f"{said}\nScore: 4"]), f"{i}b": (f"bad {said}", [f"{said}\nScore: 1"])}
        raw.append(judged_group(texts, f"p{i}", gold=said, messages=[{"role": "user", "content": said}]))
    groups, pairs = run_recipe("meta_rewarding", raw)
    commit(ledger, 0, groups, pairs)
    ledger.event("failed", error=ATTACKS[0], traceback="")
    Clock(ledger).stage(0, "pairs", 1, pairs=len(pairs))
    page = report_page(opened(ledger))
    plain = re.sub(rb'<script type="application/octet-stream"[^>]*>[A-Za-z0-9+/=]*</script>', b"", page)
    assert plain.count(b"<script") == plain.count(b"</script") == 1
    clean = live_page("meta_rewarding-run \u00b7 Appellate").replace("connect-src 'self'", "connect-src 'none'")
    assert plain.decode().split() == clean.split()  # nothing of the run stands outside its data
    held = data(page)
    assert sorted(held["index"]["prompt"]) == sorted(g["messages"][0]["content"] for g in groups)


def test_texts_beyond_the_bound_are_left_out_evenly_and_counted(tmp_path) -> None:
    ledger = start_run(tmp_path, "meta_rewarding")
    for iteration in (0, 1):
        raw = [plant(n, iteration, 2, 1) for n in range(2 * GROUPS_A_CHUNK)]
        groups, pairs = run_recipe("meta_rewarding", raw, iteration)
        commit(ledger, iteration, groups, pairs)
        ledger.mark(iteration, "pairs", {"pairs": len(pairs)})
    view = opened(ledger)
    whole = data(report_page(view))
    one = max(len(base64.b64encode(gzip.compress(storage.to_json(v)))) for k, v in whole.items() if "chunk" in k)
    page = report_page(view, max_text_bytes=int(2 * one * 1.2))
    held = data(page)
    index = held["index"]
    assert len(index["id"]) == 4 * GROUPS_A_CHUNK
    kept = [t for t, chunk in zip(index["iteration"], index["chunk"], strict=True) if chunk is not None]
    assert (kept.count(0), kept.count(1)) == (GROUPS_A_CHUNK, GROUPS_A_CHUNK)
    assert held["page"]["left_out"] == 2 * GROUPS_A_CHUNK
    assert len([name for name in held if name.startswith("chunk-")]) == 2


def test_a_view_reads_again_only_what_changed(tmp_path, monkeypatch) -> None:
    ledger = start_run(tmp_path, "meta_rewarding")
    raw = [plant(n, 0) for n in range(6)]
    for group in raw[:4]:
        ledger.commit_groups(0, [group])
    view = opened(ledger)
    read = []
    original = Ledger.read_groups
    monkeypatch.setattr(Ledger, "read_groups", lambda *words: read.append(words[2]) or original(*words))
    view.refresh()
    assert read == []
    ledger.commit_groups(0, raw[4:])
    view.refresh()
    assert len(read) == 1
    assert view.summary()["iterations"][0]["groups"] == 6
    selected, pairs = run_recipe("meta_rewarding", raw)
    ledger.replace_groups(0, selected)
    ledger.commit_pairs(0, pairs, "all")
    ledger.mark(0, "pairs", {"pairs": len(pairs)})
    read.clear()
    view.refresh()
    assert len(read) == 5
    assert sum(view.summary()["iterations"][0]["pairs"].values()) == len(pairs) > 0


def test_a_prompt_that_two_parts_hold_is_listed_once(tmp_path) -> None:
    ledger = start_run(tmp_path, "meta_rewarding")
    one, two = plant(1, 0), plant(2, 0)
    ledger.commit_groups(0, [one])
    ledger.commit_groups(0, [one, two])
    view = opened(ledger)
    assert sorted(view.index()["id"]) == sorted([one["prompt_id"], two["prompt_id"]])
    assert sum(len(list(view.details(*part))) for part in view.parts()) == 2


def test_a_run_without_groups_and_one_of_another_version(tmp_path) -> None:
    empty = start_run(tmp_path / "a", "irpo")
    assert data(report_page(opened(empty)))["summary"]["run"]["state"] == "stopped"
    other = Ledger.create(str(tmp_path / "b"), "r", {"recipe": "gone", "model": "m", "strange": 1}, {})
    groups, pairs = run_recipe("meta_rewarding", [plant(1, 0)])
    commit(other, 0, groups, pairs)
    other.mark(0, "pairs", {"pairs": len(pairs)})
    held = data(report_page(opened(other)))
    assert held["summary"]["run"]["rule"] == ""
    assert held["chunk-0"][0]["pairs"][0]["steps"] == []  # nobody knows how it was trained


def test_a_run_in_an_object_store_keeps_its_report_there(tmp_path, monkeypatch) -> None:
    memory = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory", skip_instance_cache=True)))
    place = f"bucket-{tmp_path.name}"
    monkeypatch.setattr(storage, "filesystem", lambda path: (memory, path.replace("memory://", place)))
    ledger = start_run("memory:///runs", "meta_rewarding")  # ty: ignore[invalid-argument-type]
    groups, pairs = run_recipe("meta_rewarding", [plant(n, 0) for n in range(3)])
    commit(ledger, 0, groups, pairs)
    ledger.mark(0, "pairs", {"pairs": len(pairs)})
    where = ledger.write_report(report_page(opened(ledger)))
    assert where == f"{ledger.path}/report.html"
    assert len(data(ledger._folder.read("report.html"))["index"]["id"]) == 3
