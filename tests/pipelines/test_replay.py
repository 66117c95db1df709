import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.config import ConfigError
from pipelines.records import PAIRS, groups_table, pairs_table
from pipelines.replay import InputError, read_groups, replay
from pipelines.steps import make_prompts
from tests.pipelines.planted import group, judged_group, meta, run_recipe, sample

TEXTS = {
    "A": ("answer a", ["x\nScore: 4", "y\nScore: 5", "no verdict"]),
    "B": ("answer b", ["Score: 3", "Score: 3"]),
    "D": ("answer d", ["Score: 2", "Score: 7", "Score: 1"]),
}


def planted() -> list[Any]:
    """Three prompts in two iterations; the first has a battle of both positions on each side."""
    calls = [meta("A-j0", "A-j1", 0, "Winner: B"), meta("A-j0", "A-j1", 1, "Winner: A")]
    tied = {"A": ("one", ["Score: 3"]), "B": ("two", ["Score: 3"])}
    return [
        judged_group(TEXTS, "p1", meta_judgements=calls), judged_group(tied, "p2"),
        judged_group(TEXTS, "p3", iteration=3),
    ]  # fmt: skip


def write(path: Path, rows: list[Any], schema: bool = True) -> Path:
    pq.write_table(groups_table(rows) if schema else pa.Table.from_pylist(rows), path)
    return path


def without_derived(row: Any) -> Any:
    """Only what cannot be derived, with the columns of other fields absent."""
    keep = {"samples": ("sample_id", "text"), "judgements": ("judgement_id", "sample_ids", "text"),
            "meta_judgements": ("judgement_a", "judgement_b", "order", "text")}  # fmt: skip
    out = {key: row[key] for key in ("prompt_id", "messages", "iteration")}
    return out | {name: [{f: item[f] for f in fields} for item in row[name]] for name, fields in keep.items()}


def test_replay_makes_the_pairs_of_the_recipe(tmp_path: Path) -> None:
    summary = replay("meta_rewarding", write(tmp_path / "g.parquet", planted()), tmp_path / "out.parquet", [])
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(PAIRS)
    expected = (
        run_recipe("meta_rewarding", planted()[:2])[1] + run_recipe("meta_rewarding", planted()[2:], iteration=3)[1]
    )
    assert table.equals(pairs_table(expected))
    assert [(p["iteration"], p["kind"]) for p in expected] == [(0, "actor"), (0, "judge"), (3, "actor")]
    assert summary["pairs"] == {"actor": 2, "judge": 1}
    assert summary["dropped"] == {"tied_scores": 1}
    assert summary["accounting"]["judgements"]["counts"] == {
        "ok": 14,
        "missing": 2,
        "ambiguous": 0,
        "out_of_range": 2,
        "truncated": 0,
    }
    assert set(summary["iterations"]) == {"0", "3"}
    assert json.loads(json.dumps(summary)) == summary


def test_settings_can_be_named_with_and_without_method(tmp_path: Path) -> None:
    texts = {
        f"y{i}": (str(i) * n, [f"Score: {s}"])
        for i, (s, n) in enumerate([(4.6, 900), (4.5, 400), (2.4, 800), (2.2, 200)])
    }
    source = write(tmp_path / "g.parquet", [judged_group(texts)])
    outputs = []
    for words in (["rho=[0.1]"], ["method.rho=[0.1]", "profile=cpu"], ["rho=0.1"], []):
        replay("meta_rewarding", source, tmp_path / "out.parquet", words)
        (pair,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
        outputs.append((pair["chosen_from"], pair["rejected_from"]))
    assert outputs == [("y1", "y2")] * 3 + [("y0", "y3")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rho=[0.5]"], "rho"),
        (["chosen_max_char=9"], "did you mean method.chosen_max_chars"),
        (["rho"], "key=value"),
        (["rho=x"], "rho"),
    ],
)
def test_bad_settings_fail_before_reading(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replay("meta_rewarding", tmp_path / "absent.parquet", tmp_path / "out.parquet", words)
    assert not list(tmp_path.iterdir())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_d4_d10_the_file_is_byte_identical_in_any_order(tmp_path: Path, random) -> None:
    rows = planted()
    rows += [judged_group(TEXTS, f"more{i}") for i in range(3)]
    replay("meta_rewarding", write(tmp_path / "g.parquet", rows), tmp_path / "one.parquet", [])
    mixed = copy.deepcopy(rows)
    random.shuffle(mixed)
    for row in mixed:
        for key in ("samples", "judgements", "meta_judgements"):
            random.shuffle(row[key])
    replay("meta_rewarding", write(tmp_path / "mixed.parquet", mixed), tmp_path / "two.parquet", [])
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_derived_columns_may_be_absent_null_or_stale(tmp_path: Path) -> None:
    rows = planted()
    bare = [without_derived(row) for row in rows]
    stale = copy.deepcopy(rows)
    for row in stale:
        row["dropped"] = "tied_scores"
        for s in row["samples"]:
            s.update(score=1.0, votes=3, answer="x", n_chars=1)
        for j in row["judgements"]:
            j.update(value=0.0, verdict="A", status="ok", elo=5.0)
        for m in row["meta_judgements"]:
            m.update(winner="A", status="missing")
    seen = []
    for name, source, schema in (
        ("full", rows, True),
        ("bare", bare, False),
        ("null", bare, True),
        ("stale", stale, True),
    ):
        replay("meta_rewarding", write(tmp_path / f"{name}.parquet", source, schema), tmp_path / "out.parquet", [])
        pairs = pq.read_table(tmp_path / "out.parquet").to_pylist()
        seen.append([(p["pair_id"], p["chosen_text"], p["chosen_score"]) for p in pairs])
    assert len(seen[0]) == 3
    assert seen[1:] == [seen[0]] * 3


def test_truncated_stays_truncated(tmp_path: Path) -> None:
    row = judged_group({"A": ("one", ["Score: 5"]), "B": ("two", ["Score: 1"])})
    row["judgements"][0]["status"] = "truncated"
    summary = replay("meta_rewarding", write(tmp_path / "g.parquet", [row]), tmp_path / "out.parquet", [])
    assert summary["dropped"] == {"one_readable_score": 1}
    assert summary["accounting"]["judgements"]["rates"]["truncated"] == 0.5


def test_irpo_replays_without_judgement_columns(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "p", "iteration": 1, "messages": [{"role": "user", "content": "2+2?"}], "gold": "4",
         "meta": json.dumps({"gold_chain": "Count.\n#### 4"}),
         "samples": [{"sample_id": f"s{i}", "text": f"Final answer: {i}"} for i in range(6)]}
    ]  # fmt: skip
    summary = replay(
        "irpo", write(tmp_path / "g.parquet", rows, schema=False), tmp_path / "o.parquet", ["pairs_per_prompt=4"]
    )
    assert summary["pairs"] == {"actor": 4}
    texts = {p["chosen_text"] for p in pq.read_table(tmp_path / "o.parquet").to_pylist()}
    assert texts == {"Final answer: 4", "Count.\n#### 4"}


