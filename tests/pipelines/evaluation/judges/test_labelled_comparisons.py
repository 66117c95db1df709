"""Labelled pairs of either shape are read alike, and their order says nothing about the label."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.judges.comparisons import is_recorded, read_comparisons
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.judges.judges import labelled_rows, write_rows

PAIR = {"prompt": "p", "response_a": "a", "response_b": "bb", "label": "A"}
CHOSEN = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def read(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> list[Any]:
    return read_comparisons(write_rows(tmp_path / "rows.jsonl", rows), **more)


def test_labelled_rows_stay_as_they_are(tmp_path: Path) -> None:
    found = read(tmp_path, [PAIR, {**PAIR, "label": "b", "subset": "s", "section": "S"}, {**PAIR, "label": "tie"}])
    assert [made.label for made in found] == ["A", "B", "tie"]
    assert {(made.response_a, made.response_b, made.longer) for made in found} == {("a", "bb", -1)}
    assert (found[1].subset, found[1].section, found[1].row) == ("s", "S", 1)
    assert not is_recorded(found)


def test_the_better_one_is_put_in_a_place_by_the_seed(tmp_path: Path) -> None:
    rows = [{**CHOSEN, "prompt": f"p{i}"} for i in range(200)]
    found = read(tmp_path, rows)
    assert all((made.response_a == "good") == (made.label == "A") for made in found)
    labels = Counter(made.label for made in found)
    assert 70 < labels["A"] < 130 and labels["A"] + labels["B"] == 200
    assert read(tmp_path, rows) == found
    assert read(tmp_path, rows, seed=1) != found
    assert {made.label for made in read(tmp_path, rows, shuffle=False)} == {"A"}
    always_a = [{**PAIR, "prompt": f"p{i}"} for i in range(50)]
    assert {made.label for made in read(tmp_path, always_a)} == {"A", "B"}


def test_every_style_is_compared_with_every_other(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"], "subset": "chat"}
    found = read(tmp_path, [row, CHOSEN], shuffle=False)
    assert len(found) == 10 and {made.row for made in found[:9]} == {0}
    assert {made.styles for made in found[:9]} == {(i, j) for i in range(3) for j in range(3)}
    assert found[5].styles == (1, 2) and (found[5].response_a, found[5].response_b) == ("c1", "r2")
    assert found[9].styles is None


def test_rows_are_drawn_by_the_seed_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = labelled_rows(50)
    found = read(tmp_path, rows, limit=10)
    assert len(found) == 10 and found == read(tmp_path, rows, limit=10)
    numbers = [int(made.prompt[9:-1]) for made in found]
    assert numbers == sorted(numbers) and numbers != list(range(10))
    assert [made.row for made in found] == list(range(10))


def test_recorded_verdicts_are_about_the_listing_and_null_is_an_abstention(tmp_path: Path) -> None:
    rows = [{**PAIR, "verdict": "B"}, {**PAIR, "verdict": None}, {**PAIR, "verdict": "tie"}]
    found = read(tmp_path, rows, shuffle=False)
    assert [made.verdicts for made in found] == [("B",), (None,), ("tie",)]
    assert is_recorded(found)
    both = [{**PAIR, "verdicts": ["A", "A"]}, {**PAIR, "verdicts": ["A", None]}]
    assert [made.verdicts for made in read(tmp_path, both, shuffle=False)] == [("A", "A"), ("A", None)]
    assert [made.verdicts for made in read(tmp_path, both, shuffle=False, as_shown=True)] == [("A", "B"), ("A", None)]


def test_exchanging_a_comparison_twice_gives_it_back(tmp_path: Path) -> None:
    row = {**PAIR, "verdicts": ["A", "tie"], "model_a": "x", "model_b": "y", "score_a": 1.0, "score_b": 4}
    (made,) = read(tmp_path, [row], shuffle=False)
    turned = made.swapped()
    assert (turned.label, turned.verdicts, turned.authors, turned.scores) == ("B", ("tie", "B"), ("y", "x"), (4.0, 1.0))
    assert turned.swapped() == made


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "response_a": "a", "response_b": "b"}, "label: is missing"),
        ({**PAIR, "label": "C"}, "label: is 'C'"),
        ({**PAIR, "response_b": None}, "response_b: is missing"),
        ({**CHOSEN, "rejected": ["x", "y"]}, "rejected: has 2 texts, chosen has 1"),
        ({**CHOSEN, "chosen": 3}, "chosen: is a number"),
        ({**PAIR, "prompt": " "}, "prompt: is empty"),
        ({**PAIR, "verdict": "first"}, "verdict: is 'first'"),
        ({**PAIR, "verdicts": ["A"]}, "verdicts: is no list of two"),
        ({**PAIR, "score_a": "4"}, "score_a: is text"),
        ({**PAIR, "reference": 4}, "reference: is a number"),
    ],
)
def test_a_row_of_no_use_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"rows.jsonl:1: {message}"):
        read(tmp_path, [row])


def test_empty_responses_are_data(tmp_path: Path) -> None:
    assert read(tmp_path, [{**PAIR, "response_a": ""}])[0].response_a in ("", "bb")


def test_real_files_of_both_shapes(shared_data: Path) -> None:
    always_a = read_comparisons(str(shared_data / "evalbiasbench/pairs.jsonl"))
    assert len(always_a) == 49 and 10 < sum(made.label == "A" for made in always_a) < 39
    styles = read_comparisons(str(shared_data / "rm_bench/pairs.parquet"))
    assert len(styles) == 9 * 554 and Counter(made.styles for made in styles)[(0, 2)] == 554
    sections = read_comparisons(str(shared_data / "rewardbench/pairs.parquet"))
    assert Counter(made.section for made in sections)["Chat Hard"] == 228
    ties = read_comparisons(str(shared_data / "pandalm/test.parquet"))
    assert Counter(made.label for made in ties) == {"A": 323, "B": 332, "tie": 70}
