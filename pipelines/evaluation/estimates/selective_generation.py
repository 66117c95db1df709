"""Answer or abstain: which of its candidates a model gives, and whether its own score of it tells right from wrong."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from actors.weighed_verdicts import names_letter, parse_top_logps, parse_weights
from pipelines.config import Sampling
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.estimates.gates import (
    Boundary,
    auc_interval,
    calibration_auc,
    choose_threshold,
    items_needed,
    selective_auc,
)
from pipelines.evaluation.estimates.selective_scores import (
    LETTERS,
    Selected,
    Shown,
    by_likelihood,
    debiased,
    hybrid,
    orders,
    sample_and_eval,
    sample_and_select,
)
from pipelines.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval
from pipelines.prompts import load
from pipelines.records import Message, digest, record_id, record_seed
from pipelines.steps.answers import clean, extract_answer, same_answer
from pipelines.steps.rows import InputError, Problem, check_text, kind, read_rows
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

NOTA = "None of the answers above is right."
YES_NO = ("Yes", "No")
METHODS = ("likelihood", "likelihood_per_token", "sample_and_select", "sample_and_eval", "hybrid")


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


class SelectiveGeneration(Evaluation):
    """R16: sample-and-select, sample-and-eval and the hybrid of them beside the likelihood."""

    about = "answer or abstain: accuracy, and how well a model's own score of its answer tells right from wrong"
    settings = Settings
    judge = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Rows have `prompt`, and `candidates` with `correct` or `gold`; without candidates they are sampled."""
        questions = read_questions(data, settings, asked=judge is not None)
        if judge is None:
            # The prompts of one file were alike: an option that no row names was not shown.
            nota = any(names_letter(token, LETTERS[len(q.candidates)])
                       for q in questions for top in q.letters for token in top)
            for question in questions:
                _score_recorded(question, nota)
        else:
            await asyncio.gather(*(_ask(judge, number, q, settings) for number, q in enumerate(questions)))
        estimates, table = summary(questions, settings)
        abstained = Counter(
            f"{method} missing" for q in questions if q.failed is None
            for method in q.selected if q.selected[method].index is None
        ) + Counter(q.failed for q in questions if q.failed)  # fmt: skip
        return Result(
            **about("selective-generation", data, judge, settings), rows=len(questions),
            estimates=estimates,
            abstentions=dict(abstained), tables={"gates": table}, notes=_notes(table, settings),
        )


EVALUATION = SelectiveGeneration


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


