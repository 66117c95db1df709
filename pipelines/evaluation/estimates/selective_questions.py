"""The rows of `selective-generation`: questions with candidates, what was recorded of them, and how they are asked."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.evaluation.estimates.selective_scores import LETTERS, Selected
from pipelines.steps.answers import clean, extract_answer, same_answer
from pipelines.steps.rows import Problem, check_text, kind, read_rows
from pipelines.strict import Strict


class Settings(Strict):
    """Settings of `selective-generation`."""

    samples: PositiveInt = Field(4, le=25, description="candidates sampled for a row that has none")
    temperature: float = Field(1.0, ge=0, description="of the sampled candidates")
    max_tokens: PositiveInt = Field(128, description="longest sampled candidate, tokens")
    none_of_the_above: bool = Field(True, description="offer it as an option and count its probability against a score")
    orders: Literal["one", "latin", "all"] = Field(
        "latin", description="orders of options: as given, each once in each place, or all permutations of up to four"
    )
    show_others: bool = Field(False, description="show the other candidates where one is checked")
    precision: float = Field(0.8, gt=0, lt=1, description="accuracy of given answers that the threshold must promise")
    threshold: float | None = Field(None, description="score below which to abstain; chosen for `precision` when empty")
    level: float = Field(0.95, gt=0, lt=1, description="coverage of intervals, confidence of the threshold")
    limit: PositiveInt | None = Field(None, description="rows used; all when empty")
    seed: NonNegativeInt = 0
    method: Literal["likelihood", "likelihood_per_token", "sample_and_select", "sample_and_eval", "hybrid"] = Field(
        "hybrid", description="whose answers and scores `gate` and `answers` are of"
    )
    gate: str | None = Field(None, description="JSON file to write the gate to")
    label_share: float = Field(0.0, ge=0, le=1, description="share of all rows that may go to people to be labelled")
    answers: str | None = Field(None, description="JSONL to write the answers to, with score and whether it is right")


@dataclass
class Question:
    """One row, and what was found of it. Recorded probabilities make asking unnecessary."""

    prompt: str
    candidates: list[str]
    correct: list[bool] | None
    gold: str | None
    letters: list[dict[str, float]] = field(default_factory=list)  # recorded: top tokens, options in the order given
    verdicts: list[dict[str, float]] = field(default_factory=list)  # recorded: top tokens of Yes or No, by candidate
    selected: dict[str, Selected] = field(default_factory=dict)
    failed: str | None = None

    def right(self, index: int) -> bool:
        """Whether candidate `index` is right: as the row says, or, where sampled, as it gives the gold answer."""
        if self.correct is not None:
            return self.correct[index]
        text = self.candidates[index]
        return same_answer(extract_answer(text) or clean(text), self.gold or "")


def read_questions(data: str, settings: Settings, asked: bool) -> list[Question]:
    """The rows; raises InputError for one that cannot be scored, as it is or by asking."""

    def convert(row: dict[str, Any], where: str) -> Question:
        candidates = list(dict.fromkeys(_texts(row, "candidates")))
        if len(candidates) < len(_texts(row, "candidates")) and ("correct" in row or not asked):
            raise Problem("candidates", "has one text twice; keep it once, and the flags and numbers that belong to it")
        correct = row.get("correct")
        if correct is not None and not (isinstance(correct, list) and all(flag in (0, 1) for flag in correct)):
            raise Problem("correct", f"is {kind(correct)}; use a list of true or false")
        if correct is not None and len(correct) != len(candidates):
            raise Problem("correct", f"has {len(correct)} flags for {len(candidates)} candidates")
        if not correct and not isinstance(row.get("gold"), str):
            raise Problem("gold", "is missing; give the right answer, or `candidates` with `correct`")
        if correct is None and candidates:
            correct = [text.strip() == row["gold"].strip() for text in candidates]
            if not any(correct):
                raise Problem("gold", "is none of the candidates; flag those that are right in `correct`")
        if len(candidates) > len(LETTERS) - 1:
            raise Problem("candidates", f"has {len(candidates)}; {len(LETTERS) - 1} have letters")
        question = Question(
            check_text(row.get("prompt"), "prompt"), candidates, [bool(flag) for flag in correct] if correct else None,
            row.get("gold"), _tops(row, "letter_logprobs"), _tops(row, "verdict_logprobs"),
        )
        if not asked and not (candidates and question.letters and len(question.verdicts) == len(candidates)):
            raise Problem(
                "letter_logprobs",
                "is needed with verdict_logprobs, one for each of `candidates`, where nobody is asked; or give --judge",
            )
        return question

    return read_rows(data, convert, settings.limit)[0]


def _texts(row: dict[str, Any], name: str) -> list[str]:
    found = row.get(name, [])
    if not isinstance(found, list):
        raise Problem(name, f"is {kind(found)}; use a list of texts")
    return [check_text(text, f"{name}[{index}]") for index, text in enumerate(found)]


def _tops(row: dict[str, Any], name: str) -> list[dict[str, float]]:
    """Recorded top tokens: an object of token and log-probability, or a list of them."""
    found = row.get(name, [])
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(top, dict) for top in found):
        raise Problem(name, f"is {kind(found)}; use an object of tokens and log-probabilities, or a list of them")
    return found
