"""What a model answered to the rows of a file: recorded beside them or in a file of its own, or asked for now."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PositiveInt

from pipelines.config import ConfigError, Sampling
from pipelines.evaluation.asking import ask_all
from pipelines.evaluation.data import about, read_columns
from pipelines.records import Message
from pipelines.steps.rows import InputError
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

SEVERAL = "responses"  # the column of several recorded responses
SHOWN = 3  # responses that a result shows, so that a strange number can be understood
SHOWN_CHARACTERS = 200  # of their ends


class Answering(Strict):
    """Settings of every evaluation of what a model answers."""

    limit: PositiveInt | None = Field(None, description="rows that are used, from the first; all when empty")
    response: str = Field("response", description="column of a recorded response; `responses` holds several")
    problems: str | None = Field(None, description="file of the rows that recorded responses answer, joined by `key`")
    key: str = Field("id", description="column by which responses and `problems` belong together")
    max_tokens: PositiveInt = Field(512, description="of an answer; one that is cut off there is counted as truncated")
    seed: int = Field(0, description="of samples and shots; another one for another run of the same evaluation")


class Reply(NamedTuple):
    """One response; `truncated` is None where that was not recorded."""

    text: str
    truncated: bool | None


class Answers(NamedTuple):
    """The greedy or only response to a row, and several sampled ones; `reason` says why there is neither."""

    one: Reply | None
    several: list[Reply]
    reason: str | None = None


def read_answered(
    data: str, needed: Mapping[str, str], optional: Mapping[str, str], settings: Answering,
    recorded: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Rows of `data`, or of `settings.problems` each with what `data` records about it, in the order of `data`.

    Columns are given as read_columns takes them; `recorded` names what may stand beside a response. Raises InputError.
    """
    key = settings.key
    beside = {key: "label", settings.response: "text", SEVERAL: "texts", **(recorded or {})}
    if settings.problems is None:
        return read_columns(data, dict(needed), {**beside, **optional}, settings.limit)
    problems: dict[str, dict[str, Any]] = {}
    for row in read_columns(settings.problems, {**needed, key: "label"}, dict(optional)):
        if str(row[key]) in problems:
            raise InputError(f"{settings.problems}: two rows have {key} {row[key]!r}; name another column with key=")
        problems[str(row[key])] = row
    rows = read_columns(data, {key: "label"}, beside, settings.limit)
    lost = [row[key] for row in rows if str(row[key]) not in problems]
    if lost:
        first = f"the first has {key} {lost[0]!r}"
        raise InputError(f"{data}: {len(lost)} rows answer nothing in {settings.problems}, {first}")
    return [{**problems[str(row[key])], **row} for row in rows]


def recorded_answers(data: str, rows: Sequence[Mapping[str, Any]], settings: Answering) -> list[Answers]:
    """The responses that rows record; raises InputError where no row has one."""
    found = []
    for row in rows:
        one = Reply(row[settings.response], None) if settings.response in row else None
        several = [Reply(text, None) for text in row.get(SEVERAL, [])]
        found.append(Answers(one, several, None if one or several else "no_response"))
    if all(answers.reason for answers in found):
        raise InputError(
            f"{data}: no row has a column {settings.response!r} or {SEVERAL!r}; name it with response=COLUMN, or give "
            "--judge CHECKPOINT to have a model answer"
        )
    return found


async def asked_answers(
    judge: "Judging", conversations: Sequence[list[Message]], settings: Answering, samples: Sampling | None = None
) -> list[Answers]:
    """One greedy response to every conversation, and as many as `samples` says; a prompt without room has none."""
    if settings.problems is not None:
        raise ConfigError("problems= belongs to recorded responses; leave it out where a model is asked")
    greedy = Sampling(n=1, temperature=0.0, max_tokens=settings.max_tokens)
    asked = [greedy] if samples is None else [greedy, samples]
    first, *rest = [
        await ask_all(judge.speaker, conversations, sampling, seed=settings.seed, version=judge.weight_version)
        for sampling in asked
    ]
    several = rest[0] if rest else [[] for _ in first]
    return [
        Answers(
            Reply(one[0].text, one[0].finish_reason == "length") if one else None,
            [Reply(c.text, c.finish_reason == "length") for c in many], None if one else "too_long",
        )
        for one, many in zip(first, several, strict=True)
    ]


def answered_result(
    evaluation: str, data: str, rows: int, judge: "Judging | None", answers: Sequence[Answers], settings: Answering
) -> dict[str, Any]:
    """What the Result of every such evaluation says beside its numbers: the data, who answered, and who did not."""
    return {
        **about(evaluation, data, judge, settings), "rows": rows,
        "abstentions": dict(Counter(given.reason for given in answers if given.reason)),
    }


def answered_notes(judge: "Judging | None", settings: Answering) -> list[str]:
    """What a reader of any such evaluation must know."""
    found = []
    if settings.limit:
        found.append(f"measured on the first {settings.limit} rows of the file at most, not on the whole set")
    if judge is None:
        found.append("recorded responses: how they were asked for, sampled and cut off is not known here")
    return found


def first_responses(rows: Sequence[Mapping[str, Any]], answers: Sequence[Answers]) -> dict[str, list[dict[str, Any]]]:
    """A table of the ends of the first responses; `answers` may be of several rounds over the rows."""
    first = [(number, reply) for number, given in enumerate(answers[:len(rows)], 1)
             for reply in [given.one or next(iter(given.several), None)] if reply]
    table = [{"row": number, "response ends": reply.text[-SHOWN_CHARACTERS:]} for number, reply in first[:SHOWN]]
    return {"first responses": table} if table else {}
