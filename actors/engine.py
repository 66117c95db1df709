"""What every engine can do. No torch, no vllm: roles, stages and the HTTP replica import this module alone."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


class EngineError(RuntimeError):
    """The engine cannot do what was asked; the message says what and why."""


class UnsupportedRequest(ValueError):
    """The engine works but has no such feature; the message names it. Asking again does not help."""


class WeightError(EngineError):
    """A weight version cannot be prepared or loaded; the message names tensor and version."""


@dataclass(frozen=True)
class Request:
    """One prompt, answered `n` times.

    Sample `i` is drawn with seed `seed + i`, whatever else runs beside it. `structured` constrains the reply:
    {"regex": ...}, {"json": schema} or {"choice": [...]}.
    """

    request_id: str
    prompt_ids: list[int]
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    structured: dict[str, Any] | None = None


@dataclass(frozen=True)
class Completion:
    """One reply. `token_ids` are the engine's own, the end-of-turn token included when it stopped by itself."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    seed: int | None
    weight_version: str


class Engine(Protocol):
    """A language model that answers, scores and changes weights. One event loop drives it."""

    async def generate(self, request: Request) -> list[Completion]:
        """`request.n` completions in index order, all made by one weight version."""
        ...

    async def abort(self, request_id: str) -> None:
        """Stop working on a request; unknown ids are ignored."""
        ...

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        """log p(response_t | prompt, response_<t) for each token of each response, natural log."""
        ...

    async def load_weights(self, path: str) -> None:
        """Replace all weights by the safetensors checkpoint in folder `path`; raises WeightError."""
        ...

    async def check_health(self) -> None:
        """Raise EngineError when the engine cannot serve any more."""
        ...

    async def shutdown(self) -> None:
        """Free memory and end child processes."""
        ...
