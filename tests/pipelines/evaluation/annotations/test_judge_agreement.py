"""Agreement statistics against scikit-learn, scipy, Krippendorff's own examples and brute force."""


import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.evaluation.annotations import agreement_statistics as of
from pipelines.evaluation.annotations.agreement import Agreement
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.annotations.recorded_rows import ends, evaluate, number, write_rows

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=40).map(np.array)


def alpha_by_coincidences(gold: np.ndarray, given: np.ndarray, ordinal: bool) -> float:
    """Krippendorff 2011, computed as it is written: coincidence matrix, then observed over expected differences."""
    values = sorted(set(gold) | set(given))
    place = {value: i for i, value in enumerate(values)}
    o = np.zeros((len(values), len(values)))
    for a, b in zip(gold, given, strict=True):
        o[place[a], place[b]] += 1
        o[place[b], place[a]] += 1
    n_c, n = o.sum(0), o.sum()
    delta = np.zeros_like(o)
    for c in range(len(values)):
        for k in range(len(values)):
            low, high = min(c, k), max(c, k)
            delta[c, k] = (n_c[low : high + 1].sum() - (n_c[c] + n_c[k]) / 2) ** 2 if ordinal else float(c != k)
    return 1 - (n - 1) * (o * delta).sum() / (np.outer(n_c, n_c) * delta).sum()


@settings(deadline=None)
@given(pairs)
def test_statistics_are_those_of_other_libraries(rows: np.ndarray) -> None:
    from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

    gold, given_ = rows.T
    assume(len(set(gold)) > 1 and len(set(given_)) > 1)
    assert of.accuracy(gold, given_) == pytest.approx(np.mean(gold == given_))
    kept = np.isin(given_, gold)  # scikit-learn warns about classes that are no gold
    if kept.all():
        assert of.balanced_accuracy(gold, given_) == pytest.approx(balanced_accuracy_score(gold, given_))
    assert of.cohen_kappa(gold, given_) == pytest.approx(cohen_kappa_score(gold, given_))
    assert of.pearson(gold, given_) == pytest.approx(stats.pearsonr(gold, given_).statistic)
    assert of.spearman(gold, given_) == pytest.approx(stats.spearmanr(gold, given_).statistic)
    assert of.kendall(gold, given_) == pytest.approx(stats.kendalltau(gold, given_).statistic)


@settings(deadline=None)
@given(pairs)
def test_alpha_is_that_of_the_coincidence_matrix(rows: np.ndarray) -> None:
    gold, given_ = rows.T
    assume(len(set(gold) | set(given_)) > 1)
    assert of.krippendorff_nominal(gold, given_) == pytest.approx(alpha_by_coincidences(gold, given_, False))
    assert of.krippendorff_ordinal(gold, given_) == pytest.approx(alpha_by_coincidences(gold, given_, True))


def test_krippendorffs_examples() -> None:
    """Krippendorff 2011, sections A (binary, 0.095) and B (nominal, 0.692)."""
    first, second = np.array([list("0100000000"), list("1110010010")])
    assert of.krippendorff_nominal(first, second) == pytest.approx(0.095, abs=5e-4)
    one, other = np.array([list("aabbdcccedda"), list("babbbccceddd")])
    assert of.krippendorff_nominal(one, other) == pytest.approx(0.692, abs=5e-4)


@settings(deadline=None)
@given(st.lists(pairs.filter(lambda rows: len(rows) >= 5).map(lambda rows: rows[:5].T), min_size=1, max_size=4))
def test_many_resamples_at_once_are_each_on_its_own(batch: list[np.ndarray]) -> None:
    gold, given_ = np.stack([rows[0] for rows in batch]), np.stack([rows[1] for rows in batch])
    for name, statistic in {**of.LABELS, **of.ORDERED}.items():
        if name != "kendall_tau_b":
            together = np.asarray(statistic(gold, given_))
            alone = [float(statistic(a, b)) for a, b in zip(gold, given_, strict=True)]
            assert together == pytest.approx(alone, nan_ok=True), name


def test_undefined_statistics_are_no_numbers() -> None:
    same = np.zeros(4)
    for name in ("cohen_kappa", "krippendorff_nominal"):
        assert np.isnan(of.LABELS[name](same, same))
    for statistic in of.ORDERED.values():
        assert np.isnan(statistic(same, same))
    assert of.cohen_kappa(same, [0, 0, 1, 1]) == pytest.approx(0)


def test_two_judges_compared() -> None:
    """Ten items that the first alone has right against two: McNemar's exact p is 2 * P(X <= 2), X of 12 at a half."""
    first = np.array([1] * 10 + [0] * 2 + [1] * 20 + [0] * 8)
    second = np.array([0] * 10 + [1] * 2 + [1] * 20 + [0] * 8)
    found = of.compare(first, second)
    assert (found.difference, found.only_first, found.only_second) == (0.2, 10, 2)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5))
    assert found.interval is not None and 0 < found.interval[0] < 0.2 < found.interval[1]
    assert of.compare(first, first)[:2] == (0, (0, 0)) and of.compare(first, first).p_value == 1
    back = of.compare(second, first)
    assert back.difference == -0.2 and back.p_value == pytest.approx(found.p_value)
    assert of.compare([], []).difference is None


