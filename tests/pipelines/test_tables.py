import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.tables import cells_right, gold_table, read_table, table_text, whole_json

HEADER = ["House", "Name", "BookGenre"]
GOLD = gold_table(HEADER, [["1", "Eric", "science fiction"], ["2", "Alice", "mystery"]])
HOUSES = {
    "House 1": {"Name": "Eric", "BookGenre": "Science  Fiction"}, "House 2": {"Name": "alice", "BookGenre": "mystery"}
}
FORMS = {
    "as asked": {"reasoning": "…", "solution": HOUSES},
    "houses alone": HOUSES,
    "capital key": {"Solution": HOUSES},
    "houses by number": {"solution": {"1": HOUSES["House 1"], "2": HOUSES["House 2"]}},
    "other spellings": {"house_1": {"name": "Eric", "Book Genre": "science fiction"}, "HOUSE #02": HOUSES["House 2"]},
    "list of rows": {"solution": [{"House": 1, **HOUSES["House 1"]}, {"House": "House 2", **HOUSES["House 2"]}]},
    "header and rows": {"solution": {
        "header": HEADER, "rows": [["1", "Eric", "science fiction"], [2, "Alice", "mystery"]]
    }},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_read(form: str) -> None:
    text = f"First, Eric {{lives}} here.\n```json\n{json.dumps(FORMS[form])}\n```\nThat is it."
    found = read_table(text, HEADER)
    assert found == GOLD
    assert cells_right(found, GOLD) == 4


def test_the_last_table_counts_and_gaps_are_wrong_cells() -> None:
    first, last = {"solution": HOUSES}, {"solution": {"House 2": {"Name": "Alice", "Car": "blue"}}}
    found = read_table(f"{json.dumps(first)} or rather {json.dumps(last)}, as {{}} shows", HEADER)
    assert found == {("2", "name"): "alice"}
    assert cells_right(found, GOLD) == 1
    assert cells_right({("1", "name"): "alice", ("2", "name"): "eric"}, GOLD) == 0
    assert cells_right(None, GOLD) == 0


@pytest.mark.parametrize("text", [
    "", "{", "{}", "no table", '{"solution": "Eric"}', '{"solution": {"House 1": {"Name": "Eric"',
    '{"House 1": "Eric"}',
    '{"solution": {"House one": {"Name": "Eric"}}}', '{"solution": {"House 1": {"Name": null, "Car": "x"}}}', "[1, 2]",
    '{"solution": {"header": ["House", "Name"], "rows": ["1"]}}',
])  # fmt: skip
def test_no_table(text: str) -> None:
    assert read_table(text, HEADER) is None


def test_an_object_that_was_cut_off_after_its_table_is_read() -> None:
    assert read_table(json.dumps({"reasoning": "", "solution": HOUSES})[:-1], HEADER) == GOLD


def test_gold_rows_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError):
        gold_table(HEADER, [["1", "Eric"]])


@pytest.mark.parametrize(("text", "whole"), [
    ('{"a": 1}', True), ('\n```json\n{"a": 1}\n```\n', True), ("```\n{}\n```", True), ('So: {"a": 1}', False),
    ("[1]", False), ("", False), ("``````", False), ('{"a": 1} {"b": 2}', False),
])  # fmt: skip
def test_whole_json(text: str, whole: bool) -> None:
    assert whole_json(text) is whole


@given(st.dictionaries(st.tuples(st.sampled_from("123"), st.sampled_from(["name", "bookgenre"])), st.text(max_size=4)))
def test_equal_tables_have_equal_texts(table: dict[tuple[str, str], str]) -> None:
    assert table_text(table) == table_text(dict(reversed(table.items())))
    assert {(h, f): v for h, f, v in json.loads(table_text(table))} == table


@given(st.text(alphabet='{}[]":,House 1Name\\', max_size=60))
def test_a_table_that_is_read_has_cells(text: str) -> None:
    found = read_table(text, HEADER)
    assert found is None or found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["{", '{"a":', '{"House 1": {', "{} ", '"'])
def test_half_a_million_characters_are_searched(unit: str) -> None:
    assert read_table(unit * (500_000 // len(unit)), HEADER) is None
