"""Reading prompts: every format, every way a row can be wrong, and which prompts an iteration gets."""

import json
import tempfile
from datetime import date
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import Message, groups_table, prompt_identity
from pipelines.steps.make_prompts import BadRow, InputError, prompts_for_iteration, read_prompts

TURNS = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
         {"role": "user", "content": "v"}]


def write(folder: Path, *rows: object, name: str = "p.jsonl") -> str:
    file = folder / name
    file.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(file)


def texts(source: str, **options) -> list[str]:
    return [group["messages"][-1]["content"] for group in read_prompts(source, **options).groups]


# ---- good rows


def test_rows_become_groups(tmp_path):
    source = write(
        tmp_path,
        {"prompt": " héllo ", "gold": "42", "gold_chain": "6*7", "level": 3, "empty": None},
        "",
        {"messages": TURNS, "gold": 1.5, "id": "x"},
        {"prompt": "n", "gold": 7, "messages": None, "id": 5},
    )
    first, second, third = read_prompts(source).groups
    assert first["messages"] == [{"role": "user", "content": " héllo "}]
    assert (first["gold"], json.loads(first["meta"])) == ("42", {"gold_chain": "6*7", "level": 3})
    assert first["prompt_id"] == prompt_identity(first["messages"])
    assert (second["messages"], second["gold"], json.loads(second["meta"])) == (TURNS, "1.5", {"id": "x"})
    assert (third["gold"], json.loads(third["meta"])) == ("7", {"id": 5})
    assert {(g["iteration"], g["dropped"], len(g["samples"])) for g in (first, second, third)} == {(0, None, 0)}


def test_responses_of_a_row_become_samples(tmp_path):
    source = write(
        tmp_path,
        {"prompt": "p", "responses": ["one", " two "], "criterion": "clarity"},
        {"prompt": "p", "response": "only"},
        {"prompt": "q", "chosen": "good", "rejected": "bad", "responses": None, "gold": 3},
        {"prompt": "r"},
    )
    groups = read_prompts(source).groups
    assert [[(s["kind"], s["index"], s["text"]) for s in group["samples"]] for group in groups] == [
        [("given", 0, "one"), ("given", 1, " two ")], [("given", 0, "only")],
        [("chosen", 0, "good"), ("rejected", 1, "bad")], [],
    ]  # fmt: skip
    assert (json.loads(groups[0]["meta"]), groups[2]["gold"]) == ({"criterion": "clarity"}, "3")
    samples = [sample for group in groups for sample in group["samples"]]
    assert len({sample["sample_id"] for sample in samples}) == len(samples)
    assert {(s["weight_version"], s["finish_reason"], len(s["token_ids"])) for s in samples} == {("given", "stop", 0)}
    assert (samples[1]["n_chars"], samples[1]["n_words"]) == (5, 1)
    assert groups_table(groups).to_pylist() == groups
    again = read_prompts(write(tmp_path, {"prompt": "x"}, {"prompt": "p", "response": "other"}, name="q.jsonl")).groups
    assert again[1]["samples"][0]["sample_id"] == samples[0]["sample_id"]  # by place, not by text


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"response": " "}, "response: is empty"),
        ({"response": ["a"]}, "response: is a list; use text"),
        ({"responses": []}, "responses: is empty; use a list of texts"),
        ({"responses": "a"}, "responses: is text; use a list of texts"),
        ({"responses": ["a", 4]}, "responses[1]: is a number; use text"),
        ({"responses": ["a"], "response": "b"}, "responses: is there and so is response; keep one of them"),
        ({"response": "b", "chosen": "c", "rejected": "d"}, "response: is there and so is chosen with rejected; keep"),
        ({"chosen": "a"}, "rejected: is missing, and a preference needs both chosen and rejected"),
        ({"chosen": "a", "rejected": " a"}, "rejected: is the same text as chosen, so neither is preferred"),
        ({"chosen": "a", "rejected": "\x00"}, "rejected: has a NUL character"),
    ],
)
def test_responses_that_cannot_be_used(tmp_path, row, problem):
    with pytest.raises(InputError) as error:
        read_prompts(write(tmp_path, {"prompt": "p", **row}))
    assert f"p.jsonl:1: {problem}" in str(error.value)


