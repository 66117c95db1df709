"""Gates: whether a judgement is kept, sent to people to be labelled, or left out. Pure; neither torch, vllm nor ray.

A gate is chosen on labelled rows (`appellate eval calibration`, `uncertainty-boundary`, `selective-generation`,
`self-j`), lies in a JSON file, and is the same object for files of judgements, for runs and for the live judge.
"""

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, model_validator

from actors.votes import Measure, Vote, strength
from pipelines.config import ConfigError, explain, known_keys
from pipelines.strict import Strict

Fate = Literal["keep", "label", "abstain"]
FATES: tuple[Fate, ...] = get_args(Fate)


class Routed(NamedTuple):
    """What becomes of one judgement, and why."""

    fate: Fate
    reason: str


class Calibration(Strict):
    """The labelled rows that a gate was chosen on, and what it did on those it was measured on."""

    data: str
    data_hash: str | None = Field(description="SHA-256 of the data file")
    judge: str | None = Field(None, description="who judged them, where the evaluation knows")
    weight_version: str | None = None
    n: int = Field(ge=0, description="items measured on, abstentions included")
    kept: int = Field(ge=0, description="of them")
    right: int = Field(ge=0, description="of the kept")
    precision: float | None = Field(description="share of right ones among the kept")
    precision_interval: tuple[float, float] | None
    coverage: float | None = Field(description="share of items kept")
    coverage_interval: tuple[float, float] | None
    held_out: bool = Field(description="whether these items are others than those the gate was chosen on")


class Gate(Strict):
    """A score threshold for each level of uncertainty. Below it, scores from `label_from` on go to people.

    Judgements without a score go there too, or are left out where nobody labels (`label_from` null).
    """

    method: str = Field(description="what chose it: threshold, coverage, single, cuts, isotonic, or a score's name")
    score: str = Field("score", description="column of the score; of votes: confidence, or score")
    uncertainty: str | None = Field(None, description="column of the uncertainty; of votes it is their spread")
    scale: tuple[float, float] | None = Field(None, description="ends of the score's scale, where it has any")
    thresholds: tuple[float | None, ...] = Field(min_length=1, description="lowest score kept; null keeps nothing")
    edges: tuple[float, ...] = Field((), description="highest uncertainty of each level but the last, ascending")
    label_from: float | None = Field(None, description="lowest score worth a label; null: nobody labels")
    required_precision: float | None = Field(None, description="that it was chosen for")
    required_coverage: float | None = Field(None, description="that it was chosen for")
    level: float = Field(0.95, gt=0, lt=1, description="of the intervals, and of a promise")
    promised: bool = Field(False, description="whether a lower confidence bound reached the required precision")
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _levels(self) -> "Gate":
        if len(self.thresholds) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("thresholds: there is one more than edges, and edges ascend")
        if self.edges and self.uncertainty is None:
            raise ValueError("uncertainty: needed, the gate has levels of it")
        return self

    def decide(self, score: float | None, uncertainty: float | None = None) -> Routed:
        """The fate of one item; `score` None is an abstention, `uncertainty` None counts as the most uncertain."""
        unsure: Fate = "abstain" if self.label_from is None else "label"
        if score is None:
            return Routed(unsure, f"no {self.score}")
        place = len(self.edges) if uncertainty is None else bisect_left(self.edges, uncertainty)
        threshold = self.thresholds[place]
        where = f" at uncertainty {uncertainty:.4g}" if self.edges and uncertainty is not None else ""
        if threshold is None:
            reason = f"no {self.score} is enough{where}"
        elif score >= threshold:
            return Routed("keep", f"{self.score} {score:.4g} is at least {threshold:.4g}{where}")
        else:
            reason = f"{self.score} {score:.4g} is below {threshold:.4g}{where}"
        return Routed(unsure if self.label_from is not None and score >= self.label_from else "abstain", reason)


def decide_votes(
    gate: Gate, winner: int | Literal["tie"] | None, confidence: float | None, votes: Sequence[Vote]
) -> Routed:
    """The fate of what votes came to: `winner` is the place of the response that they prefer, 0 where there is one.

    `confidence` as `actors.votes.decide` gives it; None: it is worked out of the votes. A gate on the score reads the
    winner's mean. Raises ConfigError for a gate on something that votes do not have.
    """
    measure = measure_of(gate)
    if winner is None and {vote.place for vote in votes} == {0} and all(vote.verdict is None for vote in votes):
        winner = 0  # one response alone wins over nobody
    found = (None, None) if winner is None else strength(votes, winner, measure)
    value = confidence if measure == "confidence" and confidence is not None else found[0]
    return gate.decide(value, found[1] if gate.uncertainty else None)


def gate_reply(
    gate: Gate, winner: int | Literal["tie"] | None, confidence: float | None, votes: Sequence[Vote]
) -> tuple[bool, str | None]:
    """(abstained, reason) of a reply that has one place for both: what is not kept is abstained from."""
    fate, reason = decide_votes(gate, winner, confidence, votes)
    advice = {"keep": None, "abstain": reason, "label": f"{reason}; ask people"}[fate]
    return fate != "keep", advice


def measure_of(gate: Gate) -> Measure:
    """What the gate reads of votes; raises ConfigError where it reads something else."""
    if gate.score not in get_args(Measure):
        known = " or ".join(get_args(Measure))
        raise ConfigError(f"the gate decides on {gate.score!r}; votes have {known}: choose it on such a column")
    return "confidence" if gate.score == "confidence" else "score"


def load_gate(path: str) -> Gate:
    """The gate in a JSON file; raises ConfigError that names the file and what is wrong."""
    try:
        return Gate.model_validate_json(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a gate ({error})") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: is no gate: {explain(error, known_keys(Gate))}") from None


def save_gate(gate: Gate, path: str) -> None:
    """Write the gate, there completely or not at all; raises ConfigError where the file cannot be written."""
    place = Path(path).expanduser()
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.write_text(gate.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(draft, place)
    except OSError as error:
        raise ConfigError(f"gate={path}: cannot be written ({error})") from None
    finally:
        draft.unlink(missing_ok=True)
