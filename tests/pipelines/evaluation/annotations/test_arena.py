"""Ratings from files: both shapes, controls, refusals, and what a reader is told."""


import numpy as np
import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.annotations.arena import Arena
from pipelines.evaluation.annotations.bradley_terry import ELO
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.annotations.recorded_rows import ends, evaluate, number, write_rows


def row(a: str, b: str, winner: str | None, **more) -> dict:
    return {"model_a": a, "model_b": b, "winner": winner, **more}


FOUR = [row("x", "y", "A"), row("x", "y", "model_a"), row("y", "x", "B"), row("x", "y", "B")]  # x wins 3 of 4


def test_ratings_of_two_models(tmp_path) -> None:
    data = write_rows(tmp_path, [*FOUR, row("x", "y", None), row("x", "x", "A")])
    result = evaluate(Arena, data, anchor="y", resamples=0)
    assert number(result, "x") == pytest.approx(1000 + ELO * np.log(3))
    assert number(result, "y") == 1000 and result.estimates["x"].n == 4
    assert result.abstentions == {"missing": 1}
    assert result.tables["models"][0]["win_rate"] == 75
    assert any("against itself" in note for note in result.notes)
    assert not any("ridge" in note for note in result.notes)
    assert evaluate(Arena, data, resamples=0).estimates["x"].value == pytest.approx(1000 + ELO * np.log(3) / 2)


def test_length_is_taken_out(tmp_path) -> None:
    """Equal models, one of them long more often, and a judge who likes length."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(600):
        lengths = {"length_a": int(rng.integers(200, 400)), "length_b": int(rng.integers(100, 300))}
        liked = 4 * (lengths["length_a"] - lengths["length_b"]) / (lengths["length_a"] + lengths["length_b"])
        winner = "A" if rng.random() < 1 / (1 + np.exp(-liked)) else "B"
        rows.append(row("long", "short", winner, prompt_id=i // 2, **lengths))
    data = write_rows(tmp_path, rows)
    plain, controlled = evaluate(Arena, data), evaluate(Arena, data, controls=["length"])
    assert number(plain, "long") > 1050
    estimate = controlled.estimates["long"]
    assert estimate.interval and estimate.interval[0] < 1000 < estimate.interval[1]
    effect = controlled.estimates["effect of length"]
    assert effect.interval and effect.interval[0] > 0.3
    assert any("prompts drawn again" in note for note in controlled.notes)


def test_a_column_of_differences_is_a_control_too(tmp_path) -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 9, (200, 2))
    wins = rng.random(200) < 0.5
    sides = [row("x", "y", "A" if w else "B", lists_a=int(a), lists_b=int(b))
             for (a, b), w in zip(counts, wins, strict=True)]
    whole = [{**one, "lists": (one["lists_a"] - one["lists_b"]) / max(1, one["lists_a"] + one["lists_b"])}
             for one in sides]
    one = evaluate(Arena, write_rows(tmp_path, sides), controls=["lists"], resamples=0)
    other = evaluate(
        Arena, write_rows(tmp_path, [{k: v for k, v in r.items() if not k.startswith("lists_")} for r in whole]),
        controls=["lists"], resamples=0,
    )
    assert number(one, "x") == pytest.approx(number(other, "x"))


def test_an_undefeated_model_is_named(tmp_path) -> None:
    result = evaluate(Arena, write_rows(tmp_path, [*FOUR, row("x", "z", "A"), row("y", "z", "A")]))
    note = next(note for note in result.notes if "ridge" in note)
    assert "z" in note and "0.01" in note and "only the order" not in note
    assert result.estimates["z"].value is not None
    pulled = evaluate(Arena, write_rows(tmp_path, FOUR), ridge=1, resamples=0)
    assert abs(number(pulled, "x") - 1000) < ELO * np.log(3) / 2


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([row("a", "b", "A"), row("c", "d", "A")], {}, InputError, "2 groups of models never met"),
        ([row("a", "b", "C")], {}, InputError, "rows.jsonl:1: winner: is 'C'"),
        ([row("a", "b", "A", weight=-1)], {}, InputError, "weight: is -1"),
        ([{"model_a": "a", "winner": "A"}], {}, InputError, "model_b: is missing"),
        ([row("a", "b", None)], {}, InputError, "no battle"),
        ([row("a", "b", "A")], {"controls": ["length"]}, InputError, "length: is missing, and so are length_a"),
        ([row("a", "b", "A", lists=0)], {"controls": ["lists"]}, InputError, "0 in every battle"),
        ([row("a", "b", "A")], {"prompt": "p"}, InputError, "p: is missing"),
        (FOUR, {"anchor": "gpt"}, ConfigError, "in no battle; there are x, y"),
    ],
)
def test_what_cannot_be_rated_is_refused(tmp_path, rows, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        evaluate(Arena, write_rows(tmp_path, rows), **settings)


def test_alpaca_eval_against_one_baseline_is_the_log_odds_of_the_win_rate(shared_data) -> None:
    """All models met the baseline alone, so strengths are logits of win rates."""
    result = evaluate(
        Arena, str(shared_data / "alpaca_eval" / "annotations_ae2.parquet"), anchor="gpt4_1106_preview", resamples=20
    )
    rates = {row["model"]: row["win_rate"] / 100 for row in result.tables["models"]}
    for name, estimate in result.estimates.items():
        if name != "gpt4_1106_preview":
            assert estimate.value == pytest.approx(1000 + ELO * np.log(rates[name] / (1 - rates[name])), abs=0.01)
    low, high = ends(result, "FuseChat-Gemma-2-9B-Instruct")
    assert low < number(result, "FuseChat-Gemma-2-9B-Instruct") < high
    controlled = evaluate(
        Arena, str(shared_data / "alpaca_eval" / "annotations_ae2.parquet"), controls=["length"], resamples=0
    )
    assert number(controlled, "effect of length") > 0.3