@pytest.mark.parametrize(
    ("gold", "text"), [(42, "42"), (42.0, "42"), (-0.5, "-0.5"), (10**30, "1" + "0" * 30), (1e22, "1e+22"), ("x", "x")]
)
def test_gold_numbers_become_their_text(tmp_path, gold, text):
    assert read_prompts(write(tmp_path, {"prompt": "p", "gold": gold})).groups[0]["gold"] == text


def test_repeated_prompts_get_their_own_ids(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}]
    ids = [group["prompt_id"] for group in read_prompts(write(tmp_path, *rows)).groups]
    assert len(set(ids)) == 4
    assert ids == [group["prompt_id"] for group in read_prompts(write(tmp_path, *rows, name="q.jsonl")).groups]


def test_the_limit_stops_reading(tmp_path):
    source = write(tmp_path, {"prompt": "a"}, {"prompt": "b"}, "not json")
    assert texts(source, limit=2) == ["a", "b"]
    with pytest.raises(InputError):
        read_prompts(source, limit=3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip), min_size=1))
def test_any_text_survives(prompts):
    with tempfile.TemporaryDirectory() as folder:
        for escape in (True, False):
            file = Path(folder, "p.jsonl")
            file.write_bytes(b"".join(json.dumps({"prompt": p, "note": p}, ensure_ascii=escape).encode() + b"\n"
                                      for p in prompts))
            groups = read_prompts(str(file)).groups
            assert [g["messages"][0]["content"] for g in groups] == prompts
            assert [json.loads(g["meta"])["note"] for g in groups] == prompts
            assert groups_table(groups).to_pylist() == groups
            assert len({g["prompt_id"] for g in groups}) == len(prompts)


# ---- formats


