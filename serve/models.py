"""Requests and replies of the judge's HTTP interface. Neither torch, vllm nor ray."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(min_length=1, max_length=200_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ChatMessage(_Body):
    role: Literal["system", "user", "assistant"]
    content: Text


class JudgementRequest(_Body):
    """What is to be judged, and how."""

    prompt: Text | None = Field(None, description="the user's request; or give `messages`")
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=100, description="ends with a user turn")
    responses: list[Text] = Field(min_length=1, max_length=16)
    protocol: Literal["additive", "pairwise"] | None = Field(
        None, description="additive scores each response 0-5; pairwise compares two; pairwise is used for two responses"
    )
    votes: int = Field(1, ge=1, le=32, description="judgements of each response, or of each order")
    both_orders: bool = Field(True, description="pairwise: judge A-B and B-A; a verdict that flips is a tie")
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(512, ge=16, le=4096)
    seed: int | None = Field(None, ge=0, lt=2**31)
    structured: bool = Field(False, description="let the engine hold each judgement to a readable form")

    @model_validator(mode="after")
    def _consistent(self) -> "JudgementRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("`messages` must end with a user turn: the responses answer it")
        if self.protocol == "pairwise" and len(self.responses) != 2:
            raise ValueError("the pairwise protocol compares exactly two `responses`")
        return self


class Vote(_Body):
    """One judgement as the judge wrote it."""

    responses: list[int] = Field(description="indices of the responses judged, in the order given in the request")
    order: Literal[0, 1] = Field(description="1: the two were shown swapped")
    text: str
    status: Literal["ok", "missing", "ambiguous", "out_of_range", "truncated"]
    score: float | None = None
    verdict: Literal["A", "B", "tie"] | None = Field(None, description="about `responses` as listed")


class Usage(_Body):
    completion_tokens: int
    votes: int
    unreadable_votes: int


class JudgementReply(_Body):
    """All readable votes put together; unreadable ones are abstentions and change no number."""

    id: str
    object: Literal["judgement"] = "judgement"
    model: str
    weight_version: str = Field(description="the one version that made every vote of this reply")
    protocol: Literal["additive", "pairwise"]
    prompt_hash: str
    scores: list[float | None] | None = Field(None, description="additive: mean score of each response")
    winner: int | Literal["tie"] | None = Field(None, description="index of the best response; null when abstained")
    confidence: float | None = Field(None, description="share of readable votes for the winner; pairwise only")
    abstained: bool
    reason: str | None = Field(None, description="why the judge abstained")
    votes: list[Vote]
    usage: Usage


class ModelCard(_Body):
    id: str
    object: Literal["model"] = "model"
    owned_by: str = "appellate"
    weight_version: str


class ModelList(_Body):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(_Body):
    status: Literal["ok"] = "ok"
    weight_version: str | None = None


class ErrorReply(_Body):
    """Errors carry no stack trace and no path."""

    error: str
