import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.abilities.constraints import CHECKS
from pipelines.evaluation.abilities.ifeval_length import COLUMNS, IFEvalLength, Settings, check, instructions_of
from pipelines.evaluation.abilities.responses import read_answered
from pipelines.evaluation.command import measure
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.abilities.speakers import judging

WORDS, COMMA = "length_constraints:number_words", "punctuation:no_comma"
BULLETS = "detectable_format:number_bullet_lists"
FEW = {"relation": "less than", "num_words": 4}


def row(key: int, *instructions: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"key": key, "prompt": f"Write {key}.", "instruction_id_list": [name for name, _ in instructions],
            "kwargs_json": json.dumps([given for _, given in instructions]), **more}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_what_is_not_checked_is_never_followed() -> None:
    asked = instructions_of(row(0, (WORDS, FEW), (COMMA, {"x": None})))
    assert asked == [(WORDS, FEW), (COMMA, {})]
    assert [tuple(c) for c in check("a b c", asked)] == [(WORDS, True, True), (COMMA, None, None)]


async def test_prompts_and_instructions_are_counted(tmp_path: Path) -> None:
    rows = [
        row(0, (WORDS, FEW)), row(1, (WORDS, FEW), (BULLETS, {"num_bullets": 1})), row(2, (WORDS, FEW), (COMMA, {})),
        row(3, (COMMA, {})), row(4, (WORDS, FEW)), row(5, (WORDS, FEW)),
    ]
    said = ["one two", "* one", "one two three four", "no", "Sure, here it is:\nyes", None]
    judge = judging(lambda text, i: said[int(text.split()[1].rstrip("."))])
    result = await IFEvalLength().run(write(tmp_path / "rows.jsonl", rows), judge, Settings())
    values = {name: (e.value, e.n) for name, e in result.estimates.items()}
    assert values == {
        "instruction_strict": (3 / 5, 5), "prompt_strict": (2 / 3, 3), "checked_part_strict": (2 / 4, 4),
        "instruction_loose": (4 / 5, 5), "prompt_loose": (1.0, 3), "checked_part_loose": (3 / 4, 4),
        "truncated": (0.0, 5),
    }
    assert result.abstentions == {"too_long": 1}
    assert result.tables["by instruction"] == [
        {"instruction": BULLETS, "n": 1, "strict": 1.0, "loose": 1.0, "": ""},
        {"instruction": WORDS, "n": 4, "strict": 0.5, "loose": 0.75, "": ""},
        {"instruction": COMMA, "n": 2, "strict": None, "loose": None, "": "not checked"},
    ]
    assert result.notes[0].startswith("2 of 7 instructions are of kinds not checked here")


def test_recorded_responses(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [row(0, (WORDS, FEW), response="one"), row(1, (COMMA, {}), response="a")])
    result = measure("ifeval-length", data, None, [], None)
    assert result.estimates["instruction_strict"].value == 1.0
    only = write(tmp_path / "comma.jsonl", [row(1, (COMMA, {}), response="a")])
    none = measure("ifeval-length", only, None, [], None).estimates["instruction_strict"]
    assert (none.value, none.why) == (None, "no instruction is of a checked kind")


@pytest.mark.parametrize(("bad", "message"), [
    (row(0, (WORDS, {"num_words": 3})), "needs relation, num_words"),
    (row(0, (WORDS, {"num_words": 3, "relation": "exactly"})), "has relation 'exactly'; it is one of at least"),
    ({**row(0, (WORDS, FEW)), "kwargs_json": "[]"}, "no list with one object an instruction"),
    ({**row(0, (WORDS, FEW)), "kwargs_json": "?"}, "row 2"),
])  # fmt: skip
def test_arguments_that_cannot_be_checked_are_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    data = write(tmp_path / "rows.jsonl", [row(0, (WORDS, FEW), response=""), {**bad, "response": ""}])
    with pytest.raises(InputError, match=message):
        measure("ifeval-length", data, None, [], None)


def test_the_real_prompts_are_checked_in_part(shared_data) -> None:
    rows = read_answered(str(shared_data / "ifeval/prompts.jsonl"), COLUMNS, {}, Settings())
    found = [instructions_of(row) for row in rows]
    count = Counter(name for asked in found for name, _ in asked)
    assert (len(rows), count.total()) == (541, 834)
    assert {name: count[name] for name in CHECKS} == {
        "length_constraints:number_words": 52, "length_constraints:number_sentences": 52,
        "length_constraints:number_paragraphs": 27, "length_constraints:nth_paragraph_first_word": 12,
        "detectable_content:number_placeholders": 27, "detectable_format:number_bullet_lists": 31,
        "detectable_format:number_highlighted_sections": 48, "detectable_format:multiple_sections": 14,
        "keywords:frequency": 42, "keywords:letter_frequency": 33, "change_case:capital_word_frequency": 25,
    }
    for row, asked in zip(rows, found, strict=True):
        assert all(c.loose is not None or c.instruction not in CHECKS for c in check(row["prompt"], asked))
