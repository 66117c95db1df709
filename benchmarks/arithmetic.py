"""One-step arithmetic stories, made from a seed: problems with their answers, and answers to be judged. Pure.

Held-out problems have other names, other nouns and other numbers: which two numbers meet decides on which side a
problem is, so no training story adds or subtracts what a held-out one does. The wordings are the same on both sides.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipelines.records import digest

Split = Literal["train", "test"]
Row = dict[str, str]

NAMES: dict[Split, list[str]] = {
    "train": [
        "Ada", "Ben", "Carla", "Dev", "Elif", "Farid", "Gina", "Hugo", "Ines", "Jonas", "Kaya", "Leo", "Mara",
        "Nils", "Olga", "Pavel", "Rosa", "Sami", "Tess", "Uri", "Vera", "Wim", "Yara", "Zoe",
    ],
    "test": [
        "Amir", "Britt", "Chen", "Dana", "Emil", "Freya", "Goran", "Hana", "Ilse", "Jorge", "Kim", "Lars",
    ],
}
NOUNS: dict[Split, list[str]] = {
    "train": [
        "apples", "books", "buttons", "candles", "chairs", "coins", "cups", "eggs", "flowers", "hats", "keys",
        "lemons", "marbles", "nails", "pencils", "plates", "shells", "spoons", "stamps", "stickers", "tickets",
        "towels",
    ],
    "test": [
        "balloons", "bricks", "cookies", "crayons", "feathers", "magnets", "onions", "postcards", "ribbons",
        "walnuts",
    ],
}
ADDITIONS = [
    "{name} has {a} {noun} and gets {b} more. How many {noun} does {name} have now?",
    "{name} counts {a} {noun} on the table and {b} in a drawer. How many {noun} are there together?",
    "There are {a} {noun} in a bag. {name} puts {b} more into it. How many {noun} are in the bag now?",
    "{name} buys {a} {noun} on Monday and {b} on Friday. How many {noun} does {name} buy in all?",
]
SUBTRACTIONS = [
    "{name} has {a} {noun} and gives {b} of them away. How many {noun} does {name} have left?",
    "There are {a} {noun} on a shelf. {name} takes {b} of them. How many {noun} stay on the shelf?",
    "{name} carries {a} {noun} and drops {b} of them. How many {noun} is {name} still carrying?",
    "{name} needs {a} {noun} and has {b}. How many more {noun} does {name} need?",
]
HELD_OUT = 0.3  # share of the number pairs
EXAMPLE = (
    "Example: Tom has 1 pen and gets 2 more. How many pens does Tom have now?\n1 + 2 = 3\nFinal answer: 3\n\n"
    "Now this one: "
)
CRITERION = "Is the working about the numbers of the story, and is the result right?"


@dataclass(frozen=True)
class Difficulty:
    """The numbers of the stories, whether the sum is stated after the question, and a solved example before it."""

    low: int
    high: int
    hint: bool = False
    subtract: bool = True
    example: bool = field(default=False, repr=False)  # wording alone: the problems are those without it


HARD = Difficulty(2, 20)
# From hard to easy. Which of them is the fair task was measured on the start model, and is kept with the results.
CANDIDATES = {
    "to20-example": Difficulty(2, 20, example=True),
    "to20-hint": Difficulty(2, 20, hint=True),
    "to20-hint-example": Difficulty(2, 20, hint=True, example=True),
    "to9-example": Difficulty(2, 9, example=True),
    "to9-hint-example": Difficulty(2, 9, hint=True, example=True),
    "to9-add-hint-example": Difficulty(2, 9, hint=True, subtract=False, example=True),
    "to9": Difficulty(2, 9),
    "to9-add": Difficulty(2, 9, subtract=False),
    "to9-hint": Difficulty(2, 9, hint=True),
    "to9-add-hint": Difficulty(2, 9, hint=True, subtract=False),
    "to5-add-hint": Difficulty(2, 5, hint=True, subtract=False),
}


@dataclass(frozen=True)
class Problem:
    """A story and its numbers."""

    prompt: str
    first: int
    second: int
    sign: str

    @property
    def result(self) -> int:
        return self.first + self.second if self.sign == "+" else self.first - self.second

    @property
    def row(self) -> Row:
        """A line of a prompts file."""
        return {"prompt": self.prompt, "gold": str(self.result)}

    @property
    def solution(self) -> str:
        """A worked answer."""
        return f"{self.first} {self.sign} {self.second} = {self.result}.\nAnswer: {self.result}"


def held_out(first: int, second: int) -> bool:
    """Whether two numbers meet in held-out problems only, in either order."""
    return int(digest("held out", *sorted((first, second)))[:8], 16) / 16**8 < HELD_OUT


def number_pairs(difficulty: Difficulty, split: Split) -> list[tuple[int, int]]:
    """The pairs of numbers of one side, the larger one first."""
    numbers = range(difficulty.low, difficulty.high + 1)
    return [(a, b) for a in numbers for b in numbers if a >= b and held_out(a, b) == (split == "test")]


def problems(difficulty: Difficulty, split: Split, count: int, seed: int) -> list[Problem]:
    """`count` different problems; half of them subtract where the difficulty knows it."""
    made: dict[str, Problem] = {}
    for problem in _stream(difficulty, split, seed):
        made.setdefault(problem.prompt, problem)
        if len(made) == count:
            break
    return list(made.values())


def comparisons(difficulty: Difficulty, split: Split, count: int, seed: int) -> list[Row]:
    """Rows with a right (`chosen`) and a wrong (`rejected`) answer to one problem; the verdict is known as made.

    The wrong one is a good answer to another story, as Self-Taught Evaluators (2408.02666) make their worse answers.
    """
    rng = random.Random(f"wrong {split} {seed}")
    found = problems(difficulty, split, count, seed)
    return [
        {"prompt": problem.prompt, "chosen": problem.solution,
         "rejected": rng.choice([other for other in found if other.result != problem.result]).solution}
        for problem in found
    ]


def labelled(rows: list[Row]) -> list[Row]:
    """Comparisons as rows to test a judge with: two answers, and which of them is the right one."""
    return [
        {"prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "label": "A",
         "criterion": CRITERION}
        for row in rows
    ]


def ratings(rows: list[Row]) -> list[Row]:
    """Each of the two answers as a row of its own, with the score a perfect judge gives: 5 or 1."""
    return [
        {"prompt": row["prompt"], "response": row[side], "criterion": CRITERION, "gold": gold}
        for row in rows for side, gold in (("chosen", "5"), ("rejected", "1"))
    ]


def shuffled(rows: list[Row], seed: int) -> list[Row]:
    """The rows with the label of a random half turned round: what is left to learn from them is nothing."""
    turned = {"chosen": "rejected", "rejected": "chosen"}
    other = {"5": "1", "1": "5"}
    half = set(random.Random(f"shuffled {seed}").sample(range(len(rows)), len(rows) // 2))
    return [
        {turned.get(key, key): other.get(text, text) if key == "gold" else text for key, text in row.items()}
        if i in half else row
        for i, row in enumerate(rows)
    ]


def _stream(difficulty: Difficulty, split: Split, seed: int) -> Iterator[Problem]:
    rng = random.Random(f"{difficulty} {split} {seed}")
    pairs = number_pairs(difficulty, split)
    apart = [(a, b) for a, b in pairs if a > b]
    while True:
        sign = rng.choice("+-") if difficulty.subtract else "+"
        first, second = rng.choice(apart if sign == "-" else pairs)
        if sign == "+" and rng.random() < 0.5:
            first, second = second, first
        wording = rng.choice(ADDITIONS if sign == "+" else SUBTRACTIONS)
        text = wording.format(name=rng.choice(NAMES[split]), noun=rng.choice(NOUNS[split]), a=first, b=second)
        text = f"{text} Work out {first} {sign} {second}." if difficulty.hint else text
        yield Problem(EXAMPLE + text if difficulty.example else text, first, second, sign)
