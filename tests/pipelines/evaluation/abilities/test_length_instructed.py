import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.abilities.length_instructed import (
    Duel,
    LengthInstructed,
    Limited,
    Settings,
    numbers,
    scaled_limit,
)
from pipelines.evaluation.command import measure
from pipelines.steps.lengths import count_words, limited_win_rate, violation_rate
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.abilities.speakers import judging


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recorded(data: str, *words: str) -> dict[str, float | None]:
    return {name: e.value for name, e in measure("length-instructed", data, None, list(words), None).estimates.items()}


def test_limits_are_scaled_to_whole_words() -> None:
    assert [scaled_limit(9, scale) for scale in (1, 0.5, 0.25, 0.01, 2)] == [9, 4, 2, 1, 18]


async def test_a_model_is_asked_with_the_limit_and_may_break_it(tmp_path: Path) -> None:
    data = write(tmp_path / "p.jsonl", [{"idx": i, "instruction": f"Say {i}.", "preference": 1} for i in range(4)])
    limits = write(tmp_path / "l.jsonl", [{"idx": i, "max_len": 4} for i in range(4)])

    def say(text: str, index: int) -> str | None:
        head, instruction = text.split("\n\n")
        limit = int(head.removeprefix("Answer the following instruction using ").removesuffix(" words or less."))
        said = [None, "word " * limit, "word " * 3, "word " * 9 + "…"]
        return said[int(instruction.removeprefix("Say ").removesuffix("."))]

    result = await LengthInstructed().run(data, judging(say), Settings(limits=limits, scale=[1, 0.5]))
    found = {name: e.value for name, e in result.estimates.items()}
    assert found["violation_rate x1"] == pytest.approx(1 / 3)
    assert found["violation_rate x0.5"] == pytest.approx(2 / 3)
    assert found["length_by_limit x1"] == pytest.approx((4 + 3 + 9) / 12)
    assert found["truncated x1"] == pytest.approx(1 / 3)
    assert found["win_rate x1"] is None  # the recorded preferences are of other responses
    assert (result.rows, result.abstentions) == (4, {"too_long": 2})  # once under each scale


def test_recorded_outputs_of_several_models(tmp_path: Path) -> None:
    rows = [{"idx": i, "max_len": 3, "generator": name, "output": "word " * (i + more)}
            for i in range(4) for name, more in (("short", 0), ("long", 2))]
    data = write(tmp_path / "o.jsonl", rows)
    assert recorded(data)["violation_rate"] == pytest.approx(2 / 8)
    result = measure("length-instructed", data, None, ["scale=[1, 0.5]"], None)
    assert result.tables["violation_rate by generator"] == [
        {"generator": "long", "x1": 0.5, "x0.5": 1.0}, {"generator": "short", "x1": 0.0, "x0.5": 0.5}
    ]


def test_a_response_that_is_too_long_has_lost(tmp_path: Path) -> None:
    rows = [{"idx": i, "max_len": 2, "output": "word " * n, "preference": p}
            for i, (n, p) in enumerate([(1, 1), (2, 0.5), (3, 1), (1, 0)])]
    assert recorded(write(tmp_path / "o.jsonl", rows))["win_rate"] == 1.5 / 4
    unjudged = [{k: v for k, v in row.items() if k != "preference"} for row in rows]
    assert recorded(write(tmp_path / "u.jsonl", unjudged))["win_rate"] is None


async def test_a_judge_compares_what_keeps_to_the_limit(tmp_path: Path) -> None:
    rows = [{"idx": i, "instruction": f"Say {i}.", "max_len": 2, "baseline": "base", "output": "word " * n}
            for i, n in enumerate([1, 2, 3, 2])]
    seen: list[Duel] = []

    async def compare(duels: list[Duel]) -> list[float | None]:
        seen.extend(duels)
        return [1.0, None, 0.0]

    result = await LengthInstructed(compare).run(write(tmp_path / "o.jsonl", rows), None, Settings())
    assert [duel.response.split() for duel in seen] == [["word"], ["word"] * 2, ["word"] * 2]
    assert seen[0].prompt == "Answer the following instruction using 2 words or less.\n\nSay 0."
    rate = result.estimates["win_rate"]
    assert (rate.value, rate.n) == (pytest.approx(3 / 4 * 1 / 2), 3)


