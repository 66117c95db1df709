"""The meta-judge: compares two judgements of one response (Meta-Rewarding, 2407.19594)."""

from actors.protocols import WINNER
from actors.speaker import Speaker
from actors.verdicts import as_listed
from pipelines.prompts import load
from pipelines.recipes.base import Context, MetaJudgeStep
from pipelines.records import Group, Judgement, MetaJudgement, record_id, record_seed
from pipelines.steps.render import meta_messages


class MetaJudge:
    """Asks which of two judgements is better, in both orders."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    async def compare(
        self, group: Group, pair: tuple[Judgement, Judgement], order: int, step: MetaJudgeStep, context: Context,
        version: str,
    ) -> list[MetaJudgement]:
        """`step.sampling.n` verdicts on (a, b); `order` 1 shows b first."""
        a, b = pair
        ids = (a["judgement_id"], b["judgement_id"])
        place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], "meta_judge", *ids, order)
        first, second = (b, a) if order else (a, b)
        messages = meta_messages(step.template, group, first, second)
        asked = (messages, step.sampling, record_seed(*place), record_id(*place), version)
        if step.structured:
            completions = await self._speaker.reply_with_verdict(*asked, WINNER)
        else:
            completions = await self._speaker.reply(*asked)
        records = []
        for c in completions:
            reading = WINNER.parse(c.text, c.finish_reason == "length")
            records.append(
                MetaJudgement(
                    meta_id=record_id(*place, c.index),
                    judgement_a=ids[0],
                    judgement_b=ids[1],
                    order=order,
                    text=c.text,
                    winner=as_listed(reading.value, order),
                    status=reading.status,
                    seed=c.seed or 0,
                    weight_version=c.weight_version,
                    prompt_hash=load(step.template).hash,
                )
            )
        return records
