"""Labels of rows, and judgements held against them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocols import PROTOCOLS
from pipelines.records import Group, Judgement
from pipelines.steps.labels import (
    Label,
    asks_for,
    label_of,
    questions,
    right_and_wrong,
    said_as_shown,
    verdict_line,
)
from tests.pipelines.planted import group, judgement, sample


def judged(value: float | str | None, name: str = "j", text: str | None = None, **other: Any) -> Judgement:
    """A readable judgement that says `value`; unreadable for None."""
    fields: dict[str, Any] = {"status": "missing" if value is None else "ok"}
    fields |= {"verdict": value, "sample_ids": ["a", "b"]} if isinstance(value, str) else {"value": value}
    return judgement(name, "a", text or f"{name} says {value}", **{**fields, **other})


def pair_group(judgements: list[Judgement], gold: str | None = "A") -> Group:
    return group("p", gold=gold, samples=[sample("a", "one", 0), sample("b", "two", 1)], judgements=judgements)


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        ("A", Label("pairwise", "A")), (" b ", Label("pairwise", "B")), ("Tie", Label("pairwise", "tie")),
        ("yes", Label("classify", 1.0)), ("No", Label("classify", 0.0)), ("4", Label("likert", 4.0)),
        ("2.5", Label("likert", 2.5)), ("-1", Label("likert", -1.0)), (None, None), ("", None), ("C", None),
        ("nan", None), ("inf", None), ("４", None), ("four", None), ("1_000", None),  # noqa: RUF001
    ],
)  # fmt: skip
def test_a_label_decides_the_protocol(gold: str | None, label: Label | None) -> None:
    assert label_of(group("p", gold=gold)) == label
    assert [p for p in PROTOCOLS if asks_for(p, group("p", gold=gold))] == ([label.protocol] if label else [])


def test_a_number_beside_two_responses_names_one_of_them() -> None:
    for gold, side in {"1": "A", "2": "B", "Response 1": "A", "response_b": "B"}.items():
        assert label_of(pair_group([], gold)) == Label("pairwise", side)
    assert label_of(pair_group([], "3")) == Label("likert", 3.0)
    assert label_of(group("p", gold="2", samples=[sample("a", "one")])) == Label("likert", 2.0)
    assert label_of(group("p", gold="Response 2")) == Label("pairwise", "B")


@pytest.mark.parametrize(
    ("protocol", "shown", "line"),
    [("pairwise", "A", "Winner: A"), ("pairwise", "tie", "Winner: tie"), ("likert", 4.0, "Score: 4"),
     ("classify", 1.0, "Verdict: yes"), ("classify", 0.0, "Verdict: no")],
)  # fmt: skip
def test_a_verdict_line_is_read_as_what_it_says(protocol: str, shown: str | float, line: str) -> None:
    assert verdict_line(protocol, shown) == line
    assert PROTOCOLS[protocol].read(line, False) == (shown, "ok")


def test_questions_are_what_was_shown_in_that_order() -> None:
    normal, swapped = judged("A", "n"), judged("A", "s", order=1)
    foreign = judged("B", "f", sample_ids=["b", "a"], index=1)  # shown b first, as the swapped one was
    found = questions(pair_group([swapped, foreign, normal, judged(None, "x")]))
    assert [([s["sample_id"] for s in shown], [j["judgement_id"] for j in asked]) for shown, asked in found] == [
        (["a", "b"], ["n"]),
        (["b", "a"], ["f", "s"]),
    ]
    assert (said_as_shown(normal), said_as_shown(swapped), said_as_shown(judged(3.0))) == ("A", "B", 3.0)


def test_right_and_wrong_leave_out_near_misses_and_repeated_texts() -> None:
    scores = [4.0, 2.0, 4.0, 5.0, 1.0]
    judgements = [judged(score, f"j{i}") for i, score in enumerate(scores)]
    judgements.append(judged(4.0, "again", text="j0 says 4.0 "))
    right, wrong = right_and_wrong(judgements, 4.0, 2)
    assert ([j["judgement_id"] for j in right], [j["judgement_id"] for j in wrong]) == (["j0", "j2"], ["j1", "j4"])
    assert len(right_and_wrong(judgements, 4.0)[1]) == 3
    assert [len(some) for some in right_and_wrong([judged("tie"), judged("A", "k")], "A", 1.0)] == [1, 1]


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, None])), st.sampled_from([1.0, 3.0, 5.0]), st.integers(0, 4))
def test_sides_are_apart_by_the_margin(scores: list[float | None], right_score: float, margin: int) -> None:
    judgements = [judged(score, f"j{i}") for i, score in enumerate(scores)]
    asked = [j for _, some in questions(group("p", samples=[sample("a", "x")], judgements=judgements)) for j in some]
    right, wrong = right_and_wrong(asked, right_score, margin)
    assert len(right) == scores.count(right_score)
    assert all(abs((j["value"] or 0) - right_score) >= max(margin, 1) for j in wrong)