def limited(words: int, limit: int, preference: float | None, problem: str = "p") -> Limited:
    return Limited("", problem, words, limit, preference)


@settings(deadline=None)  # thousands of resamples
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_rates_are_those_of_the_steps(rows: list[tuple[int, int, float]]) -> None:
    words, limits, preferences = zip(*rows, strict=True)
    found = numbers([limited(*row, problem=str(i)) for i, row in enumerate(rows)])
    assert found["violation_rate"].value == violation_rate(words, limits)
    assert found["win_rate"].value == pytest.approx(limited_win_rate(words, limits, preferences))


def test_a_judge_who_is_often_unreadable_does_not_lower_the_win_rate() -> None:
    heard = [limited(1, 2, 1.0), limited(1, 2, 0.0), limited(3, 2, None), limited(3, 2, None)]
    mute = [limited(1, 2, None)] * 2
    assert numbers(heard)["win_rate"].value == 0.25
    assert numbers([*heard, *mute, limited(3, 2, None), limited(3, 2, None)][:8])["win_rate"].value == 0.25
    assert numbers([limited(1, 2, None), limited(3, 2, 1.0)])["win_rate"].why == \
        "no response that keeps to its limit was compared"
    assert numbers([limited(3, 2, 1.0)])["win_rate"].value == 0.0


def test_rows_without_a_limit_and_preferences_out_of_range_are_named(tmp_path: Path) -> None:
    row = {"idx": 7, "output": "a"}
    for bad, message in [(row, "row 1: no max_len"), ({**row, "max_len": 0}, "a limit is one word or more"),
                         ({**row, "max_len": 3, "preference": 1.5}, "preference is 1.5; it is 1 for a win")]:
        with pytest.raises(InputError, match=message):
            recorded(write(tmp_path / "bad.jsonl", [bad]))
    limits = write(tmp_path / "l.jsonl", [{"idx": 1, "max_len": 2}])
    with pytest.raises(InputError, match=r"no row of limits=.* has its idx"):
        recorded(write(tmp_path / "bad.jsonl", [row]), f"limits={limits}")


# Limits are the shortest of three models' answers, by white space: the shortest one keeps to its own.
def test_recorded_alpaca_eval_outputs(shared_data, tmp_path: Path) -> None:
    folder = shared_data / "alpaca_eval"
    baselines = {"gpt4_1106_preview", "claude-3-opus-20240229", "mistral-large-2402"}
    names = baselines | {"gpt4_0613_concise", "gpt4_0613_verbose"}
    table = pq.read_table(folder / "model_outputs.parquet", filters=[("generator", "in", names)])
    pq.write_table(table, data := tmp_path / "outputs.parquet")
    limits = f"limits={folder / 'length_targets.jsonl'}"
    result = measure("length-instructed", str(data), None, [limits, "scale=[1, 0.5]"], None)
    rates = result.tables["violation_rate by generator"]
    found = {row["generator"]: (round(row["x1"], 4), round(row["x0.5"], 4)) for row in rates}
    assert found == {
        "claude-3-opus-20240229": (0.5329, 0.9975), "gpt4_0613_concise": (0.0534, 0.4621),
        "gpt4_0613_verbose": (0.7776, 0.9801), "gpt4_1106_preview": (0.8932, 0.9938),
        "mistral-large-2402": (0.4547, 0.9963),
    }
    targets = {row["idx"]: row["max_len"] for row in map(json.loads, (folder / "length_targets.jsonl").open())}
    shortest = dict.fromkeys(targets, 10**9)
    for row in table.to_pylist():
        if row["generator"] in baselines:
            shortest[row["idx"]] = min(shortest[row["idx"]], count_words(row["output"]))
    assert all(shortest[i] <= targets[i] for i in targets)