def change(path: list[Any], value: Any = ...) -> Any:
    def apply(row: Any) -> Any:
        row = without_derived(row)
        target = row
        for step in path[:-1]:
            target = target[step]
        if value is ...:
            del target[path[-1]]
        else:
            target[path[-1]] = value
        return row

    return apply


@pytest.mark.parametrize(
    ("break_it", "field"),
    [
        (change(["prompt_id"]), "prompt_id"),
        (change(["messages"]), "messages"),
        (change(["samples"]), "samples"),
        (change(["messages"], []), "messages"),
        (change(["messages"], "hello"), "messages"),
        (change(["samples", 1, "text"], None), r"samples\[1\].text"),
        (change(["samples", 0, "sample_id"], None), r"samples\[0\].sample_id"),
        (change(["samples"], [{"sample_id": 1, "text": "x"}]), r"samples\[0\].sample_id: text expected, got 1"),
        (change(["samples", 1, "sample_id"], "A"), "'A' is there more than once"),
        (change(["judgements", 2, "text"], None), r"judgements\[2\].text"),
        (change(["judgements", 0, "judgement_id"], None), r"judgements\[0\].judgement_id"),
        (change(["judgements", 0, "sample_ids"], None), r"judgements\[0\].sample_ids"),
        (change(["judgements", 0, "sample_ids"], []), r"judgements\[0\].sample_ids"),
        (change(["judgements", 0, "sample_ids"], ["Z"]), "no sample 'Z'"),
        (change(["judgements", 0, "sample_ids"], ["A", "B"]), r"judgements\[0\].order"),
        (change(["meta_judgements", 0, "order"], None), r"meta_judgements\[0\].order"),
        (change(["meta_judgements", 0, "order"], 2), r"meta_judgements\[0\].order: 0 or 1"),
        (change(["meta_judgements", 0, "judgement_a"], "Z"), "no judgement 'Z'"),
        (change(["iteration"], "first"), "iteration: a whole number expected"),
        (change(["meta"], "[]"), "meta: a JSON object"),
        (change(["meta"], "{"), "meta: not JSON"),
    ],
)
def test_bad_groups_fail_with_file_row_and_field(tmp_path: Path, break_it: Any, field: str) -> None:
    source = write(tmp_path / "bad.parquet", [break_it(planted()[0])], schema=False)
    with pytest.raises(InputError, match=rf"bad\.parquet row 0: .*{field}"):
        replay("meta_rewarding", source, tmp_path / "out.parquet", [])
    assert not (tmp_path / "out.parquet").exists()


def test_the_row_is_named(tmp_path: Path) -> None:
    rows = planted()
    rows[2]["samples"][1]["text"] = None
    with pytest.raises(InputError, match=r"g\.parquet row 2: samples\[1\]\.text: needed"):
        read_groups(write(tmp_path / "g.parquet", rows))
    with pytest.raises(InputError, match=r"row 1: prompt_id: 'p1' of iteration 0 is also in .*row 0"):
        read_groups(write(tmp_path / "g.parquet", [planted()[0], planted()[0]]))


def test_bad_groups_and_bad_prompts_are_one_kind_of_error() -> None:
    assert InputError is make_prompts.InputError


def test_files_that_are_no_groups(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    (tmp_path / "empty").mkdir()
    for name in ("absent.parquet", "text.parquet", "empty"):
        with pytest.raises(InputError, match=name):
            read_groups(tmp_path / name)
    with pytest.raises(InputError, match="no groups"):
        read_groups(write(tmp_path / "none.parquet", []))


def test_a_folder_of_parts_is_one_input(tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    for i, row in enumerate(planted()):
        write(tmp_path / "groups" / f"part-{i}.parquet", [row])
    assert replay("meta_rewarding", tmp_path / "groups", tmp_path / "a.parquet", [])["groups"] == 3
    replay("meta_rewarding", write(tmp_path / "g.parquet", planted()), tmp_path / "b.parquet", [])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_no_pairs_is_an_empty_file(tmp_path: Path) -> None:
    summary = replay(
        "irpo", write(tmp_path / "g.parquet", [group("p", samples=[sample("s", "x")])]), tmp_path / "o.parquet", []
    )
    assert (summary["pairs"], summary["dropped"]) == ({}, {"no_gold_answer": 1})
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0
