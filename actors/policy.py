"""The policy: answers prompts."""

from actors.speaker import Speaker
from pipelines.recipes.base import Context, SampleStep
from pipelines.records import Group, Sample, record_id, record_seed
from pipelines.steps.render import prompt_messages


class Policy:
    """Samples responses to a group's prompt."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    async def sample(self, group: Group, step: SampleStep, context: Context, version: str) -> list[Sample]:
        """`step.sampling.n` samples, seeds hash-derived from the group's place in the run."""
        place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], "sample")
        completions = await self._speaker.reply(
            prompt_messages(group, step.template), step.sampling, record_seed(*place), record_id(*place), version
        )
        return [
            Sample(
                sample_id=record_id(*place, c.index),
                index=c.index,
                kind="sample",
                text=c.text,
                token_ids=c.token_ids,
                finish_reason=c.finish_reason,
                n_chars=len(c.text),
                n_words=len(c.text.split()),
                n_tokens=len(c.token_ids),
                seed=c.seed or 0,
                weight_version=c.weight_version,
            )
            for c in completions
        ]
