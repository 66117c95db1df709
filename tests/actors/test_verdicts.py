
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.verdicts import Reading, as_listed, parse_pairwise, parse_score, quoted_spans
from pipelines.records import Status

READABLE = {
    "Score: 3 for relevance, then more. Score: 4": 4.0,
    "Score: 3 for relevance\nIt also covers a lot.\nScore: 4": 4.0,
    "Score: 4.5/5": 4.5,
    "**Score:** 4": 4.0,
    "**Score: 4**": 4.0,
    "__Score: 4__": 4.0,
    "**Score**: 4": 4.0,
    "Score: **4**/5": 4.0,
    "Score: <4>": 4.0,
    "Score: [[4]]": 4.0,
    "Score: (4)": 4.0,
    "Score: <4>/5": 4.0,
    "Score: \\boxed{4}": 4.0,
    "Total score: 4": 4.0,
    "Final score = 4": 4.0,
    "My final score is 3.": 3.0,
    "SCORE: 2": 2.0,
    "Score: 4 out of 5": 4.0,
    "Score: 4/5.0": 4.0,
    "Score: 4 points.": 4.0,
    "Score: 4, because it is clear": 4.0,
    "Score: 0": 0.0,
    "Score (0-5): 3": 3.0,
    "Score:\n4": 4.0,
    "Score: 2\nEnd with the line Score: <total points>": 2.0,
    "Score: 2\nScore: <0-5>": 2.0,
    '{"score": 4}': 4.0,
    "The user's text isn't 5\" long.\nScore: 3": 3.0,
    "Score: 3\r\n": 3.0,
    'Score: 3\nThe response itself claims "Score: 5".': 3.0,
    "Score: 3\n> Score: 5": 3.0,
    "Score: 3\n```\nScore: 5\n```": 3.0,
}
UNREADABLE: dict[str, Status] = {
    "": "missing",
    "A good response.": "missing",
    "underscore: 4": "missing",
    "under_score: 4": "missing",
    "z-score: 4": "missing",
    "scored: 4": "missing",
    "The highest score is 5 here.": "missing",
    "Score: <total points>": "missing",
    "Score: four": "missing",
    "Score: ４": "missing",  # noqa: RUF001
    "Score: ٣": "missing",
    "Score: 4²": "missing",
    "Score: 2\nScore: ４": "missing",  # noqa: RUF001
    "Score:\n1. The response is relevant.": "missing",
    'The response says "Score: 5".': "missing",
    'It says "give me\nScore: 5" and stops.': "missing",
    "It says “Score: 5”.": "missing",
    "It says 'Score: 5'.": "missing",
    "It ends with `Score: 5`": "missing",
    "> Score: 5": "missing",
    "```\nScore: 5\n```": "missing",
    'He wrote "please say "Score: 5""': "missing",
    "Score: 3-4": "ambiguous",
    "Score: 3 - 4": "ambiguous",
    "Score: 3–4": "ambiguous",  # noqa: RUF001
    "Score: 3 or 4": "ambiguous",
    "Score: 3 to 4": "ambiguous",
    "Score: [3-4]": "ambiguous",
    "Score: between 3 and 4": "ambiguous",
    "Score: 4/10": "ambiguous",
    "Score: 4 out of 10": "ambiguous",
    "Score: 80%": "ambiguous",
    "Score: 4,5": "ambiguous",
    "Score: 1 + 1 + 1 = 3": "ambiguous",
    "Score: 2\nScore: 3-4": "ambiguous",
    "Score: 7": "out_of_range",
    "Score: 5.5": "out_of_range",
    "Score: 7/5": "out_of_range",
    "Score: -1": "out_of_range",
    "Score: −1": "out_of_range",  # noqa: RUF001
    "Score: 99999999999999999999": "out_of_range",
}
WINNERS = {
    "Winner: A": "A",
    "Better: Response B": "B",
    "Verdict: tie": "tie",
    "[[A]]": "A",
    "[[C]]": "tie",
    "**Winner:** Judgement B": "B",
    "**Winner: A**": "A",
    "The winner is A": "A",
    "The better response is B.": "B",
    "Winner: [[B]]": "B",
    'Winner: "A"': "A",
    "winner: a": "A",
    "Winner: A because it is correct": "A",
    "Winner: it's a tie": "tie",
    "Winner: tie between A and B": "tie",
    "A is better at style, B at content. Winner: B": "B",
    "Winner: A\nOn reflection.\nWinner: B": "B",
    "Winner: B\nEnd with Winner: <A or B>": "B",
    'Winner: B\nThe text begs "Winner: A".': "B",
}
NO_WINNER: dict[str, Status] = {
    "": "missing",
    "INCORRECT": "missing",
    "A is better than B.": "missing",
    "Winner: Assistant": "missing",
    "Winner: Better": "missing",
    "Verdict: A good answer overall": "missing",
    "The winner is a good response": "missing",
    "Winner: <A|B>": "missing",
    "Winner: \u0391": "missing",  # Greek
    "> Winner: A": "missing",
    'It says "Winner: A"': "missing",
    "Winner: A or B": "ambiguous",
    "Winner: A and B": "ambiguous",
    "Winner: A / Winner: B": "ambiguous",
    "Winner: A, or a tie": "ambiguous",
    "[[A]] [[B]]": "ambiguous",
    "Winner: C": "out_of_range",
}


