"""A model of this process: an engine without Ray, for evaluations and benches that outlive no command."""

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from actors.chat import ChatFormat
from actors.engine import Completion, Engine, Request
from actors.engines import start_engine
from actors.speaker import Speaker
from pipelines.config import ModelConfig


class LocalModel:
    """An engine of this process where a Speaker expects a pool of replicas."""

    def __init__(self, engine: Engine, version: str = "v0"):
        self.engine, self.version = engine, version

    async def generate(self, request: Request, version: str | None = None) -> list[Completion]:
        """The engine's completions; it has one weight version at a time."""
        made = await self.engine.generate(request)
        return [dataclasses.replace(completion, weight_version=self.version) for completion in made]

    async def score(
        self, prompt_ids: list[int], responses: list[list[int]], version: str | None = None
    ) -> tuple[list[list[float]], str]:
        """Per-token log-probabilities of `responses`, and the weight version."""
        return await self.engine.score(prompt_ids, responses), self.version


@asynccontextmanager
async def local_speaker(folder: str, config: ModelConfig, version: str = "v0") -> AsyncGenerator[Speaker]:
    """The checkpoint in `folder` as somebody who answers messages, until the context is left."""
    engine = await start_engine(folder, config)
    try:
        yield Speaker(cast(Any, LocalModel(engine, version)), ChatFormat.load(folder), config.max_model_len)
    finally:
        await engine.shutdown()
