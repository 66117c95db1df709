"""What a recipe is: paper defaults, the steps that make a group, and the rule that turns groups into pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.config import Sampling, Strict
from pipelines.records import Group, Pair


@dataclass(frozen=True)
class SampleStep:
    """The policy answers `template` filled with the prompt (the bare conversation when None)."""

    sampling: Sampling
    template: str | None = None


@dataclass(frozen=True)
class JudgeStep:
    """The judge reads every sample (pointwise) or two of them (pairwise) and replies `sampling.n` times each."""

    protocol: str  # a name in actors.judge.PROTOCOLS
    sampling: Sampling
    template: str
    structured: bool = False  # let the engine hold the reply to the protocol's form


@dataclass(frozen=True)
class MetaJudgeStep:
    """The meta-judge compares judgements of one response, every pair in both orders."""

    sampling: Sampling
    template: str
    structured: bool = False


Step = SampleStep | JudgeStep | MetaJudgeStep


@dataclass(frozen=True)
class Context:
    """Where in the run a pure function stands: enough to derive ids, seeds and tie breaks."""

    run_seed: int
    recipe: str
    iteration: int


class Recipe(Protocol):
    """A published method as a composition of the shared steps. All methods are pure."""

    name: str
    paper: str
    iterations: int
    reuse_prompts: bool  # the same prompts every iteration, or new ones
    training: dict[str, Any]  # the paper's values for TrainingConfig
    settings: type[Strict]

    def steps(self, settings: Any, iteration: int) -> list[Step]:
        """The model steps of one iteration, in order."""
        ...

    def read(self, group: Group, settings: Any, context: Context) -> Group:
        """Parse the recorded texts again and fill the derived fields (answer, value, status, votes, score)."""
        ...

    def statistics(self, groups: Iterable[Group], settings: Any, context: Context) -> Any:
        """What selection needs to know about the whole iteration (e.g. position weights)."""
        ...

    def select(self, group: Group, statistics: Any, settings: Any, context: Context) -> tuple[Group, list[Pair]]:
        """The pairs of one group, and the group with scores filled and `dropped` set where it made none."""
        ...
