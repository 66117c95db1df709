"""What the HTTP routes share: the live model, who asks it, and which weights it serves."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from actors.judge import Judge
from actors.pool import ModelUnavailable, PoolClient
from actors.speaker import Speaker

STATUS_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Live:
    """The model of one run behind its HTTP address."""

    run: str
    client: PoolClient
    speaker: Speaker
    judge: Judge

    async def version(self) -> str:
        """Weight version of a replica; raises ModelUnavailable."""
        try:
            status = await asyncio.wait_for(self.client.handle.status.remote(), STATUS_TIMEOUT_S)
        except (RayActorError, RayServeException, TimeoutError) as error:
            raise ModelUnavailable(f"no status: {error!r}") from error
        return status["version"]


def _live(request: Request) -> Live:
    return request.app.state.live


LiveModel = Annotated[Live, Depends(_live)]
