"""Win rates of recorded preferences: fixtures, bad rows, and AlpacaEval 2's published numbers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.annotations.preferences import share_of
from pipelines.evaluation.annotations.win_rate import WinRates, discrete_shares, win_rate, win_rate_interval
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.annotations.recorded_rows import evaluate, write_rows

ROW = {"idx": 0, "baseline": "base", "model": "m", "preference": 2, "len_baseline": 10, "len_model": 20}


def test_a_preference_is_the_models_part_of_the_win() -> None:
    assert [share_of(value) for value in (1, 2, 1.5, 0, 1.25)] == [0, 1, 0.5, 0.5, 0.25]
    for value in (-1, 0.5, 2.01):
        with pytest.raises(ValueError, match="between 1"):
            share_of(value)


def test_win_rate_fixture() -> None:
    found = win_rate(np.array([1, 0.75, 0.5, 0, np.nan]))
    assert (found.win_rate, found.discrete_win_rate) == (56.25, 62.5)
    assert (found.n, found.wins, found.losses, found.ties, found.abstentions) == (4, 2, 1, 1, 1)
    assert found.standard_error == pytest.approx(100 * np.std([1, 0.75, 0.5, 0], ddof=1) / 2)
    assert win_rate(np.array([np.nan]))[:5] == (None, None, None, None, 0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_swapping_the_sides_gives_the_rest_of_a_hundred(shares: list[float]) -> None:
    share = np.array(shares)
    one, other = win_rate(share), win_rate(1 - share)
    assert one.win_rate is not None and other.win_rate is not None
    assert one.win_rate + other.win_rate == pytest.approx(100)
    assert one.standard_error == pytest.approx(other.standard_error)
    assert discrete_shares(share).tolist() == [1 if s > 0.5 else 0 if s < 0.5 else 0.5 for s in shares]


def test_intervals_over_instructions() -> None:
    share = np.tile([0.2, 0.4, 0.9, np.nan], 100)
    normal, drawn = win_rate_interval(share), win_rate_interval(share, "bootstrap")
    assert normal == pytest.approx((46.6, 53.4), abs=0.1)
    assert drawn == pytest.approx(normal, abs=0.3)


def test_a_file_is_evaluated_model_by_model_and_an_abstention_is_no_loss(tmp_path) -> None:
    rows = [{**ROW, "idx": i, "preference": p} for i, p in enumerate([2, 1.5, None, 1])]
    rows += [{**ROW, "idx": "x", "model": "n", "preference": 0, "len_model": 30}]
    result = evaluate(WinRates, write_rows(tmp_path, rows))
    assert {name: (e.value, e.n) for name, e in result.estimates.items()} == {"m": (50, 3), "n": (50, 1)}
    assert result.estimates["n"].interval is None
    assert result.abstentions == {"missing": 1} and result.rows == 5 and result.data_hash
    assert result.tables["rates"][0] == pytest.approx({
        "model": "m", "average_length": 20, "win_rate": 50, "standard_error": 100 / np.sqrt(12),
        "discrete_win_rate": 50, "discrete_standard_error": 100 / np.sqrt(12),
    })
    counts = {"n": 3, "wins": 1, "losses": 1, "ties": 1, "abstentions": 1}
    assert result.tables["counts"][0] == {"model": "m", **counts}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "preference": 3}], "rows.jsonl:1: preference: is 3"),
        ([{**ROW, "preference": "2"}], "preference: is text"),
        ([ROW, ROW], "rows.jsonl:2: idx: m on instruction 0 is in .*:1 too"),
        ([ROW, {**ROW, "idx": 1, "baseline": "other"}], "rows.jsonl:2: baseline: m is against other here"),
        ([{key: value for key, value in ROW.items() if key != "model"}], "model: is missing"),
        ([{**ROW, "preference": None}], "no row has one"),
    ],
)
def test_rows_of_no_use_are_named(tmp_path, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(WinRates, write_rows(tmp_path, rows))


def test_alpaca_eval_2_published_numbers(shared_data) -> None:
    """Win rate, its standard error, the discrete win rate, n and length of all models of the shared part."""
    result = evaluate(WinRates, str(shared_data / "alpaca_eval" / "annotations_ae2.parquet"))
    published = {
        row["model"]: row
        for row in map(json.loads, (shared_data / "alpaca_eval" / "leaderboard_ae2.jsonl").read_text().splitlines())
    }
    known = [row for row in result.tables["rates"] if row["model"] in published]
    counted = {row["model"]: row["n"] for row in result.tables["counts"]}
    assert len(result.tables["rates"]) == 50 and len(known) == 49  # text_davinci_003 is on no leaderboard
    for row in known:
        there = published[row["model"]]
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert row[name] == pytest.approx(there[name], abs=0.01), (row["model"], name)
        assert counted[row["model"]] == there["n_total"]
        # theirs counts instructions without a judgement too, and is cut to a whole number
        assert row["average_length"] == pytest.approx(there["avg_length"], abs=2.1), row["model"]


def test_alpaca_eval_1_has_draws_of_two_kinds(shared_data) -> None:
    result = evaluate(WinRates, str(shared_data / "alpaca_eval" / "annotations_ae1.parquet"))
    assert sum(row["ties"] for row in result.tables["counts"]) == 167 + 27
    assert result.rows == 40996 and len(result.estimates) == 51
