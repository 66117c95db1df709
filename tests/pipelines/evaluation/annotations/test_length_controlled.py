"""The length-controlled win rate: planted effects found again, and AlpacaEval 2's published numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from pipelines.config import ConfigError
from pipelines.evaluation.annotations.length_control import (
    PULL,
    PULL_TO,
    Panel,
    Published,
    fit_effects,
    fit_jointly,
    length_controlled_win_rate,
    length_feature,
    recover_difficulties,
    win_rate_error,
)
from pipelines.evaluation.annotations.length_controlled import LengthControlled
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.annotations.recorded_rows import ends, evaluate, number, write_rows


def planted(models: int, n: int, seed: int) -> tuple[Panel, np.ndarray, np.ndarray]:
    """Shares that are the model's own probabilities with a little noise, and the effects and difficulties behind."""
    rng = np.random.default_rng(seed)
    effects = np.column_stack([
        rng.normal(-1.5, 0.3, models), rng.normal(0.9, 0.1, models), rng.normal(-1.5, 1, models)
    ])
    d, x = rng.normal(0, 1.5, n), np.tanh(rng.normal(0.3, 1, (models, n)))
    share = expit(effects[:, 2:] + effects[:, :1] * x + effects[:, 1:2] * d + rng.normal(0, 0.3, (models, n)))
    return Panel(share, x, np.ones((models, n), dtype=bool)), effects, d


def test_the_length_feature_is_scaled_and_bounded() -> None:
    x = length_feature(np.array([100.0, 100, 100]), np.array([50.0, 100, 150]))
    assert x == pytest.approx([np.tanh(1), 0, -np.tanh(1)])  # shorter responses are positive
    assert length_feature(np.array([5.0, 6]), np.array([3.0, 4])).tolist() == [0, 0]


def test_effects_are_where_the_pulled_likelihood_is_flat() -> None:
    panel, _, d = planted(1, 400, 0)
    found = fit_effects(panel.share[0], panel.length[0], d)
    missed = panel.share[0] - expit(found[2] + found[0] * panel.length[0] + found[1] * d)
    assert missed @ panel.length[0] == pytest.approx(PULL[0] * (found[0] - PULL_TO[0]), abs=1e-5)
    assert missed @ d == pytest.approx(PULL[1] * (found[1] - PULL_TO[1]), abs=1e-5)
    assert missed.sum() == pytest.approx(0, abs=0.05)


def test_planted_difficulties_and_win_rates_are_found_again() -> None:
    panel, effects, d = planted(20, 400, 1)
    difficulty = recover_difficulties(panel, effects)
    assert np.corrcoef(difficulty, d)[0, 1] > 0.99
    for row in range(3):
        others = np.arange(20) != row
        without = recover_difficulties(panel.of(others), effects[others])
        own = fit_effects(panel.share[row], panel.length[row], without)
        truth = length_controlled_win_rate(effects[row], d)
        assert length_controlled_win_rate(own, without) == pytest.approx(truth, abs=1)
    fitted, together = fit_jointly(panel)
    for one, truth in zip(fitted, effects, strict=True):
        assert length_controlled_win_rate(one, together) == pytest.approx(length_controlled_win_rate(truth, d), abs=2)