@pytest.mark.parametrize("text", READABLE)
def test_readable_scores(text: str) -> None:
    assert parse_score(text) == Reading(READABLE[text], "ok")


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_scores_abstain(text: str) -> None:
    assert parse_score(text) == Reading(None, UNREADABLE[text])


@pytest.mark.parametrize("text", WINNERS)
def test_readable_winners(text: str) -> None:
    assert parse_pairwise(text) == Reading(WINNERS[text], "ok")


@pytest.mark.parametrize("text", NO_WINNER)
def test_unreadable_winners_abstain(text: str) -> None:
    assert parse_pairwise(text) == Reading(None, NO_WINNER[text])


def test_the_scale_is_a_parameter() -> None:
    assert parse_score("Score: 7", 1, 10) == Reading(7.0, "ok")
    assert parse_score("Score: 7/10", 1, 10) == Reading(7.0, "ok")
    assert parse_score("Score: 4/5", 1, 10) == Reading(None, "ambiguous")
    assert parse_score("Score: 0", 1, 10) == Reading(None, "out_of_range")


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Fine.\nScore: 4", Reading(4.0, "ok")),
        ("Fine.\n**Score: 4**\n", Reading(4.0, "ok")),
        ("Fine.\nScore: 4/5", Reading(4.0, "ok")),
        ("Fine.\nScore: 7", Reading(None, "out_of_range")),
        ("Fine.\nScore: 4.", Reading(None, "truncated")),  # may have become 4.5
        ("Fine.\nScore: 4/", Reading(None, "truncated")),
        ("Fine.\nScore: [[4", Reading(None, "truncated")),
        ("Fine.\n**Score: 4", Reading(None, "truncated")),
        ("Score: 4\nBecause the", Reading(None, "truncated")),
        ("Score: 4 because the", Reading(None, "truncated")),
        ("Score:", Reading(None, "truncated")),
        ("", Reading(None, "truncated")),
    ],
)
def test_a_text_cut_off_counts_only_when_the_verdict_ends_it(text: str, reading: Reading[float]) -> None:
    assert parse_score(text, truncated=True) == reading


def test_a_comparison_cut_off_counts_only_when_the_verdict_ends_it() -> None:
    assert parse_pairwise("Fine.\nWinner: B", truncated=True) == Reading("B", "ok")
    assert parse_pairwise("Winner: B. I think", truncated=True) == Reading(None, "truncated")
    assert parse_pairwise("Winner: tie between", truncated=True) == Reading(None, "truncated")


def test_winner_as_listed_undoes_the_swap() -> None:
    assert [as_listed(w, 0) for w in ("A", "B", "tie", None)] == ["A", "B", "tie", None]
    assert [as_listed(w, 1) for w in ("A", "B", "tie", None)] == ["B", "A", "tie", None]


def test_quoted_spans_are_sorted_and_leave_apostrophes_alone() -> None:
    text = "It isn't \"one\" or `two`, the users' view\n> three"
    assert [text[a:b] for a, b in quoted_spans(text)] == ['"one"', "`two`", "> three"]


@given(st.text(), st.sampled_from([0.0, 1.0, 2.5, 5.0]))
def test_any_text_before_the_verdict_line_changes_nothing_unless_it_quotes_it(before: str, score: float) -> None:
    reading = parse_score(f"{before}\n\nScore: {score:g}")
    open_mark = "```" in before or "~~~" in before
    assert reading == Reading(score, "ok") or open_mark


@given(st.text(alphabet="Sscore: 0123456789./-[]<>*\"'`\nABWinertie", max_size=80), st.booleans())
def test_a_value_comes_with_ok_and_nothing_else(text: str, truncated: bool) -> None:
    for reading in (parse_score(text, truncated=truncated), parse_pairwise(text, truncated)):
        assert (reading.value is None) == (reading.status != "ok")
    value = parse_score(text, truncated=truncated).value
    assert value is None or 0 <= value <= 5


@pytest.mark.parametrize(
    "unit",
    ["Score: ", "Score:<", "Score: <a> ", '"Score: 4" ', "'", '"', "`", "> ", "\n>", " ", "*", "[[A]] ", "Winner: A ",
     "Winner: <A|B> ", "9", "(", "Score (", "“", "\n", "total ", "better is ", "Score: 1 to "],
)  # fmt: skip
@pytest.mark.timeout(60)  # a quadratic reading of so many would take hours
def test_a_very_long_text_is_read(unit: str) -> None:
    text = (unit * (250_000 // len(unit) + 1))[:250_000]
    assert parse_score(text).status in ("ok", "missing", "ambiguous", "out_of_range")
    assert parse_pairwise(text).status in ("ok", "missing", "ambiguous", "out_of_range")
