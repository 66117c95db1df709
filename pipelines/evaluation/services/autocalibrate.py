"""A rubric for a Likert judge from labelled items, without gradients (AutoCalibrate, 2309.13308; R19).

The model drafts and edits rubrics and judges by them; which one is kept, and whether it is better than the start
rubric, is counted in rubric_search. The file it writes is the `criterion` of the Likert judge.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about, read_columns, read_text, write_text
from pipelines.evaluation.intervals import Interval
from pipelines.evaluation.services.questions import Asker, AskingSettings, as_text
from pipelines.evaluation.services.rubric_search import MIN_ITEMS, Calibration, Candidate, Labelled, Plan, calibrate
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

TABLE_ROWS = 10
TABLE_TEXT = 60  # characters of a rubric


class Settings(AskingSettings):
    """What is scored, from which columns, and how much is tried."""

    aspect: str = Field(description="what the scores are for, such as coherence")
    rubric: str | None = Field(None, description="text file with the start rubric; a sentence on the aspect if empty")
    rubric_out: str = Field(description="text file for the rubric that is found")
    text_column: str = "response"
    score_column: str = "score"
    prompt_column: str = Field("prompt", description="what the text answers or sums up; rows may lack it")
    draft_temperature: float = Field(1.0, ge=0)
    plan: Plan = Field(default_factory=lambda: Plan.model_validate({}))


class AutoCalibrate(Evaluation):
    """R19: drafts from few-shot subsets, the top ones refined by atomic edits, and an honest held-out comparison."""

    about = "a judge's rubric drafted and refined by correlation with gold scores, and its held-out gain"
    settings = Settings
    judge = "needed"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        assert judge is not None  # `needed`
        items = read_items(data, settings)
        service = Service(Asker(judge, "autocalibrate", settings), settings)
        asked = service.draft, service.refine, service.score
        found = await calibrate(start_rubric(settings), items, *asked, settings.plan, settings.seed)
        write_text(settings.rubric_out, found.best.rubric + "\n")
        measure, n = settings.plan.measure, found.n_held_out
        before, after = found.held_out_start, found.held_out_best
        return Result(
            **about("autocalibrate", data, judge, settings), rows=len(items),
            estimates={
                f"start rubric, selection {measure}": _estimate(found.start.merit.correlation, found.n_selection),
                f"calibrated, selection {measure}": _estimate(found.best.merit.correlation, found.n_selection),
                f"start rubric, held-out {measure}": _estimate(before.correlation, n, found.intervals[0]),
                f"calibrated, held-out {measure}": _estimate(after.correlation, n, found.intervals[1]),
                "held-out difference": Estimate(
                    value=after.correlation - before.correlation, interval=found.interval, n=n
                ),
            },
            abstentions=dict(sorted(service.silent.items())),
            tables={"rubrics": rubric_table(found)}, notes=notes(found, settings.rubric_out),
        )


class Service:
    """The model's part: drafts, edits and judgements; what could not be read is counted."""

    def __init__(self, asker: Asker, settings: Settings):
        self._asker, self._settings = asker, settings
        self.silent: Counter[str] = Counter()

    async def draft(self, examples: Sequence[Labelled], number: int) -> list[str]:
        """Rubrics that would explain the examples' scores, one for each sample of the plan."""
        s = self._settings
        answers = await self._asker.read(
            "rubric_draft", as_text, {"aspect": s.aspect, "examples": examples}, number, s.plan.samples,
            s.draft_temperature,
        )
        self._count("draft", [a.status for a in answers])
        return [a.value for a in answers if a.value]

    async def refine(self, rubric: str, wrong: Sequence[tuple[Labelled, float]], edit: str) -> list[str]:
        """The rubric after one atomic edit."""
        low = min((item.score for item, _ in wrong), default=0.0)
        high = max((item.score for item, _ in wrong), default=0.0)
        examples = [
            {"prompt": item.prompt, "response": item.response, "judged": judged,
             "score": round(1 + 4 * (item.score - low) / (high - low), 1) if high > low else 3}
            for item, judged in wrong
        ]  # fmt: skip
        about = {"aspect": self._settings.aspect, "rubric": rubric, "examples": examples, "edit": edit}
        (answer,) = await self._asker.read("rubric_refine", as_text, about)
        self._count("edit", [answer.status])
        return [answer.value] if answer.value else []

    async def score(self, rubric: str, items: Sequence[Labelled]) -> list[float | None]:
        """Likert scores by the rubric, without reasons (R19.3)."""
        meta = {"criterion": rubric}
        asked = (self._asker.judge("likert", "verdict_likert", i.prompt, i.response, meta=meta) for i in items)
        answers = await asyncio.gather(*asked)
        self._count("judgement", [a.status for a in answers])
        return [a.value for a in answers]

    def _count(self, what: str, statuses: Sequence[str]) -> None:
        self.silent.update(f"{what} {status}" for status in statuses if status != "ok")


def read_items(data: str, settings: Settings) -> list[Labelled]:
    """The labelled items; raises InputError where they are too few, or all have one score."""
    text, score, prompt = settings.text_column, settings.score_column, settings.prompt_column
    rows = read_columns(data, {text: "text", score: "number"}, {prompt: "text"}, settings.limit)
    items = [Labelled(row[text], float(row[score]), row.get(prompt, "")) for row in rows]
    if len(items) < MIN_ITEMS:
        raise InputError(f"{data}: {len(items)} items; give {MIN_ITEMS} or more, half of them are held out")
    if len({item.score for item in items}) < 2:
        raise InputError(f"{data}: {score} is the same everywhere; nothing can correlate with it")
    return items


def start_rubric(settings: Settings) -> str:
    """The start rubric's text; raises InputError where its file cannot be read."""
    if settings.rubric is None:
        return f"How good the text is in {settings.aspect}."
    text = read_text(settings.rubric).strip()
    if not text:
        raise InputError(f"{settings.rubric}: is empty; write the start rubric, or leave rubric out")
    return text


def rubric_table(found: Calibration) -> list[dict[str, object]]:
    """The best rubrics on the selection half, and the start rubric."""
    ranked = sorted(found.tried, key=lambda c: c.merit.rank, reverse=True)
    shown = ranked[:TABLE_ROWS]
    return [_row(c, c is found.best) for c in (shown if found.start in shown else [*shown, found.start])]


def _row(candidate: Candidate, chosen: bool) -> dict[str, object]:
    text = " ".join(candidate.rubric.split())
    return {
        "chosen": "yes" if chosen else "", "origin": candidate.origin, "correlation": candidate.merit.correlation,
        "unreadable": candidate.merit.unreadable, "disqualified": "yes" if candidate.merit.disqualified else "",
        "rubric": text if len(text) <= TABLE_TEXT else text[: TABLE_TEXT - 1] + "…",
    }


def notes(found: Calibration, path: str) -> list[str]:
    """What must be known before the rubric is used: first whether it is better."""
    out = [sum(c.merit.disqualified for c in found.tried), len(found.tried)]
    said = [f"calibrated rubric against the start rubric: {found.verdict}; {found.why}"]
    said.append(f"{out[1]} rubrics tried, {out[0]} disqualified for unreadable judgements; the chosen one is in {path}")
    said.append("a correlation of -1 also stands for a judge that gives everything the same score")
    said.append("the rubric was fitted to this judge: calibrate again when its weights change")
    return said


def _estimate(value: float, n: int, interval: Interval | None = None) -> Estimate:
    return Estimate(value=value, interval=interval, n=n)


EVALUATION = AutoCalibrate
