"""`judge-correlation`: scores of a judge, or of a recorded column, against gold scores."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from actors.votes import Vote, mean_scores
from pipelines.config import ConfigError
from pipelines.evaluation.base import Evaluation, Result
from pipelines.evaluation.data import about, read_columns
from pipelines.evaluation.judges.comparisons import Comparison
from pipelines.evaluation.judges.correlations import Scored, correlation_estimates
from pipelines.evaluation.judges.judged import JudgeSettings, abstentions, ask
from pipelines.evaluation.judges.scale_use import scale_estimates, scale_rows
from pipelines.steps.rows import InputError

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

GOLD = ("gold", "score", "human_score", "relevance")  # the first of these that there is, unless `gold` names another
# What experts rated in SummEval (2007.12626, section 4.2), in words of our own.
ASPECTS = {
    "coherence": "The sentences of the summary belong together: it is built and ordered as one text, and is no heap of "
                 "facts.",
    "consistency": "Everything that the summary states follows from the article; nothing is added or contradicted.",
    "fluency": "Each sentence is well formed: grammar, wording and format give a reader no trouble.",
    "relevance": "The summary has what is important in the article, and nothing redundant or beside the point.",
}
DOCUMENTS = "documents.parquet"
ARTICLE = "Summarise this article in a few sentences.\n\n{}"


class CorrelationSettings(JudgeSettings):
    """Which columns are compared, and how a judge is asked."""

    protocol: str = "rubric:1-5"
    gold: str | None = Field(None, description="column of the gold scores")
    score: str | None = Field(None, description="column of scores a judge gave before; then nobody is asked")
    group: str | None = Field(None, description="column of what texts are about; doc_id where there is one, or prompt")
    documents: str | None = Field(None, description="file of articles by doc_id; documents.parquet beside the data")


class Item(NamedTuple):
    """One text to score."""

    prompt: str
    response: str
    group: str
    system: str | None
    gold: float
    score: float | None
    meta: dict[str, str]


def read_items(data: str, settings: CorrelationSettings) -> tuple[list[Item], str]:
    """The texts of a file of `prompt, response` or of `doc_id, summary`, and the name of the gold column.

    A row without a recorded score is an abstention. Raises InputError for columns that are missing.
    """
    optional = {name: "text" for name in ("prompt", "response", "doc_id", "summary", "system", "criteria", "reference")}
    numbers = {name: "number" for name in (*GOLD, settings.gold, settings.score) if name}
    by = {settings.group: "text"} if settings.group else {}
    rows = read_columns(data, {}, optional | numbers | by)
    there = {name for row in rows for name in row}
    gold = settings.gold or next((name for name in GOLD if name in there and name != settings.score), None)
    if gold is None or gold not in there:
        raise InputError(f"{data}: has no column of gold scores called {gold or ' or '.join(GOLD)}; name it: gold=NAME")
    if settings.score and settings.score not in there:
        raise InputError(f"{data}: has no column of scores called {settings.score}")
    articles = _articles(data, rows, settings) if settings.score is None else {}
    items = []
    for number, row in enumerate(rows, 1):
        prompt = row.get("prompt") or articles.get(row.get("doc_id", ""), "")
        group = row.get(settings.group or "doc_id", prompt)
        response = row.get("response", row.get("summary"))
        if settings.score is None and not (prompt and response is not None):
            raise InputError(f"{data}: row {number} has no prompt or no response; a judge reads both")
        if gold not in row:
            raise InputError(f"{data}: row {number} has no {gold}")
        meta = {name: row[name] for name in ("criteria", "reference") if name in row}
        items.append(Item(prompt, response or "", group or str(number), row.get("system"), float(row[gold]),
                          row.get(settings.score) if settings.score else None, meta))
    return items, gold


def _articles(data: str, rows: list[dict[str, Any]], settings: CorrelationSettings) -> dict[str, str]:
    if all("prompt" in row for row in rows):
        return {}
    beside = settings.documents or str(Path(data).expanduser().with_name(DOCUMENTS))
    found = read_columns(beside, {"doc_id": "text", "source": "text"})
    return {row["doc_id"]: ARTICLE.format(row["source"]) for row in found}


def drawn(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """At least `limit` texts: whole groups drawn by the seed, as the levels need all texts about one document."""
    import random

    if limit is None or limit >= len(items):
        return items
    names = sorted({item.group for item in items})
    random.Random(seed).shuffle(names)
    sizes, kept, count = Counter(item.group for item in items), set(), 0
    for name in names:
        if count >= limit:
            break
        kept.add(name)
        count += sizes[name]
    return [item for item in items if item.group in kept]


async def score_items(
    judging: "Judging", items: list[Item], settings: CorrelationSettings, criteria: str | None
) -> tuple[list[list[float | None]], list[str], Counter[str]]:
    """The scores of every vote on each text (None where it cannot be read), weight versions, abstentions by reason."""
    made = [Comparison(0, item.prompt, item.response, "", "tie",
                       meta=({"criteria": criteria} if criteria else {}) | item.meta) for item in items]
    judged, versions = await ask(judging, made, settings, "judge-correlation", count=1)
    reasons = Counter(abstentions(judged))
    return [[vote.score for vote in one.votes] for one in judged], versions, reasons


class JudgeCorrelation(Evaluation):
    """Correlation with gold scores within documents, between systems and over all, and how the scale is used."""

    about = "scores of a judge, or of a recorded column, against gold scores: Spearman, Kendall, Pearson by level"
    settings = CorrelationSettings
    judge: ClassVar[Literal["none", "optional", "needed"]] = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Any) -> Result:
        """Ask, or read the recorded column, and correlate. Raises InputError, ConfigError."""
        if (judge is None) == (settings.score is None):
            raise ConfigError("give --judge RUN or CHECKPOINT, or score=COLUMN of recorded scores; not both")
        if settings.asked.responses != 1:
            raise ConfigError(f"protocol {settings.name} compares two; use rubric:LOW-HIGH or another that scores one")
        items, gold = read_items(data, settings)
        items = drawn(items, settings.limit, settings.seed)
        notes = [f"gold is {gold}; tau is tau-b; intervals draw documents"]
        if judge is None:
            said: list[list[float | None]] = [[item.score] for item in items]
            versions, reasons = [], Counter({"missing": sum(item.score is None for item in items)})
        else:
            criteria = settings.criteria or (None if judge.live else ASPECTS.get(gold))
            said, versions, reasons = await score_items(judge, items, settings, criteria)
            how = "the first token's probabilities" if settings.asked.weighed else f"{settings.votes} written vote(s)"
            notes.append(f"protocol {settings.name}, {how}" + (f", criteria: {criteria}" if criteria else ""))
        scores = [mean_scores([Vote(0, "ok", score=score) for score in votes], 1)[0] for votes in said]
        scored = [Scored(item.group, item.system, item.gold, s) for item, s in zip(items, scores, strict=True)]
        estimates = correlation_estimates(scored, settings.seed)
        given = [score for votes in said for score in votes if score is not None]
        scale = settings.asked.scale if judge else None
        return Result(
            **about("judge-correlation", data, judge, settings, ", ".join(versions)), rows=len(items),
            estimates=estimates | scale_estimates(given, scale), abstentions={k: n for k, n in reasons.items() if n},
            tables={"scores": scale_rows(given)}, notes=notes,
        )


EVALUATION = JudgeCorrelation
