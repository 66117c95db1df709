"""What a recipe is: paper defaults, the steps that make a group, and the rule that turns groups into pairs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.config import Sampling
from pipelines.recipes.method import Method
from pipelines.records import Group, Pair
from pipelines.steps.judgements import read_group


@dataclass(frozen=True)
class Context:
    """Where in the run a pure function stands: enough to derive ids, seeds and tie breaks."""

    run_seed: int
    recipe: str
    iteration: int


# Further template variables of a step's requests for one group, each with a "key" that enters id and seed. It is asked
# before a run starts, too, about the groups as their rows gave them.
Shown = Callable[[Group, Context], list[dict[str, Any]]]


@dataclass(frozen=True)
class SampleStep:
    """A role answers `template` filled with the prompt (the bare conversation when None)."""

    sampling: Sampling
    template: str | None = None
    kind: str = "sample"  # what the samples are recorded as
    role: str = "policy"
    split: str | None = None  # a name in steps.parts.SPLITTERS: hidden part | visible part
    shown: Shown | None = None  # a module-level function: one request per dictionary, none for []; None: one request


@dataclass(frozen=True)
class JudgeStep:
    """The judge reads every sample (pointwise) or every two (pairwise, both orders); `sampling.n` replies each.

    A protocol that is weighed (digits) gets one judgement each, without sampling.
    """

    protocol: str  # a name in actors.protocols.PROTOCOLS
    sampling: Sampling
    template: str
    structured: bool = False  # let the engine hold the reply to the protocol's form
    kinds: tuple[str, ...] = ("sample",)  # the samples it reads
    only: Callable[[Group], bool] | None = None  # a module-level function: the groups it judges; None: all
    role: str = "judge"  # "reference" where exact probabilities are asked for: it computes as the trainer does


@dataclass(frozen=True)
class MetaJudgeStep:
    """The meta-judge compares judgements of one response, every pair in both orders.

    Either it is shown both (`comparison`), or it checks the claims of each (`claims`, MetaCritique) and counts.
    """

    sampling: Sampling
    template: str
    structured: bool = False
    by: Literal["comparison", "claims"] = "comparison"


Step = SampleStep | JudgeStep | MetaJudgeStep


@dataclass(frozen=True)
class NewPrompts:
    """The role `generator` writes new prompts from `shots` of the seed prompts, before the iteration's groups."""

    sampling: Sampling  # n = 1; max_tokens of one question
    template: str  # its variable `examples` is a list of texts
    shots: int
    count: int  # prompts wanted in this iteration
    generated_shots: int = 0  # of the shots, how many are prompts that were generated before
    max_similarity: float = 0.7  # ROUGE-L to any prompt there is (Self-Instruct, 2212.10560)
    without_words: tuple[str, ...] = ()  # prompts with one of these words are dropped
    with_seeds: bool = True  # the seed prompts are answered too


class Recipe:
    """A published method as a composition of the shared steps. All methods are pure."""

    name: str
    paper: str
    iterations: int
    settings: type[Method]
    reuse_prompts: bool = False  # the same prompts every iteration, or new ones
    keep_samples: bool = False  # with them, iterations go on from the samples of the one before
    training: ClassVar[dict[str, Any]] = {}  # the paper's values for TrainingConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # settings of a run by the name that `preset=` takes
    protocols: tuple[str, str] = ("additive", "pairwise")  # how judgements of one and of two samples are read again
    teaches: bool = False  # whether the judgements of another model are the policy's to learn from

    def steps(self, settings: Any, iteration: int) -> list[Step]:
        """The model steps of one iteration, in order."""
        raise NotImplementedError

    def new_prompts(self, settings: Any, iteration: int) -> NewPrompts | None:
        """What the generator writes before the iteration, if anything."""
        return None

    def rows(self, settings: Any, iteration: int) -> str | None:
        """A file whose rows this iteration takes in place of the prompts, if it does."""
        return None

    def training_at(self, settings: Any, iteration: int) -> dict[str, Any]:
        """What this iteration's training has other than the run's TrainingConfig."""
        return {}

    def read(self, group: Group, settings: Any, context: Context) -> Group:
        """Parse the recorded texts again and fill the derived fields (answer, value, status, votes, score)."""
        return read_group(group, self.protocols)

    def statistics(self, groups: Iterable[Group], settings: Any, context: Context) -> Any:
        """What selection needs to know about the whole iteration (e.g. position weights)."""
        return None

    def select(self, group: Group, statistics: Any, settings: Any, context: Context) -> tuple[Group, list[Pair]]:
        """The pairs of one group, and the group with scores filled and `dropped` set where it made none."""
        raise NotImplementedError
