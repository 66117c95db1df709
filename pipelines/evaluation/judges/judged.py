"""Comparisons with what a judge said about them: recorded before, asked of a model, or of a live judge.

The part of an evaluation that asks; what comes out is plain votes, which pure functions count.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, field_validator, model_validator

from actors.protocols import PROTOCOLS, Protocol, protocol_named
from actors.votes import Decision, Disagreement, Vote, decide, majority, mean_scores, preferred, votes_of
from pipelines.config import ConfigError, Sampling
from pipelines.evaluation.asking import CONCURRENCY
from pipelines.evaluation.judges.comparisons import Comparison
from pipelines.evaluation.judges.live import LiveJudge, Refused
from pipelines.prompts.criteria import criteria_text, read_criteria
from pipelines.prompts.scenarios import OTHER, Scenario, scenarios
from pipelines.recipes.base import Context, JudgeStep
from pipelines.records import Group, Judgement, Message, new_group
from pipelines.steps.make_prompts import given_sample
from pipelines.steps.render import template_for
from pipelines.strict import Strict

if TYPE_CHECKING:
    from actors.judge import Judge
    from pipelines.evaluation.sources import Judging


class JudgeSettings(Strict):
    """How a judge is asked."""

    protocol: str = Field("pairwise", description="a name in actors.protocols.PROTOCOLS, or rubric:LOW-HIGH")
    fast: bool = Field(False, description="no rationale: read the verdict from the first token's probabilities")
    votes: PositiveInt = Field(1, description="judgements of each response, or of each order")
    both_orders: bool = Field(True, description="compare A-B and B-A")
    disagreement: Disagreement = Field("tie", description="what orders that disagree come to")
    temperature: float = Field(0.0, ge=0)
    max_tokens: PositiveInt = Field(512, description="longest judgement, tokens")
    structured: bool = Field(False, description="let the engine hold each judgement to a readable form")
    criteria: str | None = Field(None, description="criteria shown with rows that have none of their own")
    scenarios: str | None = Field(None, description="criteria by scenario: builtin, or a file with one criterion a row")
    limit: PositiveInt | None = Field(None, description="rows, drawn by the seed")
    seed: int = 0

    @field_validator("protocol")
    @classmethod
    def _known(cls, name: str) -> str:
        protocol_named(name)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "JudgeSettings":
        protocol = PROTOCOLS[self.protocol]
        if self.fast and not protocol.weighed and protocol.fast is None:
            raise ValueError(f"{self.protocol} has no fast form: its grades are not one token; use rubric:1-9")
        if self.votes > 1 and self.temperature == 0 and not self.asked.weighed:
            raise ValueError("votes at temperature 0 are all the same; set temperature=0.7, or votes=1")
        if self.votes > 1 and self.asked.weighed:
            raise ValueError("a weighed judgement is a probability already; leave votes at 1")
        return self

    @property
    def name(self) -> str:
        """The protocol that is asked, which `fast` may have replaced."""
        protocol = PROTOCOLS[self.protocol]
        return protocol.fast or self.protocol if self.fast else self.protocol

    @property
    def asked(self) -> Protocol:
        return PROTOCOLS[self.name]

    def step(self) -> JudgeStep:
        """The step that a recipe would ask with."""
        sampling = Sampling(n=self.votes, temperature=self.temperature, max_tokens=self.max_tokens)
        return JudgeStep(self.name, sampling, self.asked.template, self.structured)


@dataclass(frozen=True)
class Judged:
    """A comparison and the votes on it. `reason` says why there are none."""

    comparison: Comparison
    votes: tuple[Vote, ...]
    pointwise: bool = False  # each response was scored by itself: there are no orders
    both_orders: bool = True
    reason: str | None = None

    @property
    def verdicts(self) -> tuple[str | None, ...]:
        """About the two as listed: of A-B and of B-A, or the one there is."""
        if self.pointwise:
            a, b = self.scores
            return (preferred(a, b),)
        orders = (0, 1) if self.both_orders else (0,)
        return tuple(majority(v.verdict for v in self.votes if v.order == order) for order in orders)

    @property
    def scores(self) -> tuple[float | None, float | None]:
        """Mean readable scores of A and of B."""
        a, b = mean_scores(self.votes, 2)
        return a, b

    def decision(self, disagreement: Disagreement) -> Decision:
        """All votes as one verdict; for scores the higher mean."""
        if self.pointwise:
            (verdict,) = self.verdicts
            return Decision(verdict, None, None if verdict else "no readable score of some response")
        return decide(self.votes, self.both_orders, disagreement)


def recorded(comparisons: Sequence[Comparison]) -> list[Judged]:
    """What the file itself says that a judge said. Rows that say nothing are abstentions."""
    found = []
    for made in comparisons:
        if made.scores is not None and made.verdicts is None:
            votes = [Vote(0, "missing" if s is None else "ok", score=s, place=i) for i, s in enumerate(made.scores)]
            found.append(Judged(made, tuple(votes), pointwise=True))
            continue
        said = made.verdicts or (None,)
        first = made.votes if made.votes and len(said) == 1 else said[:1]
        votes = [_said(verdict, 0) for verdict in first] + [_said(verdict, 1) for verdict in said[1:]]
        found.append(Judged(made, tuple(votes), both_orders=len(said) == 2))
    return found


def _said(verdict: str | None, order: int) -> Vote:
    return Vote(order, "missing" if verdict is None else "ok", verdict)


async def ask(
    judging: "Judging", comparisons: Sequence[Comparison], settings: JudgeSettings, name: str, count: int = 2
) -> tuple[list[Judged], list[str]]:
    """The comparisons judged, all at once, and the weight versions that answered. Raises ConfigError.

    What cannot be put to the judge (too long, refused) has no votes and a reason. With `count` 1 only A is scored.
    """
    shown = _with_criteria(comparisons, settings)
    if judging.live is not None:
        return await _ask_live(judging.live, shown, settings, count)
    from actors.judge import Judge

    judge, step, slots = Judge(judging.speaker), settings.step(), asyncio.Semaphore(CONCURRENCY)
    context = Context(settings.seed, name, 0)
    again: Counter[str] = Counter()  # comparisons of one prompt have ids and seeds of their own

    async def one(made: Comparison, occurrence: int) -> tuple[Judged, list[str]]:
        group, template = as_group(made, step.template, occurrence)
        own = JudgeStep(step.protocol, step.sampling, template, step.structured)
        texts = (made.response_a, made.response_b)[:count]
        async with slots:
            said = await judge_pair(judge, group, texts, own, context, judging.weight_version, settings.both_orders)
        pointwise = settings.asked.responses == 1
        if isinstance(said, str):
            return Judged(made, (), pointwise, settings.both_orders, said), []
        votes = votes_of(said, settings.name, sample_ids(group))
        return Judged(made, tuple(votes), pointwise, settings.both_orders), [j["weight_version"] for j in said]

    calls = []
    for made in shown:
        calls.append(one(made, again[made.prompt]))
        again[made.prompt] += 1
    found = await asyncio.gather(*calls)
    return [judged for judged, _ in found], sorted({version for _, versions in found for version in versions})


async def judge_pair(
    judge: "Judge", group: Group, texts: Sequence[str], step: JudgeStep, context: Context, version: str,
    both_orders: bool = True,
) -> list[Judgement] | str:
    """The judgements of two responses in both orders, or of each one by itself; or why they could not be asked for."""
    from actors.chat import ChatFormatError
    from actors.speaker import PromptTooLong

    samples = [given_sample(group["prompt_id"], place, "given", text) for place, text in enumerate(texts)]
    if PROTOCOLS[step.protocol].responses == 1:
        calls = [([sample], 0) for sample in samples]
    else:
        calls = [(samples, order) for order in ((0, 1) if both_orders else (0,))]
    try:
        made = await asyncio.gather(*(judge.judge(group, some, step, context, version, o) for some, o in calls))
    except PromptTooLong:
        return "prompt_too_long"
    except ChatFormatError:
        return "unusable_text"
    return list(itertools.chain.from_iterable(made))


def sample_ids(group: Group) -> list[str]:
    """Of the two responses that `judge_pair` makes."""
    return [given_sample(group["prompt_id"], place, "given", "")["sample_id"] for place in (0, 1)]


def as_group(made: Comparison, template: str, occurrence: int) -> tuple[Group, str]:
    """A comparison as the group a recipe would make of it, and the template with the parts that its row calls for.

    Ids and seeds are of the prompt, so a row is judged alike in whatever file and place it stands.
    """
    template, gold = template_for(template, made.meta)
    messages = [Message(role="user", content=made.prompt)]
    group = new_group(messages, gold=gold, meta=made.meta, occurrence=occurrence)
    return group, template


def _with_criteria(comparisons: Sequence[Comparison], settings: JudgeSettings) -> list[Comparison]:
    """Comparisons whose rows have no criteria with those of their scenario (column scenario, or else subset)."""
    from dataclasses import replace

    known: dict[str, Scenario] = {}
    if settings.scenarios is not None:
        known = scenarios() if settings.scenarios == "builtin" else read_criteria(settings.scenarios)
    found = []
    for made in comparisons:
        scenario = known.get(made.meta.get("scenario", made.subset)) or known.get(OTHER)
        criteria = made.meta.get("criteria") or (criteria_text(scenario) if scenario else settings.criteria)
        found.append(replace(made, meta={**made.meta, "criteria": criteria}) if criteria else made)
    return found


async def _ask_live(
    live: LiveJudge, comparisons: Sequence[Comparison], settings: JudgeSettings, count: int
) -> tuple[list[Judged], list[str]]:
    if settings.name not in ("pairwise", "additive"):
        raise ConfigError(f"a live judge has the protocols pairwise and additive, not {settings.name}; name a "
                          "checkpoint or a run for others")
    if any(made.meta.keys() & {"criteria", "reference"} for made in comparisons):
        raise ConfigError("a live judge is shown no criteria and no reference; name a checkpoint or a run")
    pointwise = settings.name == "additive"
    same = {"protocol": settings.name, "votes": settings.votes, "temperature": settings.temperature,
            "max_tokens": settings.max_tokens, "structured": settings.structured, "both_orders": settings.both_orders}

    async def one(number: int, made: Comparison) -> tuple[Judged, str | None]:
        body = {**same, "prompt": made.prompt, "responses": [made.response_a, made.response_b][:count],
                "seed": (settings.seed + 1_000_000 * number) % 2**30}
        try:
            reply = await live.judge(body)
        except Refused as refused:
            return Judged(made, (), pointwise, settings.both_orders, refused.reason), None
        return Judged(made, tuple(reply.votes), pointwise, settings.both_orders), reply.weight_version

    found = await asyncio.gather(*(one(number, made) for number, made in enumerate(comparisons)))
    return [judged for judged, _ in found], sorted({version for _, version in found if version})


def abstentions(judged: Sequence[Judged]) -> dict[str, int]:
    """Votes without a readable verdict by status, and comparisons that could not be asked by reason."""
    unread = [str(vote.status) for made in judged for vote in made.votes if vote.status != "ok"]
    return dict(sorted(Counter([*unread, *(made.reason for made in judged if made.reason)]).items()))
