"""`appellate eval`: settings, judge and data put together."""

import asyncio
from typing import Any

from pipelines.config import ConfigError
from pipelines.evaluation import EVALUATIONS, get_evaluation
from pipelines.evaluation.base import Evaluation, Result, read_settings


def evaluations() -> list[tuple[str, str, str]]:
    """Name, whether a judge is asked, and what is measured, of every evaluation."""
    found = ((name, get_evaluation(name)) for name in sorted(EVALUATIONS))
    return [(name, evaluation.judge, evaluation.about) for name, evaluation in found]


def measure(name: str, data: str, judge: str | None, words: list[str], profile: str | None) -> Result:
    """Run one evaluation; raises ConfigError and InputError for what cannot be evaluated."""
    evaluation = get_evaluation(name)
    settings = read_settings(evaluation, words)
    if judge is None and evaluation.judge == "needed":
        raise ConfigError(f"{name} asks a model: give --judge RUN, CHECKPOINT or URL")
    if judge is not None and evaluation.judge == "none":
        raise ConfigError(f"{name} reads recorded annotations and asks nobody: leave --judge out")
    return asyncio.run(_measure(evaluation(), data, judge, settings, profile))


async def _measure(
    evaluation: Evaluation, data: str, judge: str | None, settings: Any, profile: str | None
) -> Result:
    if judge is None:
        return await evaluation.run(data, None, settings)
    from pipelines.evaluation.sources import open_judge

    async with open_judge(judge, profile) as judging:
        return await evaluation.run(data, judging, settings)
