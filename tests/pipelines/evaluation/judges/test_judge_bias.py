"""judge-bias on oracles with a known bias, on planted regressions, and on real attacks."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import ConfigError
from pipelines.evaluation.base import Result, read_settings
from pipelines.evaluation.judges.bias import (
    fit,
    length_estimates,
    observations,
    self_preference,
    style_estimates,
    style_rows,
)
from pipelines.evaluation.judges.comparisons import Comparison, read_comparisons
from pipelines.evaluation.judges.judge_bias import JudgeBias
from pipelines.evaluation.judges.scale_use import retest_scores, retest_verdicts, scale_estimates
from pipelines.evaluation.judges.verdict_numbers import Outcome
from tests.oracles import Opinion, biased, length, place, rule
from tests.pipelines.evaluation.judges.judges import labelled_rows, oracle, write_rows


def run(data: str, opinion: Opinion | None, *words: str) -> Result:
    settings = read_settings(JudgeBias, list(words))
    judging = None if opinion is None else oracle(data, opinion, settings)
    return asyncio.run(JudgeBias().run(data, judging, settings))


def planted(label: float, gap: float, position: float, n: int = 3000, seed: int = 0) -> list[Outcome]:
    """Verdicts drawn from the regression itself."""
    chance, rows = random.Random(seed), []
    for i in range(n):
        sign, longer = chance.choice([1, -1]), chance.choice([-100, 100])
        verdicts = []
        for shown in (1, -1):
            x = label * sign + gap * math.tanh(longer / 100) + position * shown
            verdicts.append("A" if chance.random() < 1 / (1 + math.exp(-x)) else "B")
        rows.append(Outcome(i, "A" if sign > 0 else "B", tuple(verdicts), longer))
    return rows


@pytest.mark.parametrize("effects", [(1.0, 0.0, 0.0), (0.5, 1.5, 0.0), (0.8, -0.5, 1.2), (0.0, 0.0, 0.0)])
def test_planted_effects_are_found(effects: tuple[float, float, float]) -> None:
    found, _ = fit(observations(planted(*effects)))
    assert tuple(found) == pytest.approx(effects, abs=0.12)


def test_errors_are_as_wide_as_estimates_vary() -> None:
    found = [fit(observations(planted(0.8, 0.5, 0.7, n=150, seed=seed))) for seed in range(60)]
    for term in range(3):
        spread = np.std([effects[term] for effects, _ in found])
        assert np.mean([errors[term] for _, errors in found]) == pytest.approx(spread, rel=0.3)


def test_one_term_alone_has_nearly_the_closed_form_and_no_others() -> None:
    seen = np.asarray([[i, float(i % 4 < 3), 1, 0, 0] for i in range(400)])  # three of four for the label
    effects, errors = fit(seen)
    assert effects.label == pytest.approx(math.log(3), abs=0.01)
    assert errors.label == pytest.approx(1 / math.sqrt(400 * 0.75 * 0.25), rel=0.02)
    assert (effects[1:], errors[1:]) == ((0.0, 0.0), (0.0, 0.0))


def test_a_judge_that_is_always_right_has_finite_effects() -> None:
    seen = np.asarray([[i, 1.0, 1, 0, 0] for i in range(100)])
    effects, errors = fit(seen)
    assert 3 < effects.label < 10 and 0.3 < errors.label < 3


def test_exchanging_what_is_listed_changes_no_effect() -> None:
    made = planted(0.8, 0.5, 0.7, n=200)
    turn = {"A": "B", "B": "A"}
    other = [o._replace(label=turn[o.label], verdicts=tuple(turn[v or ""] for v in o.verdicts[::-1]), longer=-o.longer)
             if i % 2 else o for i, o in enumerate(made)]  # fmt: skip
    assert tuple(fit(observations(other))[0]) == pytest.approx(tuple(fit(observations(made))[0]), abs=1e-6)


def test_length_is_taken_out_of_agreement() -> None:
    """A judge that reads nothing but the length, and right answers are longer."""
    chance = random.Random(0)
    made = []
    for i in range(1500):
        longer = 100 if chance.random() < 0.8 else -100
        verdict = "A" if (longer > 0) == (chance.random() < 0.9) else "B"  # whichever is right; here A always is
        made.append(Outcome(i, "A", (verdict, verdict), longer))
    found = length_estimates(made)
    assert found["agreement"].value == pytest.approx(0.8 * 0.9 + 0.2 * 0.1, abs=0.03)
    assert found["longer_is_right"].value == pytest.approx(0.8, abs=0.03)
    assert found["longer_preferred"].value == pytest.approx(0.9, abs=0.03)
    low, high = found["agreement_at_equal_length"].interval or (0, 0)
    assert low < 0.5 < high < 0.6
    assert (found["length_effect_log_odds"].value or 0) > 2


def test_a_judge_of_places_and_a_judge_of_length_are_seen(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled_rows(60))
    of_places = run(data, place).estimates
    assert (of_places["flip_rate"].value, of_places["first_position_rate"].value) == (1.0, 1.0)
    assert (of_places["first_place_effect_log_odds"].value or 0) > 3
    assert of_places["agreement_at_equal_length"].value == pytest.approx(0.5, abs=0.01)
    of_length = run(data, length).estimates
    assert of_length["longer_preferred"].value == 1.0
    assert (of_length["length_effect_log_odds"].value or 0) > 3
    both = run(data, biased(6.0, 0.1)).estimates
    assert (of_length["length_effect_log_odds"].value or 0) > (both["length_effect_log_odds"].value or 0) > 0


def test_repeated_votes_are_held_against_each_other(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled_rows(30))
    steady = run(data, rule(), "votes=4", "temperature=0.7").estimates
    assert steady["retest_agreement"].value == 1.0
    shaky = run(data, lambda shown, chance: [chance.random() for _ in shown], "votes=4", "temperature=0.7").estimates
    assert shaky["retest_agreement"].value == pytest.approx(0.5, abs=0.12)
    scored = run(data, rule(), "votes=3", "temperature=0.7", "protocol=additive")
    assert scored.estimates["retest_score_difference"].value == 0.0
    assert scored.estimates["scores at the ends"].value == 0.5  # .5 and 4.5 of 5: rounded to 0 or to 4
    assert "retest_agreement" not in run(data, rule()).estimates


def test_retests_by_hand() -> None:
    assert retest_verdicts([(0, ["A", "A", "B"]), (1, ["A", None]), (2, ["tie", "tie"])]).value == (1 / 3 + 1) / 2
    assert retest_scores([(0, [1.0, 3.0]), (1, [2.0])]).value == 2.0
    assert retest_verdicts([]).why == "no question was judged twice"


def test_the_use_of_a_scale_by_hand() -> None:
    even = scale_estimates([1, 2, 3, 4, 5], (1, 5))
    assert (even["scale used"].value, even["scores at the ends"].value) == (pytest.approx(1.0), 0.4)
    one = scale_estimates([3, 3, 3], (1, 5))
    assert (one["scale used"].value, one["scores at the most frequent"].value) == (0.0, 1.0)
    assert scale_estimates([], (1, 5)) == {}


def test_styles_by_hand() -> None:
    pairs = [(i, j) for i in range(3) for j in range(3)]
    outcomes = [Outcome(0, "A", ("A" if i >= j else "B",)) for i, j in pairs]  # the richer style, unless alike
    found = style_estimates(outcomes, pairs)
    assert [found[f"style_{k}"].value for k in ("hard", "normal", "easy")] == [0.0, 1.0, 1.0]
    assert [row["accuracy"] for row in style_rows(outcomes, pairs)] == [1, 0, 0, 1, 1, 0, 1, 1, 1]


def test_a_judge_of_length_falls_for_real_attacks(shared_data: Path, tmp_path: Path) -> None:
    made = read_comparisons(str(shared_data / "rm_bench/pairs.parquet"), shuffle=False)
    by_length = [Outcome(c.row, "A", ("A" if c.longer > 0 else "B",), c.longer, c.subset) for c in made]
    found = style_estimates(by_length, [c.styles or (0, 0) for c in made])
    hard, normal, easy = (found[f"style_{k}"].value or 0.0 for k in ("hard", "normal", "easy"))
    assert hard < 0.15 < normal < 0.85 < easy
    assert found["style_hard"].n == 3 * 554
    biases = read_comparisons(str(shared_data / "evalbiasbench/pairs.jsonl"), shuffle=False)
    longer = [replace(c, verdicts=("A" if c.longer > 0 else "B",)) for c in biases if c.subset == "length bias"]
    assert sum(c.verdicts == ("A",) for c in longer) == 0


def test_a_judge_that_likes_its_own_answers_is_seen(tmp_path: Path) -> None:
    names = [("me", "you"), ("you", "me")]
    rows = [{**row, "model_a": names[i % 2][0], "model_b": names[i % 2][1], "verdict": "AB"[i % 2]}
            for i, row in enumerate(labelled_rows(40))]  # fmt: skip
    result = run(write_rows(tmp_path / "own.jsonl", rows), None, "self_name=me")
    found = {name: e.value for name, e in result.estimates.items()}
    assert found["picks_self"] == 1.0
    own = sum((row["label"] == "A") == (row["model_a"] == "me") for row in rows) / 40
    assert (found["label_is_self"], found["self_preference"]) == (own, pytest.approx(1 - own))
    nameless = write_rows(tmp_path / "none.jsonl", labelled_rows(4, verdict="A"))
    with pytest.raises(ConfigError, match="needs columns model_a"):
        run(nameless, None, "self_name=me")


def test_two_answers_of_its_own_say_nothing() -> None:
    made = [Comparison(0, "p", "a", "b", "A", authors=("me", "me")), Comparison(1, "p", "a", "b", "A")]
    outcomes = [Outcome(0, "A", ("A",)), Outcome(1, "A", ("A",))]
    assert self_preference(made, outcomes, "me")["self_preference"].n == 0


def test_recorded_repetitions_are_used(tmp_path: Path) -> None:
    rows: list[Any] = [{**row, "votes": ["A", "A", "B", None]} for row in labelled_rows(3)]
    result = run(write_rows(tmp_path / "votes.jsonl", rows), None)
    assert result.estimates["retest_agreement"].value == pytest.approx(1 / 3)
    assert result.abstentions == {"missing": 3}