def summary(
    questions: Sequence[Question], settings: Settings
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Accuracy, calibration-AUC and selective-AUC of each method, and what a threshold does with it."""
    known = [q for q in questions if q.failed is None and q.candidates]
    if not known:
        raise InputError("no row could be asked; see that the prompts fit the model")
    level = settings.level
    shares = [sum(map(q.right, range(len(q.candidates)))) / len(q.candidates) for q in known]
    possible = sum(share > 0 for share in shares)
    estimates = {
        "any candidate right": Estimate(
            value=possible / len(known), interval=proportion_interval(possible, len(known), level), level=level,
            n=len(known),
        ),
        "random candidate: accuracy": Estimate(
            value=math.fsum(shares) / len(known), interval=mean_interval(shares, level), level=level, n=len(known)
        ),
    }
    table = []
    for method in METHODS:
        chosen = [(q.selected[method].score, q.right(i)) for q in known
                  if method in q.selected and (i := q.selected[method].index) is not None]  # fmt: skip
        if not chosen:
            continue
        scores, right = np.array(chosen, dtype=np.float64).T
        estimates |= _measured(method, scores, right, level)
        table.append(_gate(method, scores, right, settings))
    return estimates, table


def _measured(method: str, scores: np.ndarray, right: np.ndarray, level: float) -> dict[str, Estimate]:
    n = len(scores)
    area, hits = calibration_auc(scores, right), int(right.sum())
    return {
        f"{method}: accuracy": Estimate(
            value=hits / n, interval=proportion_interval(hits, n, level), level=level, n=n
        ),
        f"{method}: calibration-AUC": Estimate(
            value=area, n=n, level=level, why="all right or all wrong" if area is None else None,
            interval=None if area is None else auc_interval(area, hits, n - hits, level),
        ),
        f"{method}: selective-AUC": Estimate(
            value=float(selective_auc(scores, right)), n=n, level=level,
            interval=bootstrap_interval(selective_auc, scores, right, level=level),
        ),
    }


def _gate(method: str, scores: np.ndarray, right: np.ndarray, settings: Settings) -> dict[str, Any]:
    """What is answered at the threshold: that of the settings, or one that promises `precision`."""
    threshold = settings.threshold
    if threshold is None:
        threshold = choose_threshold(scores, right, settings.precision, settings.level)
    given = Boundary((math.inf if threshold is None else threshold,)).accepts(scores)
    return {
        "method": method, "threshold": threshold, "answered": int(given.sum()),
        "abstains": 1 - float(given.mean()),
        "accuracy": float(right[given].mean()) if given.any() else None,
        "accuracy_else": float(right[~given].mean()) if not given.all() else None,
    }


def _notes(table: list[dict[str, Any]], settings: Settings) -> list[str]:
    said = ["a threshold belongs to this model, these prompts and this temperature: choose it again for another one"]
    if settings.threshold is None:
        said.append(
            f"thresholds promise that {settings.precision:.0%} of the answers given are right, with confidence "
            f"{settings.level:.0%}; the lower bound decides, never the share found"
        )
        if none := [row["method"] for row in table if row["threshold"] is None]:
            least = items_needed(settings.precision, settings.level)
            said.append(
                f"no threshold can promise that for {', '.join(none)}: everything is abstained from (even if all are "
                f"right it takes {least} answers or more)"
            )
    return said


async def _ask(judging: "Judging", number: int, question: Question, settings: Settings) -> None:
    """Sample candidates where there are none, weigh letters and verdicts, and score every method."""
    from actors.speaker import PromptTooLong  # it brings Ray with it, which a list of evaluations has no use for

    speaker, version = judging.speaker, judging.weight_version
    asked_for = [Message(role="user", content=question.prompt)]
    try:
        if not question.candidates:
            sampling = Sampling(n=settings.samples, temperature=settings.temperature, max_tokens=settings.max_tokens)
            place = (settings.seed, "selective-generation", 0, digest(number, question.prompt), "sample")
            replies = await speaker.reply(asked_for, sampling, record_seed(*place), record_id(*place), version)
            question.candidates = list(dict.fromkeys(text for r in replies if (text := r.text.strip())))
        candidates = question.candidates
        if not candidates:
            question.failed = "empty_reply"
            return
        shown = {"one": orders(len(candidates))[:1], "latin": orders(len(candidates), 0)}
        asked = shown.get(settings.orders) or orders(len(candidates))
        letters = LETTERS[: len(candidates) + settings.none_of_the_above]
        selecting = [speaker.weigh(_select_messages(question, order, settings), letters, version) for order in asked]
        checked = [_check_messages(question, index, settings) for index in range(len(candidates))]
        checking = [speaker.weigh(messages, YES_NO, version) for messages in checked]
        weighed, scores = await asyncio.gather(
            asyncio.gather(*selecting, *checking), speaker.score(asked_for, candidates, version)
        )
    except PromptTooLong:
        question.failed = "prompt_too_long"
        return
    said = [parse_weights(completion.text, letters).value for completion in weighed[: len(asked)]]
    verdicts = [parse_weights(completion.text, YES_NO).value for completion in weighed[len(asked) :]]
    _select(question, [Shown(order, p) for order, p in zip(asked, said, strict=True) if p], verdicts)
    question.selected |= {
        "likelihood": by_likelihood(scores, per_token=False),
        "likelihood_per_token": by_likelihood(scores, per_token=True),
    }


def _score_recorded(question: Question, nota: bool) -> None:
    n = len(question.candidates)
    said = [parse_top_logps(top, LETTERS[: n + nota]).value for top in question.letters]
    verdicts = [parse_top_logps(top, YES_NO).value for top in question.verdicts]
    _select(question, [Shown(range(n), p) for p in said if p], verdicts)


def _select(question: Question, shown: list[Shown], verdicts: list[dict[str, float] | None]) -> None:
    letters, yes = debiased(shown), [None if v is None else v["Yes"] for v in verdicts]
    question.selected |= {
        "sample_and_select": sample_and_select(letters),
        "sample_and_eval": sample_and_eval(yes),
        "hybrid": hybrid(letters, yes),
    }


def _select_messages(question: Question, order: Sequence[int], settings: Settings) -> list[Message]:
    texts = [question.candidates[i] for i in order] + ([NOTA] if settings.none_of_the_above else [])
    options = list(zip(LETTERS, texts, strict=False))
    return [Message(role="user", content=load("select_candidate").render(prompt=question.prompt, options=options))]


def _check_messages(question: Question, index: int, settings: Settings) -> list[Message]:
    others = [text for i, text in enumerate(question.candidates) if i != index] if settings.show_others else []
    text = load("check_candidate").render(
        prompt=question.prompt, response=question.candidates[index], others=others
    )
    return [Message(role="user", content=text)]


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
