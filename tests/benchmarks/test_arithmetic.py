"""The stories of the learning bench: right, reproducible, and held-out ones that no training story gives away."""

import re

import pytest

from benchmarks.arithmetic import (
    CANDIDATES,
    EXAMPLE,
    HARD,
    NAMES,
    NOUNS,
    comparisons,
    held_out,
    labelled,
    number_pairs,
    problems,
    ratings,
    shuffled,
)

DIFFICULTIES = {"hard": HARD, **CANDIDATES}
every_difficulty = pytest.mark.parametrize("name", DIFFICULTIES)


@every_difficulty
def test_a_story_states_its_two_numbers_and_its_gold_is_their_result(name: str) -> None:
    difficulty = DIFFICULTIES[name]
    for problem in problems(difficulty, "train", 200, 0):
        told = [int(n) for n in re.findall(r"\d+", problem.prompt.removeprefix(EXAMPLE).split(" Work out ")[0])]
        assert told == [problem.first, problem.second]
        assert all(difficulty.low <= n <= difficulty.high for n in told)
        signed = told[0] + told[1] if problem.sign == "+" else told[0] - told[1]
        assert problem.row == {"prompt": problem.prompt, "gold": str(signed)}
        assert signed > 0
        assert (" Work out " in problem.prompt) == difficulty.hint
        assert problem.prompt.startswith(EXAMPLE) == difficulty.example


@every_difficulty
def test_held_out_problems_have_other_numbers_names_and_nouns(name: str) -> None:
    train, test = (problems(DIFFICULTIES[name], split, 300, 5) for split in ("train", "test"))
    assert {frozenset((p.first, p.second)) for p in train}.isdisjoint({frozenset((p.first, p.second)) for p in test})
    for problem in test:
        words = set(re.findall(r"[A-Za-z]+", problem.prompt.removeprefix(EXAMPLE)))
        assert words & set(NAMES["test"]) and words & set(NOUNS["test"])
        assert words.isdisjoint(NAMES["train"]) and words.isdisjoint(NOUNS["train"])


def test_the_sides_share_no_word_and_no_pair_of_numbers() -> None:
    assert set(NAMES["train"]).isdisjoint(NAMES["test"]) and set(NOUNS["train"]).isdisjoint(NOUNS["test"])
    train, test = set(number_pairs(HARD, "train")), set(number_pairs(HARD, "test"))
    assert train.isdisjoint(test) and len(train | test) == 190
    assert 0.2 < len(test) / 190 < 0.4
    assert held_out(7, 12) == held_out(12, 7)


def test_the_hard_task_is_one_addition_or_subtraction_of_numbers_from_2_to_20() -> None:
    found = problems(HARD, "train", 500, 0)
    assert {p.sign for p in found} == {"+", "-"}
    assert 0.4 < sum(p.sign == "-" for p in found) / 500 < 0.6
    assert (min(min(p.first, p.second) for p in found), max(max(p.first, p.second) for p in found)) == (2, 20)


@every_difficulty
def test_equal_seeds_give_equal_problems_and_no_problem_comes_twice(name: str) -> None:
    first, again, other = (problems(DIFFICULTIES[name], "train", 300, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({p.prompt for p in first}) == 300
    assert problems(DIFFICULTIES[name], "train", 100, 1) == first[:100]


def test_the_wrong_answer_is_good_for_another_story() -> None:
    rows = comparisons(HARD, "test", 100, 0)
    assert len(rows) == 100
    right = {row["prompt"]: row["chosen"] for row in rows}
    for row in rows:
        assert row["rejected"] != row["chosen"]
        assert row["rejected"] in right.values()
        assert re.fullmatch(r"(\d+) [+-] (\d+) = (\d+)\.\nAnswer: \3", row["chosen"])
        first, second = re.findall(r"\d+", row["prompt"])
        assert row["chosen"].startswith((f"{first} + {second} = ", f"{first} - {second} = "))


def test_ratings_and_labels_say_what_the_comparison_says() -> None:
    rows = comparisons(HARD, "train", 10, 0)
    rated = ratings(rows)
    assert [(r["response"], r["gold"]) for r in rated[:2]] == [(rows[0]["chosen"], "5"), (rows[0]["rejected"], "1")]
    assert len(rated) == 20
    test = labelled(rows)
    assert all((t["response_a"], t["response_b"], t["label"]) == (r["chosen"], r["rejected"], "A")
               for t, r in zip(test, rows, strict=True))


def test_shuffled_turns_exactly_half_of_the_labels() -> None:
    rows = comparisons(HARD, "train", 41, 0)
    mixed = shuffled(rows, 3)
    assert mixed == shuffled(rows, 3) != shuffled(rows, 4)
    turned = [a != b for a, b in zip(rows, mixed, strict=True)]
    assert sum(turned) == 20
    for a, b in zip(rows, mixed, strict=True):
        assert b in (a, {**a, "chosen": a["rejected"], "rejected": a["chosen"]})
    rated = shuffled(ratings(rows), 0)
    assert sum(a["gold"] != b["gold"] for a, b in zip(ratings(rows), rated, strict=True)) == 41
