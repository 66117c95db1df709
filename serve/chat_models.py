"""OpenAI's wire format for chat completions, as far as it is served. Neither torch, vllm nor ray.

Fields that clients send by habit and that change nothing here (`user`, `metadata`, `store`) are accepted; a field that
would change the answer and is not served is refused by name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve.models import Text

Limit = Annotated[int, Field(ge=1, le=32_768)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TextPart(_Wire):
    type: Literal["text"]
    text: Text


class Turn(_Wire):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: str | None = Field(None, max_length=200)

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class JsonSchema(_Wire):
    name: str = Field(max_length=200)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` belongs to type json_schema, which needs it")
        return self

    @property
    def structured(self) -> dict[str, Any] | None:
        """What holds the engine to the format; None for free text."""
        if self.type == "text":
            return None
        return {"json": self.json_schema.schema_ if self.json_schema else {"type": "object"}}


class ChatRequest(_Wire):
    """A conversation to be continued by the live model."""

    model: str = Field(max_length=500, description="the run's name, or default")
    messages: list[Turn] = Field(min_length=1, max_length=200)
    n: int = Field(1, ge=1, le=32)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    seed: int | None = Field(None, ge=0, lt=2**31)
    stop: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field([], max_length=8)
    response_format: ResponseFormat | None = None
    stream: Literal[False] = False
    user: str | None = Field(None, max_length=500)
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, stop: Any) -> Any:
        return [] if stop is None else [stop] if isinstance(stop, str) else stop

    @property
    def limit(self) -> int:
        """Longest completion, tokens."""
        return self.max_completion_tokens or self.max_tokens or 1024


class ChatMessage(_Wire):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(_Wire):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class TokenUsage(_Wire):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(_Wire):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="seconds since 1970")
    model: str
    system_fingerprint: str = Field(description="the weight version")
    weight_version: str = Field(description="the one version that made every choice of this reply")
    choices: list[Choice]
    usage: TokenUsage


class WireErrorBody(_Wire):
    message: str
    type: str
    param: None = None
    code: None = None


class WireError(_Wire):
    """An error as OpenAI's client reads it."""

    error: WireErrorBody