LABELLED = [
    {"gold": g, "verdict": v, "second": s, "prompt": i // 2}
    for i, (g, v, s) in enumerate(
        [("A", "A", "A"), ("B", "B", "A"), ("tie", "A", "tie"), ("A", "A", "B"), ("B", None, "B"), ("A", "A", None)]
    )
]


def test_labels_from_a_file(tmp_path) -> None:
    data = write_rows(tmp_path, LABELLED)
    result = evaluate(Agreement, data)
    assert number(result, "accuracy") == 0.8 and result.estimates["accuracy"].n == 5
    assert number(result, "answered") == pytest.approx(5 / 6)
    assert "spearman" not in result.estimates and result.abstentions == {"missing": 1}
    assert result.tables["confusion"][1] == {"gold": "B", "(missing)": 1, "A": 0, "B": 1}
    ordered = evaluate(Agreement, data, order=["B", "tie", "A"])
    expected = stats.spearmanr([2, 0, 1, 2, 2], [2, 0, 2, 2, 2]).statistic
    assert number(ordered, "spearman") == pytest.approx(expected)
    with pytest.raises(InputError, match=r"rows.jsonl:3: gold: is 'tie', which order=\[B, A\] lacks"):
        evaluate(Agreement, data, order=["B", "A"])


def test_two_judges_from_a_file(tmp_path) -> None:
    result = evaluate(Agreement, write_rows(tmp_path, LABELLED), other="second", cluster="prompt")
    assert number(result, "verdict accuracy") == 0.8
    assert number(result, "second accuracy") == 0.6
    difference = result.estimates["accuracy_difference"]
    assert (difference.value, difference.n) == (0.25, 4)  # of the four items that both answered
    assert number(result, "mcnemar_p") == 1 and result.estimates["mcnemar_p"].n == 3
    assert result.abstentions == {"verdict missing": 1, "second missing": 1}


def test_a_status_other_than_ok_is_an_abstention(tmp_path) -> None:
    rows = [{**row, "verdict": "A", "status": "ok"} for row in LABELLED]
    rows[0]["status"] = "truncated"
    result = evaluate(Agreement, write_rows(tmp_path, rows), status="status")
    assert result.abstentions == {"truncated": 1} and result.estimates["accuracy"].n == 5


def test_scores_from_a_file(tmp_path) -> None:
    scores = [(1, 2), (2, 2), (3, 5), (4, 4), (5, 5), (2, 1)]
    data = write_rows(tmp_path, [{"human": g, "machine": v} for g, v in scores])
    result = evaluate(Agreement, data, gold="human", verdict="machine")
    gold, given_ = np.array(scores).T
    assert number(result, "kendall_tau_b") == pytest.approx(stats.kendalltau(gold, given_).statistic)
    assert number(result, "accuracy") == 0.5
    halves = write_rows(tmp_path, [{"gold": g + 0.5, "verdict": v} for g, v in scores])
    assert "accuracy" not in evaluate(Agreement, halves).estimates  # of scores that are no classes
    constant = evaluate(Agreement, write_rows(tmp_path, [{"gold": g, "verdict": 3} for g, _ in scores]))
    assert constant.estimates["pearson"].value is None and "never varies" in (constant.estimates["pearson"].why or "")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"verdict": "A"}], {}, "rows.jsonl:1: gold: is missing; the row has verdict"),
        ([{"gold": "A", "verdict": 3}], {}, "some are numbers"),
        ([{"gold": "A"}], {}, "verdict: no row has one"),
        ([{"gold": "A", "verdict": "A"}], {"other": "x"}, "x: no row has one"),
        ([{"gold": "A", "verdict": ["A"]}], {}, "verdict: is a list"),
        ([{"gold": "A", "verdict": "A"}], {"cluster": "p"}, "p: is missing"),
    ],
)
def test_rows_of_no_use_are_named(tmp_path, rows, settings, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Agreement, write_rows(tmp_path, rows), **settings)


def test_raw_and_length_controlled_win_rates_of_the_leaderboard(shared_data) -> None:
    """AlpacaEval 2's two columns order models alike, but not the same."""
    result = evaluate(
        Agreement, str(shared_data / "alpaca_eval" / "leaderboard_ae2.jsonl"), gold="length_controlled_winrate",
        verdict="win_rate",
    )
    assert result.rows == 215
    assert number(result, "spearman") == pytest.approx(0.9665, abs=1e-3)
    low, high = ends(result, "spearman")
    assert low < number(result, "spearman") < high