def test_published_win_rates_bind_the_difficulties_of_a_small_panel() -> None:
    panel, effects, d = planted(30, 300, 2)
    rates = np.array([length_controlled_win_rate(one, d) for one in effects])
    few = panel.of(np.arange(2))

    def misses(published: Published | None) -> float:
        found = recover_difficulties(few, effects[:2], published=published)
        return max(abs(length_controlled_win_rate(one, found) - rate) for one, rate in zip(effects, rates, strict=True))

    assert misses(Published(effects[2:], rates[2:])) < 0.5 < 1 < misses(None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_padded_loser_gains_nothing_and_swapped_sides_mirror(seed: int) -> None:
    """With sides swapped (shares, lengths and difficulty negated) strength changes its sign alone."""
    rng = np.random.default_rng(seed)
    share, x, d = rng.random(50), np.tanh(rng.normal(size=50)), rng.normal(size=50)
    one, other = fit_effects(share, x, d), fit_effects(1 - share, -x, -d)
    assert other == pytest.approx([one[0], one[1], -one[2]], abs=1e-5)
    total = length_controlled_win_rate(one, d) + length_controlled_win_rate(other, -d)
    assert total == pytest.approx(100, abs=1e-4)


def test_a_model_that_always_loses_has_a_finite_win_rate() -> None:
    found = fit_effects(np.zeros(100), np.zeros(100), np.zeros(100))
    assert np.isfinite(found).all() and 0 < length_controlled_win_rate(found, np.zeros(100)) < 1


def test_the_standard_error_is_that_of_drawing_instructions_again() -> None:
    rng = np.random.default_rng(4)
    d, x = rng.normal(0, 1.5, 300), np.tanh(rng.normal(0.3, 1, 300))
    share = (rng.random(300) < expit(-0.5 - 1.5 * x + 0.8 * d)).astype(float)
    effects = fit_effects(share, x, d)
    drawn = []
    for _ in range(200):
        rows = rng.integers(300, size=300)
        drawn.append(length_controlled_win_rate(fit_effects(share[rows], x[rows], d[rows], effects), d[rows]))
    assert win_rate_error(share, x, d, effects) == pytest.approx(np.std(drawn), rel=0.15)
    assert win_rate_error(share[:1], x[:1], d[:1], effects) is None


def annotations(panel: Panel, base_length: int = 1000) -> list[dict]:
    """Rows that give the panel's shares; lengths of the panel's order, so that models differ in length."""
    return [
        {"idx": i, "baseline": "base", "model": f"m{m}", "preference": 1 + float(panel.share[m, i]),
         "len_baseline": base_length, "len_model": int(base_length - 300 * np.arctanh(panel.length[m, i]))}
        for m in range(len(panel.share)) for i in range(panel.share.shape[1])
    ]


@pytest.fixture
def files(tmp_path) -> tuple[Path, Panel, np.ndarray, np.ndarray]:
    """Annotations of 15 planted models against `base`, and their leaderboard."""
    panel, effects, d = planted(15, 120, 5)
    entries = [{"model": f"m{m}", "length_controlled_winrate": length_controlled_win_rate(e, d),
                "lc_coef_length": e[0], "lc_coef_difficulty": e[1], "lc_coef_model": e[2]}
               for m, e in enumerate(effects)]
    entries.append({"model": "base", "lc_coef_length": 0, "lc_coef_difficulty": 0, "lc_coef_model": 0})
    (tmp_path / "board.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (tmp_path / "difficulty.csv").write_text(
        ",instruction_difficulty\n" + "".join(f"{i},{value}\n" for i, value in enumerate(d))
    )
    return tmp_path, panel, effects, d


def test_three_sources_of_difficulties_agree(files) -> None:
    folder, panel, effects, d = files
    own = [{"idx": i, "baseline": "base", "model": "base", "preference": 1.5, "len_baseline": 1000, "len_model": 1000}
           for i in range(3)]
    data = write_rows(folder, [*annotations(panel), *own])
    recovered = evaluate(LengthControlled, data, leaderboard=str(folder / "board.jsonl"), save=str(folder / "d.jsonl"))
    official = evaluate(LengthControlled, data, difficulties=str(folder / "difficulty.csv"))
    jointly = evaluate(LengthControlled, data)
    saved = evaluate(LengthControlled, data, difficulties=str(folder / "d.jsonl"))
    for m, one in enumerate(effects):
        truth = length_controlled_win_rate(one, d)
        for result in (recovered, official, saved):
            assert number(result, f"m{m}") == pytest.approx(truth, abs=2.5)
        assert number(jointly, f"m{m}") == pytest.approx(truth, abs=4)
        low, high = ends(recovered, f"m{m}")
        assert low < number(recovered, f"m{m}") < high
    assert number(recovered, "base") == 50 and recovered.estimates["base"].interval is None
    assert recovered.tables["against the leaderboard"][0]["models"] == 15
    assert [n for n in recovered.notes if "not used" in n] and [n for n in jointly.notes if "jointly" in n]


def test_a_new_model_is_scored_with_annotations_of_others(files) -> None:
    """Its own row in the leaderboard makes no difference, as its published effects are never used."""
    folder, panel, _, _ = files
    rows = annotations(panel)
    (folder / "others").mkdir()
    others = write_rows(folder / "others", rows[120:])
    board = (folder / "board.jsonl").read_text().splitlines(keepends=True)
    (folder / "without.jsonl").write_text("".join(board[1:]))
    data = write_rows(folder, rows[:120])
    new = evaluate(LengthControlled, data, leaderboard=str(folder / "without.jsonl"), annotations=others)
    known = evaluate(LengthControlled, data, leaderboard=str(folder / "board.jsonl"), annotations=others)
    assert list(new.estimates) == ["m0"]
    assert number(new, "m0") == pytest.approx(number(known, "m0"), abs=1e-6)
    assert "published" not in new.tables["models"][0] and "published" in known.tables["models"][0]
    alone = evaluate(LengthControlled, data, leaderboard=str(folder / "without.jsonl"))
    assert any("fewer than 10" in note and "annotations=FILE" in note for note in alone.notes)


@pytest.mark.parametrize(
    ("changes", "chosen", "error", "message"),
    [
        ({"len_model": None}, {}, InputError, "len_model: is missing; length control needs"),
        ({"baseline": "other", "model": "x"}, {}, InputError, "there are base, other"),
        ({}, {"leaderboard": "board"}, ConfigError, "not against base"),
        ({}, {"difficulties": "few"}, InputError, "1 instructions of the data are not here, 1 say"),
        ({}, {"difficulties": "bad"}, InputError, "difficulty: is text"),
    ],
)
def test_what_cannot_be_controlled_is_refused(tmp_path, changes, chosen, error, message) -> None:
    row = {"idx": 0, "baseline": "base", "model": "m", "preference": 2, "len_baseline": 10, "len_model": 20}
    board = {"model": "base", "lc_coef_length": -1, "lc_coef_difficulty": 1, "lc_coef_model": 1}
    for name, content in {
        "board": board, "few": {"idx": 0, "difficulty": 1.0}, "bad": {"idx": 0, "difficulty": "hard"}
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(content) + "\n")
    data = write_rows(tmp_path, [row, {**row, "idx": 1, **changes}])
    with pytest.raises(error, match=message):
        evaluate(LengthControlled, data, **{key: str(tmp_path / f"{name}.jsonl") for key, name in chosen.items()})


def test_alpaca_eval_2_leaving_each_model_out(shared_data) -> None:
    """Difficulties from the other 47 models' published effects, the model's own effects from its annotations alone."""
    folder = shared_data / "alpaca_eval"
    result = evaluate(
        LengthControlled, str(folder / "annotations_ae2.parquet"), leaderboard=str(folder / "leaderboard_ae2.jsonl")
    )
    own, published = result.tables["against the leaderboard"]
    assert own["models"] == published["models"] == 48  # the baseline and text_davinci_003 have no effects
    assert own["median"] == pytest.approx(0.156, abs=0.02) and own["within 2"] == pytest.approx(46 / 48)
    assert own["90%"] == pytest.approx(1.19, abs=0.1) and own["largest"] < 3
    assert published["median"] < 0.3 and published["within 2"] == 1
    assert number(result, "gpt4_1106_preview") == 50
    assert number(result, "FuseChat-Gemma-2-9B-Instruct") == pytest.approx(70.18, abs=0.5)


def test_alpaca_eval_2_without_a_leaderboard(shared_data) -> None:
    """All effects and difficulties fitted together, from annotations alone, against the published win rates."""
    folder = shared_data / "alpaca_eval"
    result = evaluate(LengthControlled, str(folder / "annotations_ae2.parquet"))
    rows = map(json.loads, (folder / "leaderboard_ae2.jsonl").read_text().splitlines())
    published = {row["model"]: row["length_controlled_winrate"] for row in rows}
    errors = np.array([abs(number(result, name) - published[name]) for name in result.estimates if name in published])
    assert len(errors) == 49
    assert np.median(errors) < 0.4 and np.mean(errors <= 2) > 0.9
