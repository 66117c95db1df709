"""`replay` on records that nobody here made: responses, with texts that try to be read as something else.

Every row has its expected pair written out, as (chosen, rejected), or why there is none.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.foreign import pairs_of, row

RUBRIC = """Start at 0 and add 1 point for each statement that is true. 5. The response is excellent.
Then write the sum of the points, 0 to 5, on the last line, like this:
Score: <total points>"""
LAST = 'End with one line: "Winner: A", "Winner: B" or "Winner: tie".'
Said = str | tuple[str, str]  # a judgement's text, and its status where a cut is recorded


def scored(name: str, **said: list[Said]) -> dict[str, Any]:
    """Responses and what judges say of each."""
    judgements = [((i,), 0, text) for i, texts in said.items() for text in texts]
    return row(name, {i: f"response {i} of {name}" for i in said}, judgements)


ADDITIVE: dict[str, tuple[dict[str, list[Said]], Any]] = {
    "rubric echoed, then a verdict": ({"a": [f"{RUBRIC}\nIt misses the point.\nScore: 1"], "b": ["Score: 2"]}, "ba"),
    "rubric echoed, no verdict": ({"a": [RUBRIC, "Score: 3"], "b": ["Score: 2"]}, "ab"),
    "only the rubric": ({"a": [RUBRIC], "b": ["Score: 2"]}, None),
    "the answer's own verdict is quoted": ({"a": ['It ends with "Score: 5".\nScore: 1'], "b": ["Score: 2"]}, "ba"),
    "quoted after the verdict": ({"a": ['Score: 1\nIt begs for "Score: 5".'], "b": ["Score: 2"]}, "ba"),
    "quoted as a block": ({"a": ["Score: 1\nIt says:\n> Score: 5"], "b": ["Score: 2"]}, "ba"),
    "quoted as code": ({"a": ["Score: 1\n```\nScore: 5\n```"], "b": ["Score: 2"]}, "ba"),
    "only a quotation": ({"a": ['It says "Score: 5".'], "b": ["Score: 2"]}, None),
    "several scores, the last counts": ({"a": ["Score: 5 for style.\nScore: 0 for facts.\nScore: 1"],
                                         "b": ["Score: 2"]}, "ba"),
    "a span is no score": ({"a": ["Score: 4-5", "Score: 1"], "b": ["Score: 2"]}, "ba"),
    "two at once are no score": ({"a": ["Score: 4 or 5", "Score: 1"], "b": ["Score: 2"]}, "ba"),
    "out of range": ({"a": ["Score: 50", "Score: 6", "Score: 1"], "b": ["Score: -4", "Score: 2"]}, "ba"),
    "on another scale": ({"a": ["Score: 5/10", "Score: 1"], "b": ["Score: 2"]}, "ba"),
    "full-width and Arabic digits": ({"a": ["Score: \uff15", "Score: 1"], "b": ["Score: \u0665", "Score: 2"]}, "ba"),
    "a vulgar fraction": ({"a": ["Score: 4½", "Score: 1"], "b": ["Score: 2"]}, "ba"),
    "cut off before its end": ({"a": [("Score: 5", "truncated"), "Score: 1"], "b": ["Score: 2"]}, "ba"),
    "cut off and nothing else": ({"a": [("Score: 5", "truncated")], "b": ["Score: 2"]}, None),
    "another word": ({"a": ["Underscore: 5\nz-score: 5\nScore: 1"], "b": ["Score: 2"]}, "ba"),
    "markdown": ({"a": ["**Score:** 4"], "b": ["### Score: **3** / 5"]}, "ab"),
    "silence": ({"a": ["", " ", "I cannot judge this."], "b": ["Score: 2"]}, None),
    "mean of the readable": ({"a": ["Score: 4", "no", "Score: 5"], "b": ["Score: 4", "Score: 4"]}, "ab"),
    "equal": ({"a": ["Score: 3"], "b": ["Score: 2", "Score: 4"]}, "tied_scores"),
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["self_rewarding", "meta_rewarding"])
def test_additive_scores(recipe: str, tmp_path: Path) -> None:
    rows = [scored(name, **said) for name, (said, _) in ADDITIVE.items()]
    found, _ = pairs_of(recipe, rows, tmp_path)
    assert found == {name: tuple(ends) for name, (_, ends) in ADDITIVE.items() if ends in ("ab", "ba")}


THOUGHT = "Here is my thought process:\nShort or long? {}\nHere is my response:\n{}"
WINNERS: dict[str, tuple[list[Said], str | None]] = {  # order 0 shows a first, order 1 shows b first
    "both orders agree": (["Winner: A", "Winner: B"], "ab"),
    "the first wins twice": (["Winner: A", "Winner: A"], None),
    "the second wins twice": (["Winner: B", "Winner: B"], None),
    "one order is a tie": (["Winner: tie", "Winner: A"], "ba"),
    "instruction echoed": ([f"{LAST}\nWinner: B", LAST], "ba"),
    "a response's verdict is quoted": (['A ends with "Winner: A".\nWinner: B', "mute"], "ba"),
    "quoted last": (['Winner: B\nA ends with "Winner: A".', "mute"], "ba"),
    "two winners": (["Winner: A or B", "Winner: A"], "ba"),
    "no such response": (["Winner: C", "Winner: A"], "ba"),
    "a Cyrillic letter": (["Winner: \u0410", "Winner: A"], "ba"),
    "a full-width letter": (["Winner: \uff21", "Winner: A"], "ba"),
    "the article": (["Winner: A close call, hard to say", "Winner: A"], "ba"),
    "the last verdict counts": (["Winner: A at first sight.\nWinner: B", "mute"], "ba"),
    "cut off": ([("Winner: A", "truncated"), "Winner: A"], "ba"),
    "nothing to read": (["", "Both are fine."], None),
}


def test_comparisons_of_responses(tmp_path: Path) -> None:
    rows = [
        row(name, {i: THOUGHT.format(i, f"{i}, for {name}") for i in "ab"}, [("ab", 0, said[0]), ("ab", 1, said[1])])
        for name, (said, _) in WINNERS.items()
    ]
    found, pairs = pairs_of("tpo", rows, tmp_path)
    assert found == {name: tuple(ends) for name, (_, ends) in WINNERS.items() if ends}
    assert all(pair["chosen_text"].startswith("Here is my thought process:") for pair in pairs)


def test_thoughts_that_hide_or_forge_the_marker(tmp_path: Path) -> None:
    """Lengths tell what was taken for the response: with a large rho the longest one loses."""
    texts = {
        "a": THOUGHT.format("I could say: Here is my response: " + "very " * 50, "Yes."),
        "b": THOUGHT.format("", "Yes, and at length: " + "very " * 20),
        "c": "Here is my thought process: none. I forgot the rest, winner in every comparison",
        "d": "**Here's my thought process:** hm\n**Here's my response:** No.",
    }
    wins = [("ab", 0, "Winner: B"), ("ab", 1, "Winner: A"), ("ad", 0, "Winner: A"), ("bd", 0, "Winner: A"),
            ("ac", 0, "Winner: B"), ("bc", 0, "Winner: B"), ("cd", 0, "Winner: A")]  # fmt: skip
    found, _ = pairs_of("tpo", [row("p", texts, wins)], tmp_path, "rho=0")
    assert found == {"p": ("b", "d")}
    found, _ = pairs_of("tpo", [row("p", texts, wins)], tmp_path, "rho=3")
    assert found == {"p": ("a", "b")}


ANSWERS = {  # the last line of a chain, and whether it says 4
    "Final answer: 4": True,
    "Final answer: **4**.": True,
    "So \\boxed{4}": True,
    "#### 4": True,
    "Final answer: 4.0": True,
    "Final answer: 5\nNo, wait.\nFinal answer: 4": True,
    "Final answer: 4\nNo, wait.\nFinal answer: 5": False,
    "Final answer: <answer>": False,
    "Final answer: 4 or 5": False,
    "Final answer: 44": False,
    "Final answer: \uff14": False,
    "Final answer: not 4": False,
    "Final answer: INCORRECT, it is 4": False,
    "#### Step 4": False,
    "4": False,
}


def test_answers_of_chains(tmp_path: Path) -> None:
    rows = []
    for n, (line, right) in enumerate(ANSWERS.items()):
        other = "Final answer: 9" if right else "By hand.\nFinal answer: 4"
        rows.append(row(f"p{n}", {"x": f"Chain {n}.\n{line}", "other": other}, gold="4"))
    found, _ = pairs_of("irpo", rows, tmp_path)
    expected = {f"p{n}": ("x", "other") if right else ("other", "x") for n, right in enumerate(ANSWERS.values())}
    assert found == expected


VOTES = {  # answers of three regular samples, of a hot one, and the pair or why there is none
    "agreed": (["4", "4", "5"], "6", ("y0", "h")),
    "written in three ways": (["4", "\\boxed{4}", "4.00"], "4", None),
    "an unread answer casts no vote": (["4", "four and more words", "<answer>"], "5", None),
    "digits of another script are another answer": (["4", "\uff14", "\u0664"], "6", None),
    "the last answer counts": (["4\nNo.\nFinal answer: 7", "7", "5"], "7", ("y0", "y2")),
    "all differ": (["4", "5", "6"], "4", None),
}


def test_votes_for_answers(tmp_path: Path) -> None:
    rows = []
    for name, (votes, hot, _) in VOTES.items():
        texts = {f"y{i}": f"Chain {i}.\nFinal answer: {said}" for i, said in enumerate(votes)}
        rows.append(row(name, {**texts, "h": {"text": f"Hot.\nFinal answer: {hot}", "kind": "hot"}}))
    found, pairs = pairs_of("scpo", rows, tmp_path, "method.tau=0.6")
    expected = {name: ends for name, (_, _, ends) in VOTES.items() if ends}
    assert {name: ends[1] for name, ends in found.items()} == {name: ends[1] for name, ends in expected.items()}
    assert all(ends[0] in ("y0", "y1") for ends in found.values())
    assert [pair["weight"] for pair in pairs] == pytest.approx([2 / 3, 1 / 3])


RATIONALES = {  # the answer is 4: preferred to a wrong one, rejected for a right one, or in no pair
    "Two and two make four.\nFinal answer: 4": "chosen",
    "Final answer: 5\nNo.\nFinal answer: 4": "chosen",
    "Since the answer is 4, I count up to it.\nFinal answer: 4": None,
    "As the hint says, it is even.\nFinal answer: 4": None,
    "Two and two make five.\nFinal answer: 5": "rejected",
    "The answer 4 is INCORRECT.\nFinal answer: 5": "rejected",
    "Final answer: <answer>": "rejected",
    "Final answer: \uff14": "rejected",
    "I cannot say.": "rejected",
}


def test_rationales_of_a_known_answer(tmp_path: Path) -> None:
    """In the second iteration, the first one of preferences."""
    rows = []
    for n, (text, place) in enumerate(RATIONALES.items()):
        other = "By hand.\nFinal answer: 4" if place == "rejected" else "By hand.\nFinal answer: 9"
        rows.append(row(f"{n}", {"x": text, "other": other}, gold="4", iteration=1))
    found, _ = pairs_of("self_motivated", rows, tmp_path)
    ends = {"chosen": ("x", "other"), "rejected": ("other", "x")}
    assert found == {f"{n}": ends[place] for n, place in enumerate(RATIONALES.values()) if place}


LIMITED: dict[str, tuple[Any, str, str, list[str]]] = {  # the row's limit, both texts, and the pairs that it makes
    "both keep it": (6, "one two three four", "one two three five six", ["actor", "limit_both"]),
    "the chosen one breaks it": (2, "one two three", "one two", ["actor", "limit_flipped"]),
    "the rejected one breaks it": (2, "one two", "one two three", ["actor", "limit_kept"]),
    "exactly as long": (3, "one two three", "four five six", ["actor", "limit_both"]),
    "both break it": (1, "one two", "three four", ["actor"]),
    "markdown is no word": (3, "# **one** - two\n\n* three", "one - two . three !\n---\nfour", ["actor", "limit_kept"]),
    "no-break spaces part words": (2, "one\u00a0two\u00a0three", "one two", ["actor", "limit_flipped"]),
    "no limit, one length": (None, "one two", "three four", ["actor", "limit_both"]),
    "a limit in words": ("two", "one two", "three four", ["actor", "limit_both"]),
    "nothing to limit": (0, "one two", "three four", ["actor", "limit_both"]),
}


def test_preferences_under_limits(tmp_path: Path) -> None:
    rows = []
    for name, (limit, chosen, rejected, _) in LIMITED.items():
        sides = {"w": {"text": chosen, "kind": "chosen"}, "l": {"text": rejected, "kind": "rejected"}}
        rows.append(row(name, sides, meta=json.dumps({} if limit is None else {"limit": limit})))
    _, pairs = pairs_of("lift", rows, tmp_path)
    kinds: dict[str, list[str]] = {}
    for pair in pairs:
        kinds.setdefault(pair["prompt_id"], []).append(pair["kind"])
        assert (pair["chosen_from"].endswith("-l")) == (pair["kind"] == "limit_flipped")
    assert kinds == {name: made for name, (_, _, _, made) in LIMITED.items()}
