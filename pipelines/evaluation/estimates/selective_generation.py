"""Answer or abstain: which of its candidates a model gives, and whether its own score of it tells right from wrong."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.gates import Gate, save_gate
from actors.weighed_verdicts import names_letter, parse_top_logps, parse_weights
from pipelines.config import Sampling
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, write_rows
from pipelines.evaluation.estimates.gates import (
    Boundary,
    auc_interval,
    calibration_auc,
    choose_threshold,
    items_needed,
    label_floor,
    selective_auc,
)
from pipelines.evaluation.estimates.scored import calibrated
from pipelines.evaluation.estimates.selective_questions import Question, Settings, read_questions
from pipelines.evaluation.estimates.selective_scores import (
    LETTERS,
    NOTHING,
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
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

NOTA = "None of the answers above is right."
YES_NO = ("Yes", "No")
METHODS = ("likelihood", "likelihood_per_token", "sample_and_select", "sample_and_eval", "hybrid")


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
        if settings.gate is not None:
            save_gate(chosen_gate(questions, data, judge, settings), settings.gate)
        if settings.answers is not None:
            write_rows(settings.answers, answers(questions, settings.method))
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


def answers(questions: Sequence[Question], method: str) -> list[dict[str, Any]]:
    """The answer that `method` gives to each row: prompt, response, score, correct; null where it abstained."""
    found = []
    for question in questions:
        index, score = question.selected.get(method, NOTHING)
        response = None if index is None else question.candidates[index]
        found.append({"prompt": question.prompt, "response": response, "score": score,
                      "correct": index is not None and question.right(index)})
    return found


def chosen_gate(
    questions: Sequence[Question], data: str, judge: "Judging | None", settings: Settings
) -> Gate:
    """The gate of the method named in the settings, with what it does on these rows."""
    rows = answers(questions, settings.method)
    known = [row for row in rows if row["score"] is not None]
    if not known:
        raise InputError(f"{data}: {settings.method} answered no row, so there is no threshold to choose")
    scores = np.array([row["score"] for row in known], dtype=np.float64)
    threshold = threshold_of(scores, np.array([row["correct"] for row in known]), settings)
    boundary = Boundary((math.inf if threshold is None else threshold,))
    gate = Gate(
        method=settings.method, score="score", thresholds=boundary.floors(), level=settings.level,
        label_from=label_floor(scores, boundary.accepts(scores), settings.label_share),
        required_precision=settings.precision if settings.threshold is None else None,
        promised=settings.threshold is None and threshold is not None,
    )
    kept = np.array([gate.decide(row["score"]).fate == "keep" for row in rows])
    correct = np.array([row["correct"] for row in rows], dtype=np.float64)
    who = (None, None) if judge is None else (judge.name, judge.weight_version)
    return calibrated(gate, data, kept, correct, False, *who)


def threshold_of(scores: np.ndarray, right: np.ndarray, settings: Settings) -> float | None:
    """That of the settings, or the lowest that promises `precision`; None for none."""
    if settings.threshold is not None:
        return settings.threshold
    return choose_threshold(scores, right, settings.precision, settings.level)


def _gate(method: str, scores: np.ndarray, right: np.ndarray, settings: Settings) -> dict[str, Any]:
    """What is answered at the threshold: that of the settings, or one that promises `precision`."""
    threshold = threshold_of(scores, right, settings)
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
