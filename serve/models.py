"""Requests and replies of the judge's HTTP interface. Neither torch, vllm nor ray."""

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from actors.protocols import PROTOCOLS, protocol_named
from actors.votes import Disagreement
from pipelines.prompts.scenarios import scenarios

UNASKABLE = ("claim",)  # judges a claim about a text, not a response
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
    protocol: str | None = Field(None, max_length=50, description=(
        "pairwise (two responses, the default for two), boxed, decision or fast_pairwise; or of each response alone "
        "additive (0-5, the default for other numbers), likert (1-5), rubric:LOW-HIGH, single (1-10), classify, yes_no,"
        " digits (0-9), fast_score:LOW-HIGH. fast_*, yes_no and digits read token probabilities and write no reasons"
    ))
    criteria: Text | None = Field(None, description="what the judge is told to look for")
    scenario: str | None = Field(None, max_length=100, description="criteria by the name of a built-in scenario")
    reference: Text | None = Field(None, description="an answer known to be good, shown to the judge")
    votes: int = Field(1, ge=1, le=32, description="judgements of each response, or of each order")
    both_orders: bool = Field(True, description="two responses: judge A-B and B-A")
    disagreement: Disagreement = Field("tie", description="what orders are that disagree; abstain: no verdict")
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(512, ge=16, le=4096)
    seed: int | None = Field(None, ge=0, lt=2**31)
    structured: bool = Field(False, description="let the engine hold each judgement to a readable form")

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, name: str | None) -> str | None:
        if name in UNASKABLE:
            raise ValueError(f"{name!r} judges no responses")
        if name is not None:
            protocol_named(name)
        return name

    @field_validator("scenario")
    @classmethod
    def _known_scenario(cls, name: str | None) -> str | None:
        if name is not None and name not in scenarios():
            near = difflib.get_close_matches(name, scenarios(), n=3)
            raise ValueError(f"no such scenario, near ones are {', '.join(near)}" if near else "no such scenario")
        return name

    @property
    def asked(self) -> str:
        """The protocol by name, the default one where none is given."""
        return self.protocol or ("pairwise" if len(self.responses) == 2 else "additive")

    @model_validator(mode="after")
    def _consistent(self) -> "JudgementRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("`messages` must end with a user turn: the responses answer it")
        known = PROTOCOLS[self.asked]
        if known.responses == 2 and len(self.responses) != 2:
            raise ValueError(f"the {self.asked} protocol compares exactly two `responses`")
        if known.weighed and (self.structured or self.votes > 1):
            raise ValueError(f"the {self.asked} protocol reads probabilities: it takes one vote, and writes no reasons")
        if self.criteria is not None and self.scenario is not None:
            raise ValueError("give `criteria` or the name of a `scenario`, not both")
        return self


class Vote(_Body):
    """One judgement as the judge wrote it."""

    responses: list[int] = Field(description="indices of the responses judged, in the order given in the request")
    order: Literal[0, 1] = Field(description="1: the two were shown swapped")
    text: str
    status: Literal["ok", "missing", "ambiguous", "out_of_range", "truncated"]
    score: float | None = None
    verdict: Literal["A", "B", "tie"] | None = Field(None, description="about `responses` as listed")
    probability: float | None = Field(None, description="fast comparisons: that A is the better one")


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
    protocol: str
    prompt_hash: str = Field(description="of the judge's prompt template with its parts")
    scores: list[float | None] | None = Field(None, description="protocols for one response: mean score of each")
    winner: int | Literal["tie"] | None = Field(None, description="index of the best response; null when abstained")
    confidence: float | None = Field(None, description=(
        "two responses: share of readable votes for the winner, or its probability"
    ))
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
