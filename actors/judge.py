"""The judge: scores one response, or compares two. Recipes and the HTTP endpoint use this same code."""

from actors.engine import Completion
from actors.protocols import PROTOCOLS
from actors.speaker import Speaker
from actors.verdicts import as_listed
from pipelines.config import Sampling
from pipelines.prompts import load
from pipelines.recipes.base import Context, JudgeStep
from pipelines.records import Group, Judgement, Sample, record_id, record_seed
from pipelines.steps.render import judge_messages


class Judge:
    """Asks the model for judgements and reads them."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    async def judge(
        self, group: Group, samples: list[Sample], step: JudgeStep, context: Context, version: str, order: int
    ) -> list[Judgement]:
        """`step.sampling.n` judgements of one sample (pointwise) or two (pairwise); `order` 1 shows them swapped.

        Where a group has judgements already, the template tells those of this step apart. Weighed, it is one judgement.
        """
        ids = [sample["sample_id"] for sample in samples]
        stage = ("judge", step.template) if group["judgements"] else ("judge",)
        place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], *stage, *ids, order)
        completions = await self.ask(
            group, samples, step.protocol, step.sampling, record_seed(*place), record_id(*place), version, order,
            step.template, step.structured,
        )
        return [
            judgement_record(c, ids, order, step.protocol, step.template, record_id(*place, c.index))
            for c in completions
        ]

    async def ask(
        self,
        group: Group,
        samples: list[Sample],
        protocol: str,
        sampling: Sampling,
        seed: int | None,
        request_id: str,
        version: str | None,
        order: int,
        template: str,
        structured: bool,
    ) -> list[Completion]:
        """The raw replies; with `structured` every one ends in a readable verdict. Weighed, there is one."""
        known = PROTOCOLS[protocol]
        messages = judge_messages(template, group, *(samples[::-1] if order else samples), **known.variables)
        if known.weighed:
            return [await self._speaker.weigh(messages, known.verdict.choices, version)]
        if structured:
            return await self._speaker.reply_with_verdict(
                messages, sampling, seed, request_id, version, known.verdict
            )
        return await self._speaker.reply(messages, sampling, seed, request_id, version)


def judgement_record(
    completion: Completion, sample_ids: list[str], order: int, protocol: str, template: str, judgement_id: str
) -> Judgement:
    """A judge's reply as a record; an unreadable one keeps its text and its status, never a score."""
    reading = PROTOCOLS[protocol].read(completion.text, completion.finish_reason == "length")
    pairwise = PROTOCOLS[protocol].responses == 2
    return Judgement(
        judgement_id=judgement_id,
        sample_ids=sample_ids,
        order=order,
        index=completion.index,
        text=completion.text,
        token_ids=completion.token_ids,
        value=None if pairwise else reading.value,
        verdict=as_listed(reading.value, order) if pairwise else None,
        status=reading.status,
        seed=completion.seed or 0,
        weight_version=completion.weight_version,
        prompt_hash=load(template).hash,
    )
