"""`replay` on records that nobody here made: judges who are taught, with verdicts that are none.

Every text is one judgement beside a plain one, and whether it is right, wrong or neither is written out.
"""

import json
from pathlib import Path

from tests.pipelines.foreign import pairs_of, row

LAST = 'End with one line: "Winner: A", "Winner: B" or "Winner: tie".'


BOXED = {  # what is said of a pair; R is the letter of the better one as shown, W the other; whether it is right
    "[[R]]": True,
    "[[W]]": False,
    "I write [[A]] if A is better and [[B]] if B is.\n[[R]]": False,
    'I write "[[A]]" if A is better and "[[B]]" if B is.\n[[R]]': True,
    'The second one ends with "[[W]]".\n[[R]]': True,
    'The second one ends with "[[R]]".\n[[W]]': False,
    'It says "[[R]]".': False,
    "> [[R]]": False,
    "[[W]] at first sight, then [[R]]": False,
    "[[C]]": False,
    "[[D]]": False,
    "[R]": False,
    "[[\uff21]] [[\u0412]]": False,
    "Both are INCORRECT, so neither is CORRECT.": False,
    "": False,
}


def test_boxed_verdicts(tmp_path: Path) -> None:
    """Each text is the only judgement of one order; in the other one stands a plain right verdict."""
    rows, expected = [], {}
    for n, (text, right) in enumerate(BOXED.items()):
        for order, better, worse in ((0, "A", "B"), (1, "B", "A")):
            name = f"{n}/{order}"
            said = text.replace("[R]", f"[{better}]").replace("[W]", f"[{worse}]")
            both = [("ab", order, said), ("ab", 1 - order, f"[[{worse}]]")]
            sides = {"a": {"text": f"good {name}", "kind": "chosen"}, "b": {"text": f"bad {name}", "kind": "rejected"}}
            rows.append(row(name, sides, both))
            expected[name] = {"j0", "j1"} if right else {"j1"}
    found, pairs = pairs_of("self_taught_evaluator", rows, tmp_path)
    kept = {name: {i for (i,) in ([ends] if isinstance(ends, tuple) else ends)} for name, ends in found.items()}
    assert kept == expected
    assert all(pair["rejected_text"] == "" for pair in pairs)


GRADES = {  # beside a right grade of 4: whether this one is wrong by two or more, and so rejected
    "Score: 1": True,
    "**Score:** 2": True,
    "Score: 1/5": True,
    "Score: 4 for tone.\nScore: 1": True,
    "1: It fails the criterion. 5: It meets it fully.\nScore: 2": True,
    "Score: 3": False,
    "Score: 0": False,
    "Score: 6": False,
    "Score: 1.5": False,
    "Score: 1 or 2": False,
    "Score: 1-2": False,
    "Score: <1-5>": False,
    "Score: \u0661": False,
    'It says "Score: 1".': False,
    'Score: 4\nIt says "Score: 1".': False,
    "```\nScore: 1\n```": False,
    "": False,
}


def test_grades_of_one_response(tmp_path: Path) -> None:
    rows = [
        row(f"{n}", {"a": {"text": "It is so.", "kind": "given"}}, [("a", 0, "Fine.\nScore: 4"), ("a", 0, text)],
            gold="4", meta=json.dumps({"criterion": "Is it so?"}))
        for n, text in enumerate([*GRADES, ("Score: 1", "truncated")])
    ]  # fmt: skip
    found, _ = pairs_of("self_rationalization", rows, tmp_path)
    assert found == {f"{n}": ("j0", "j1") for n, rejected in enumerate(GRADES.values()) if rejected}


YES_OR_NO = {  # beside a right "yes": whether this one says no, and so is rejected
    "Verdict: no": True,
    "**Verdict:** NO.": True,
    "The response is INCORRECT.\nVerdict: no": True,
    "Verdict: yes\nOn reflection:\nVerdict: no": True,
    "INCORRECT contains CORRECT, but it is correct.\nVerdict: yes": False,
    "Verdict: INCORRECT": False,
    "Verdict: not sure": False,
    "Verdict: none": False,
    "Verdict: nothing is wrong": False,
    "Verdict: no errors, the response is right": False,
    "Verdict: no doubt": False,
    "Verdict: no, it is wrong": True,
    "Verdict: No because it is wrong": True,
    "Verdict: yes or no": False,
    "Verdict: <yes or no>": False,
    'It says "Verdict: no".': False,
    "no": False,
    "": False,
}


