"""Precision, recall and F1 of critiques by their units: R9's numbers, and what people's labels say of the real data."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.services.critique_units import (
    CritiqueScore,
    agreement,
    claims_meta_judgement,
    critic_table,
    critique_score,
    f1_score,
    means,
    meta_winner,
    ranked_pairs,
    share_true,
)
from pipelines.records import Judgement
from pipelines.steps.aggregate import position_weights
from pipelines.steps.judgements import read_meta_judgement
from pipelines.steps.meta import battles
from tests.pipelines.planted import group, judgement, sample

VERDICTS = st.lists(st.sampled_from([True, False, None]), max_size=8)


def test_r9_fixture_of_one_critique() -> None:
    score = critique_score([True, True, False, True], [True, False, False, True, False])
    assert (score.precision, score.recall, score.status) == (0.75, 0.4, "ok")
    assert score.f1 == pytest.approx(0.521739, abs=1e-6)


def test_r9_the_mean_f1_is_no_f1_of_means() -> None:
    found = means([critique_score([True], [False]), critique_score([True, False], [True, False])])
    assert found == {"precision": 0.75, "recall": 0.25, "f1": 0.25}
    assert f1_score(0.75, 0.25) == pytest.approx(0.375)


def test_r9_an_empty_critique_has_no_precision() -> None:
    assert critique_score([], [False, False]) == CritiqueScore(None, 0.0, None, "missing")
    assert critique_score([], [], "truncated").status == "truncated"
    assert critique_score([None], [True]) == CritiqueScore(None, 1.0, None, "missing")


def test_unreadable_verdicts_are_left_out() -> None:
    assert share_true([True, None, False, None]) == 0.5 and share_true([None]) is None
    assert agreement([True, None, False], [True, True, True]) == [True, False]


@given(VERDICTS, VERDICTS)
def test_scores_are_shares_and_f1_lies_between_them(precision: list[bool | None], recall: list[bool | None]) -> None:
    score = critique_score(precision, recall)
    assert (score.f1 is None) == (score.status != "ok")
    if score.precision is not None and score.recall is not None and score.f1 is not None:
        assert min(score.precision, score.recall) - 1e-12 <= score.f1 <= max(score.precision, score.recall) + 1e-12
        assert (score.f1 == 0) == (not score.precision or not score.recall)
    assert critique_score([*precision, None], recall) == score == critique_score(precision[::-1], recall[::-1])


def test_the_winner_of_two_critiques_needs_a_margin() -> None:
    a, b, none = (CritiqueScore(1.0, 1.0, f1) for f1 in (0.6, 0.5, None))
    assert meta_winner(a, b).value == "A" and meta_winner(b, a).value == "B" and meta_winner(a, a).value == "tie"
    assert meta_winner(a, b, 0.05).value == "A" and meta_winner(a, b, 0.2).value == "tie"
    assert meta_winner(a, none) == (None, "missing")
    with pytest.raises(ValueError, match="negative"):
        meta_winner(a, b, -1)


def two_judgements() -> tuple[Judgement, Judgement]:
    return (judgement("a", "s", "Score: 3", value=3.0, status="ok"),
            judgement("b", "s", "Score: 4", value=4.0, status="ok"))  # fmt: skip


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("f1", "winner"), [((0.9, 0.2), "A"), ((0.2, 0.9), "B"), ((0.5, 0.5), "tie")])
def test_a_meta_judgement_by_claims_is_read_again_on_replay(order: int, f1: tuple[float, float], winner: str) -> None:
    scores = CritiqueScore(f1[0], f1[0], f1[0]), CritiqueScore(f1[1], f1[1], f1[1])
    made = claims_meta_judgement(*two_judgements(), scores, order=order)
    assert made["winner"] == winner and made["status"] == "ok"
    assert read_meta_judgement(made) == made


def test_both_orders_of_a_meta_judgement_by_claims_weigh_the_same_in_elo() -> None:
    a, b = two_judgements()
    scores = CritiqueScore(1.0, 1.0, 1.0), CritiqueScore(0.5, 0.5, 0.5)
    metas = [claims_meta_judgement(a, b, scores, order=order) for order in (0, 1)]
    fought = battles({**group("p", samples=[sample("s", "r")], judgements=[a, b]), "meta_judgements": metas})
    assert position_weights(fought) == (0.5, 0.5)
    assert {b.first if b.result > 0 else b.second for b in fought} == {"a"}


def test_a_critique_without_units_makes_an_unreadable_meta_judgement() -> None:
    made = claims_meta_judgement(*two_judgements(), (CritiqueScore(None, 0.0, None, "missing"), CritiqueScore(1, 1, 1)))
    assert made["winner"] is None and made["status"] == "missing" and read_meta_judgement(made) == made


def test_critics_are_ranked_by_mean_f1_and_equal_ones_share_a_rank() -> None:
    table = critic_table({
        "low": [critique_score([True], [False])], "one": [critique_score([True], [True])],
        "two": [critique_score([True], [True]), critique_score([], [True])], "mute": [critique_score([], [True])],
    })  # fmt: skip
    assert [(row["rank"], row["critic"], row["undefined"]) for row in table] == [
        (1, "one", 0), (1, "two", 1), (3, "low", 0), (None, "mute", 1)]  # fmt: skip


def test_the_order_of_two_critiques() -> None:
    ranked = ranked_pairs(["q", "q", "q", "r", "r"], [0.1, 0.2, 0.2, None, 0.5], [0.3, 0.4, 0.2, 0.1, 0.2])
    assert ranked == [("q", 1.0), ("q", 0.0), ("q", 0.5)]


def test_peoples_labels_give_the_published_scores_exactly(shared_data: Path) -> None:
    """All 210 critiques of the public part: the file's three scores bit for bit, and the critics' means."""
    rows = [json.loads(line) for line in (shared_data / "metacritique/critiques.jsonl").open(encoding="utf-8")]
    scores = [critique_score(row["precision_labels"], row["recall_labels"]) for row in rows]
    assert len(scores) == 210
    for row, score in zip(rows, scores, strict=True):
        assert score == (row["precision_score"], row["recall_score"], row["f1_score"], "ok")
    by_critic: dict[str, list[CritiqueScore]] = {}
    for row, score in zip(rows, scores, strict=True):
        by_critic.setdefault(row["critic"], []).append(score)
    table = critic_table(by_critic)
    assert table[0]["critic"] == "gpt-3.5-turbo" and table[0]["f1"] == pytest.approx(0.6504, abs=5e-5)
    human = next(row for row in table if row["critic"] == "human")
    assert human["rank"] == 7 and human["n"] == 70
    assert [human["precision"], human["recall"], human["f1"]] == pytest.approx([0.8243, 0.4738, 0.5456], abs=5e-5)