def test_parquet_and_its_nulls(tmp_path):
    rows = [
        {"prompt": "a", "messages": None, "gold": 42.0, "day": date(2026, 1, 2), "price": Decimal("1.50"), "x": 1.0},
        {"prompt": None, "messages": TURNS, "gold": None, "day": None, "price": None, "x": float("nan")},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet", row_group_size=1)
    first, second = read_prompts(str(tmp_path / "p.parquet")).groups
    assert (first["gold"], json.loads(first["meta"])) == ("42", {"day": "2026-01-02", "price": "1.50", "x": 1.0})
    assert (second["gold"], second["meta"], second["messages"]) == (None, "{}", TURNS)


def test_json_arrays_compression_and_byte_order_marks(tmp_path):
    (tmp_path / "a.json").write_text(' [{"prompt": "a"},\n {"prompt": "b"}]')
    assert texts(str(tmp_path / "a.json")) == ["a", "b"]
    (tmp_path / "b.json").write_text('{"prompt": "a"}\n{"prompt": "b"}')
    assert texts(str(tmp_path / "b.json")) == ["a", "b"]
    (tmp_path / "c.JSONL").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert texts(str(tmp_path / "c.JSONL")) == ["a", "b"]
    with pa.output_stream(str(tmp_path / "d.jsonl.gz"), compression="gzip") as stream:
        stream.write(b'{"prompt": "a"}\n')
    assert texts(str(tmp_path / "d.jsonl.gz")) == ["a"]
    assert texts((tmp_path / "a.json").as_uri()) == ["a", "b"]
    (tmp_path / "e.json").write_text('[{"prompt": "a"}, null, 3]')
    with pytest.raises(InputError, match=r"(?s)e\.json:2: is missing.*e\.json:3: is a number"):
        read_prompts(str(tmp_path / "e.json"))


def test_folders_of_files_keep_to_the_train_split(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, {"prompt": "b"}, name="b.jsonl")
    write(tmp_path, {"prompt": "c"}, name="sub/c.json")
    write(tmp_path, {"prompt": "hidden"}, name=".a.jsonl")
    (tmp_path / "README.md").write_text("x")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    assert texts(str(tmp_path)) == ["a", "b", "c"]
    write(tmp_path, {"prompt": "t"}, name="sub/train-0000.jsonl")
    assert texts(str(tmp_path)) == ["t"]
    write(tmp_path, {"prompt": 1}, name="sub/train-0001.jsonl")
    with pytest.raises(InputError, match=r"sub/train-0001\.jsonl:1: prompt: is a number; use text"):
        read_prompts(str(tmp_path))


def test_saved_data_sets(tmp_path):
    data = datasets.Dataset.from_list([{"prompt": "a", "gold": "1"}, {"prompt": "b", "gold": None}])
    data.save_to_disk(str(tmp_path / "one"))
    assert texts(str(tmp_path / "one")) == ["a", "b"]
    splits = datasets.DatasetDict({"test": data, "train": data.select([1])})
    splits.save_to_disk(str(tmp_path / "splits"))
    assert texts(str(tmp_path / "splits")) == ["b"]
    datasets.DatasetDict({"x": data, "y": data}).save_to_disk(str(tmp_path / "xy"))
    with pytest.raises(InputError, match="has no train split; give the folder of one of x, y"):
        read_prompts(str(tmp_path / "xy"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face data set"):
        read_prompts(str(tmp_path / "one"))


def test_hub_data_sets(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [{"prompt": f"{name} {split}"}, {"prompt": ""}])
    found = read_prompts("owner/name", on_bad_rows="quarantine")
    assert found.groups[0]["messages"][0]["content"] == "owner/name train"
    assert found.bad_rows == [BadRow("owner/name", 2, "prompt", "is empty; write it or leave the row out")]

    def offline(name, split):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"(?s)^owner/name: cannot be .*\(Couldn't reach the Hub\).*local file$"):
        read_prompts("owner/name")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.jsonl", "none.jsonl: no such file or folder"),
        ("/none/at all", "no such file or folder"),
        ("data.csv", "data.csv: unknown format; use a name that ends in .jsonl, .json or .parquet"),
        ("bad.parquet", "bad.parquet: cannot be read"),
        ("bad.jsonl.gz", "bad.jsonl.gz: cannot be read"),
        ("bad.json", "bad.json: is not JSON"),
        ("empty.jsonl", "empty.jsonl: no row that can be used (0 bad rows)"),
        ("folder", "folder: no .jsonl, .json or .parquet file in this folder"),
        ("nope://x/y.jsonl", "nope://x/y.jsonl: not a path that can be read"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("data.csv", "bad.parquet", "bad.jsonl.gz", "empty.jsonl", "bad.json"):
        (tmp_path / name).write_text({"empty.jsonl": "\n\n", "bad.json": "[1,"}.get(name, "a,b"))
    for on_bad_rows in ("fail", "quarantine"):
        with pytest.raises(InputError) as caught:
            read_prompts(source, on_bad_rows=on_bad_rows)
        assert message in str(caught.value)


# ---- bad rows

BAD = [
    ("{", "", "is not JSON (Expecting property name"),
    ('{"prompt": "a", "x": NaN}', "", "is not JSON (NaN is not a JSON value)"),
    ("[" * 100_000, "", "is not JSON ("),
    ("null", "", "is null; a row is an object"),
    ('"text"', "", "is text; a row is an object"),
    ("[1]", "", "is a list; a row is an object"),
    ({}, "prompt", "is missing and so is messages; the row has nothing"),
    ({"question": "q", "answer": "a"}, "prompt", "is missing and so is messages; the row has question, answer"),
    ({"prompt": None}, "prompt", "is missing"),
    ({"prompt": "a", "messages": TURNS}, "prompt", "is there and so is messages; keep one"),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": " \n\t\u3000"}, "prompt", "is empty"),
    ({"prompt": 3}, "prompt", "is a number; use text"),
    ({"prompt": ["a"]}, "prompt", "is a list; use text"),
    ({"prompt": "ab\0"}, "prompt", "has a NUL character at position 3; remove it"),
    ('{"prompt": "a\\ud800b"}', "prompt", "has half of a character (U+D800) at position 2; remove it"),
    ({"messages": "hi"}, "messages", "is text; use a list of {role, content}"),
    ({"messages": []}, "messages", "is empty"),
    ({"messages": ["hi"]}, "messages[0]", "is text; use {role, content}"),
    ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "is 'bot'; use system, user, assistant"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "is ['user']; use"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "is None; use"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing; use text"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "is a list; use text"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "is empty"),
    ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name", "is not used"),
    ({"messages": TURNS[:3]}, "messages[2].role", "is not user; the last message must be the user's"),
    ({"prompt": "a", "gold": True}, "gold", "is true or false; use text"),
    ({"prompt": "a", "gold": ["1"]}, "gold", "is a list; use text"),
    ({"prompt": "a", "gold": " "}, "gold", "is empty"),
    ('{"prompt": "a", "gold": 1e999}', "gold", "is a number; use text"),
    ('{"prompt": "a", "gold": "\\udc00"}', "gold", "has half of a character"),
    ({"prompt": "a", "id": [1]}, "id", "is a list; use text or a whole number"),
    ({"prompt": "a", "id": True}, "id", "is true or false; use text or a whole number"),
    ('{"prompt": "a", "note": ["\\ud800"]}', "note", "has half of a character"),
    ('{"prompt": "a", "note": [1e999]}', "note", "cannot be kept as JSON"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD, ids=[f"{field} {reason}"[:50] for _, field, reason in BAD])
def test_bad_rows_are_named(tmp_path, row, field, reason):
    source = write(tmp_path, {"prompt": "good"}, "", row, {"prompt": "good too"})
    with pytest.raises(InputError) as caught:
        read_prompts(source)
    assert f"{source}:3: {field + ': ' if field else ''}{reason}" in str(caught.value)
    assert "on_bad_rows=quarantine" in str(caught.value)

    found = read_prompts(source, on_bad_rows="quarantine")
    assert len(found.groups) == 2
    assert [(bad.file, bad.row, bad.field) for bad in found.bad_rows] == [(source, 3, field)]
    assert found.bad_rows[0].reason.startswith(reason)
    assert "\n" not in found.bad_rows[0].reason


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2: is not UTF-8 \(invalid start byte at byte 13\)"):
        read_prompts(str(file))
    pq.write_table(pa.table({"prompt": ["a"], "image": [b"\x00"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet:1: image: cannot be kept as JSON \(has bytes\)"):
        read_prompts(str(tmp_path / "p.parquet"))


def test_five_problems_are_named_and_all_are_quarantined(tmp_path):
    source = write(tmp_path, *[{"prompt": ""}] * 8, {"prompt": "good"})
    with pytest.raises(InputError) as caught:
        read_prompts(source)
    assert [bad.row for bad in caught.value.bad_rows] == [1, 2, 3, 4, 5]
    assert len(str(caught.value).splitlines()) == 6
    found = read_prompts(source, on_bad_rows="quarantine")
    assert (len(found.groups), len(found.bad_rows)) == (1, 8)
    with pytest.raises(InputError, match=r"no row that can be used \(8 bad rows\)"):
        read_prompts(write(tmp_path, *[{"prompt": ""}] * 8), on_bad_rows="quarantine")


# ---- the prompts of an iteration


def chosen(groups, iteration, limit, reuse, seed=0) -> list[str]:
    picked = prompts_for_iteration(groups, iteration, limit, reuse, seed)
    assert {group["iteration"] for group in picked} == {iteration}
    return [group["prompt_id"] for group in picked]


def test_iterations_take_disjoint_prompts_until_they_run_out(tmp_path):
    groups = read_prompts(write(tmp_path, *[{"prompt": str(i)} for i in range(10)])).groups
    slices = [chosen(groups, t, 4, False) for t in range(5)]
    assert len({*slices[0], *slices[1]}) == 8
    assert slices[2] == [*chosen(groups, 0, None, True)[8:], *slices[0][:2]]  # starts again where it is exhausted
    assert all(len(set(part)) == 4 for part in slices)
    assert slices[0] == chosen(groups[::-1], 0, 4, False)  # whatever the order of the file
    assert slices[0] != chosen(groups, 0, 4, False, seed=1)
    assert groups[0]["iteration"] == 0


def test_iterations_may_reuse_their_prompts(tmp_path):
    groups = read_prompts(write(tmp_path, *[{"prompt": str(i)} for i in range(10)])).groups
    assert chosen(groups, 0, 4, True) == chosen(groups, 3, 4, True)
    for reuse in (True, False):
        assert sorted(chosen(groups, 2, None, reuse)) == sorted(chosen(groups, 1, 99, reuse))
        assert len(set(chosen(groups, 1, 99, reuse))) == 10


def test_iterations_share_no_lists(tmp_path):
    groups = read_prompts(write(tmp_path, {"prompt": "a"})).groups
    prompts_for_iteration(groups, 1, None, True, 0)[0]["messages"].append(Message(role="user", content="b"))
    assert len(groups[0]["messages"]) == 1