def test_classified_responses(tmp_path: Path) -> None:
    rows = [
        row(f"{n}", {"a": {"text": "It is so.", "kind": "given"}}, [("a", 0, "Yes.\nVerdict: yes"), ("a", 0, text)],
            gold="yes")
        for n, text in enumerate([*YES_OR_NO, ("Verdict: no", "truncated")])
    ]  # fmt: skip
    off = ["mixture.verdict=0", "mixture.deduction=0"]
    found, _ = pairs_of("sfr_judge", rows, tmp_path, *off)
    assert found == {f"{n}": ("j0", "j1") for n, rejected in enumerate(YES_OR_NO.values()) if rejected}


COMPARED = {  # beside a right "Winner: A": whether this one says B, and so is rejected
    "Winner: B": True,
    f"{LAST}\nWinner: B": True,
    "Winner: tie": True,
    "Winner: A": False,
    "Winner: C": False,
    "Winner: A or B": False,
    'B ends with "Winner: B".': False,
    "Winner: \u0412": False,
}


def test_compared_responses(tmp_path: Path) -> None:
    given = {i: {"text": f"response {i}", "kind": "given"} for i in "ab"}
    rows = [
        row(f"{n}", given, [("ab", 0, "So.\nWinner: A"), ("ab", 0, text)], gold="A") for n, text in enumerate(COMPARED)
    ]
    found, _ = pairs_of("sfr_judge", rows, tmp_path, "mixture.verdict=0", "mixture.deduction=0")
    assert found == {f"{n}": ("j0", "j1") for n, rejected in enumerate(COMPARED.values()) if rejected}


FINAL = "So, the final decision is "
DECISIONS = {  # shown swapped, where the human prefers the one shown first as listed: Response 2 is right
    f"{FINAL}Response 2.": True,
    f"{FINAL}**Response 2**": True,
    f"{FINAL}<Response 1, Response 2 or Tie>\n{FINAL}Response 2": True,
    f'Response 1 claims "{FINAL}Response 1".\n{FINAL}Response 2': True,
    f"{FINAL}Response 1": False,
    f"{FINAL}Tie": False,
    f"{FINAL}Response 2\nNo: {FINAL}Response 1": False,
}
UNREADABLE_DECISIONS = [
    f"{FINAL}Response 1 or Response 2", f"{FINAL}Response 1 or 2", f"{FINAL}Response 1/2", f"{FINAL}Response 3",
    f"{FINAL}Response \uff12", f'"{FINAL}Response 2"', "", (f"{FINAL}Response 2", "truncated"),
]  # fmt: skip


def test_decisions_of_a_teacher(tmp_path: Path) -> None:
    """In the other order the teacher is right. One that cannot be read teaches nothing itself: the other one's copy
    stands in its place."""
    given = {i: {"text": f"response {i}", "kind": "given"} for i in "ab"}
    right = ("ab", 0, f"Response 1 is true.\n{FINAL}Response 1")
    rows = [
        row(f"{n}", given, [right, ("ab", 1, text)], gold="A", meta=json.dumps({"scenario": "default"}))
        for n, text in enumerate([*DECISIONS, *UNREADABLE_DECISIONS])
    ]
    found, pairs = pairs_of("auto_j", rows, tmp_path)
    both = {f"{n}": [("j0",), ("j1",)] for n, kept in enumerate(DECISIONS.values()) if kept}
    copied = {f"{len(DECISIONS) + n}": [("j0",), ("j0",)] for n in range(len(UNREADABLE_DECISIONS))}
    assert found == {**both, **copied}
    assert {pair["chosen_text"] for pair in pairs if pair["kind"] == "swapped"} == {
        f"Response 2 is true.\n{FINAL}Response 2"
    }


RATINGS = {  # a teacher's text about a response that the row's label gives 7, and whether it says so
    "Rating: [[7]]": True,
    "**Rating:** [[7]]": True,
    "Rating: [[3]] at first sight.\nRating: [[7]]": True,
    'It asks for "Rating: [[10]]".\nRating: [[7]]': True,
    "Rating: [[7]]\nIt asks for:\n> Rating: [[10]]": True,
    "Rating: [[6]]": False,
    "Rating: [[17]]": False,
    "Rating: [[7]] or [[8]]": False,
    "Rating: [[7]], [[8]] for style": False,
    "Rating: [[1-10]]": False,
    "Rating: [[\uff17]]": False,
    'It says "Rating: [[7]]".': False,
    "Score it as you like: 7": False,
    "": False,
}


def test_ratings_of_a_teacher(tmp_path: Path) -> None:
    rows = [
        row(f"{n}", {"a": {"text": "It is so.", "kind": "given"}}, [("a", 0, text)], gold="7")
        for n, text in enumerate([*RATINGS, ("Rating: [[7]]", "truncated")])
    ]
    found, _ = pairs_of("auto_j", rows, tmp_path)
    assert found == {f"{n}": ("j0",) for n, kept in enumerate(RATINGS.values()) if kept}
