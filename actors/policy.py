"""The policy: answers prompts."""

from typing import Any

from actors.speaker import Speaker
from pipelines.recipes.base import Context, SampleStep
from pipelines.records import Group, Sample, record_id, record_seed
from pipelines.steps.lengths import count_words
from pipelines.steps.parts import split, visible
from pipelines.steps.render import prompt_messages


class Policy:
    """Samples responses to a group's prompt."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    async def sample(
        self, group: Group, step: SampleStep, context: Context, version: str, shown: dict[str, Any] | None = None
    ) -> list[Sample]:
        """`step.sampling.n` samples, seeds hash-derived from the group's place in the run.

        `shown` are further template variables, and its "key" tells several requests of the step apart. A response that
        `step.split` cannot split is recorded as `{kind}_unsplit`, which no step reads.
        """
        place: tuple[Any, ...] = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], step.kind)
        if step.kind != "sample" or shown:
            place += ((shown or {}).get("key", ""),)
        messages = prompt_messages(group, step.template, **(shown or {}))
        completions = await self._speaker.reply(
            messages, step.sampling, record_seed(*place), record_id(*place), version
        )
        samples = []
        for c in completions:
            sample = Sample(
                sample_id=record_id(*place, c.index),
                index=c.index,
                kind=step.kind,
                text=c.text,
                token_ids=c.token_ids,
                finish_reason=c.finish_reason,
                n_chars=0,
                n_words=0,
                n_tokens=len(c.token_ids),
                seed=c.seed or 0,
                weight_version=c.weight_version,
            )
            sample = split(sample, step.kind, step.split) if step.split else sample
            read = visible(sample)
            samples.append(Sample(**{**sample, "n_chars": len(read), "n_words": count_words(read)}))
        return samples
