import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes.base import Context
from pipelines.steps.answers import extract_answer, gold_chains, plain_answer, same_answer
from tests.pipelines.planted import group, sample

ANSWERS = {
    "2 + 2 = 4.\nFinal answer: 4": "4",
    "Final answer: 3\nWait.\nFinal answer: 4": "4",
    "**Final answer:** $1,234.50.": "1234.50",
    "**Final Answer**: **7**": "7",
    "The final answer is 5.": "5",
    "The answer is: 5": "5",
    "The answer: is 42": "42",
    "Answer: (B)": "(B)",
    "Answer:\n5": "5",
    "Final answer: 42. I hope that helps!": "42",
    "Final answer: 18 dollars": "18 dollars",
    "Final answer: $\\boxed{5}$.": "5",
    "So \\boxed{\\frac{1}{2}} it is": "\\frac{1}{2}",
    "He has 72.\n#### 72": "72",
    "#### 1,200\n": "1200",
    "Final answer: 5\n#### Step 2: check": "5",
    "Final answer: 5\nEnd with Final answer: <answer>": "5",
    "10 + 16 = 26\nA: 26": "26",
    "The answer is: 5\nA: 1,200 dollars\n": "1200 dollars",
    "Final answer: −3": "-3",  # noqa: RUF001
}
NO_ANSWERS = ["", "42", "The answer is obvious", "unanswer: 4", "Final answer:", "Final answer: <answer>", "\\boxed{5",
              "#### Conclusion", "Final answer: ...", "A: Paris", "A: 26\nB: 27", "A:", "NASA: 26"]  # fmt: skip
SAME = [
    ("4", "4.0"), ("1/2", "0.5"), ("\\frac{1}{2}", "0.5"), ("1,234", "1234"), ("$18", "18"), ("18 dollars", "18"),
    ("50%", "50"), ("Paris.", "paris"), ("(B)", "B"), ("B) Paris", "B"), ("1e3", "1000"),
    ("0.1", "1/10"), ("x + 1", "1 + x"), ("x = 5", "5"), ("2\\sqrt{3}", "\\sqrt{12}"), ("sqrt(12)", "2\\sqrt{3}"),
    ("5.4", "5.4 \\text{ cents}"), ("90", "90^\\circ"), ("90 degrees", "90^{\\circ}"), ("90°", "90"),
    ("4210_5", "4210_{5}"), ("4210", "4210_{5}"), ("Evelyn", "\\text{Evelyn}"), ("C", "\\text{(C)}"),
    ("(3,\\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"), ("2k+2", "2(k+1)"), ("7, 5, 3", "3,5,7"),
    ("\\dfrac{14}{3}", "14/3"), ("$32,348", "\\$32,\\!348"), ("2x+3", "y = 2x + 3"),
]  # fmt: skip
DIFFERENT = [
    ("4", "5"), ("3.0000001", "3"), ("", ""), ("4", ""), ("C", "B"), ("5 or 6", "6"), ("3-4", "4"), ("not 5", "5"),
    ("5 million", "5"), ("x = 5 or x = 6", "5"), ("1/0", "5"), ("London", "Paris"), ("5, 6", "6"),
    ("0.333333333", "1/3"), ("5", "5.4 \\text{ cents}"), ("5 m", "5 km"), ("4210_6", "4210_{5}"), ("(3,5)", "[3,5]"),
    ("(\\pi/2,3)", "\\left( 3, \\frac{\\pi}{2} \\right)"), ("3,5", "3,5,7"), ("5", "5 dozen"), ("34", "\\frac34"),
]  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_the_last_answer_is_found_and_cleaned(text: str) -> None:
    assert extract_answer(text) == ANSWERS[text]


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_no_answer(text: str) -> None:
    assert extract_answer(text) is None


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_same(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)


@pytest.mark.timeout(120)
def test_a_comparison_cannot_hang_and_the_next_one_works() -> None:
    assert not same_answer("9^{9^{9^{9}}} + x", "7 + x^{9^{99}}")
    assert same_answer("y + 2", "2 + y")


def test_comparisons_work_in_threads() -> None:
    found: list[bool] = []
    threads = [threading.Thread(target=lambda i=i: found.append(same_answer(f"z+{i}", f"{i}+z"))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 4


@given(st.decimals(-(10**9), 10**9, places=3))
def test_a_number_survives_extraction(number) -> None:
    text = f"Step by step.\nFinal answer: {number:,}"
    answer = extract_answer(text)
    assert answer is not None and same_answer(answer, str(number))


@given(st.text(alphabet="Final answer:is #boxed\\{}()$*0123456789.,\n-", max_size=80))
def test_an_answer_is_never_empty(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@pytest.mark.parametrize("unit", ["answer: ", "\\boxed{", "####\n", "#### 1\n", "{", " ", "1,", "Final answer: <a>\n"])
@pytest.mark.timeout(60)  # a quadratic search of a million characters would take hours
def test_a_million_characters_are_searched(unit: str) -> None:
    answer = extract_answer(unit * (1_000_000 // len(unit)))
    assert answer is None or answer.strip()


def test_gold_chain_becomes_a_sample_that_ends_with_the_answer() -> None:
    context = Context(0, "irpo", 1)
    bare = group("p", gold="4", meta=json.dumps({"gold_chain": "Two and two."}))
    (chain,) = gold_chains(bare, context)
    assert (chain["kind"], chain["text"], chain["token_ids"]) == ("gold_chain", "Two and two.\nFinal answer: 4", [])
    (kept,) = gold_chains(group("p", gold="4", meta=json.dumps({"gold_chain": "Two.\n#### 4"})), context)
    assert kept["text"] == "Two.\n#### 4"
    recorded = sample("g", "as recorded", kind="gold_chain")
    assert gold_chains({**bare, "samples": [recorded]}, context) == [recorded]
    assert gold_chains(group("p", gold="4"), context) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 6 = 8\nFinal answer: 8", "8"),
        ("2 + 6 = 8\nFinal answer: 8\n\n", "8"),
        ("Final answer: 7\nFinal answer: 8 apples", "8 apples"),
        ("2 + 6 = 8\nFinal Answer: 8", None),
        ("2 + 6 = 8\nFinal answer: 8.", None),
        ("2 + 6 = 8\nFinal answer: **8**", None),
        ("So Final answer: 8", None),
        ("Final answer: 8\nThat is all.", None),
        ("Final answer: ", None),
        ("", None),
    ],
)
def test_a_plain_answer_has_the_form_that_was_asked_for(text: str, answer: str | None) -> None:
    assert plain_answer(text) == answer
