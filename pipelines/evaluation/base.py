"""What an evaluation is, and what every result says: value, interval, n, abstentions, judge, weight version, data."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from pipelines.config import ConfigError, explain, known_keys, merge, parse_assignment
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging


class Estimate(Strict):
    """One number. `value` is None where it is not defined, and `why` says so; `interval` has coverage `level`."""

    value: float | None
    interval: tuple[float, float] | None = None
    level: float = 0.95
    n: int = Field(description="items that the value is of, abstentions left out")
    why: str | None = None


class Result(Strict):
    """What an evaluation found."""

    evaluation: str
    data: str
    data_hash: str | None = Field(description="SHA-256 of the data file")
    rows: int = Field(description="rows read")
    judge: str | None = Field(None, description="who judged; None where the data are recorded annotations")
    weight_version: str | None = None
    estimates: dict[str, Estimate]
    abstentions: dict[str, int] = Field(default_factory=dict, description="items without a readable verdict, by reason")
    tables: dict[str, list[dict[str, Any]]] = Field(default_factory=dict, description="breakdowns, one row a subset")
    notes: list[str] = Field(default_factory=list, description="what a reader must know to use the numbers")
    settings: dict[str, Any] = Field(default_factory=dict)


class Evaluation(ABC):
    """A question about a judge, a model or recorded annotations, answered from one data file."""

    about: ClassVar[str]
    settings: ClassVar[type[Strict]]
    judge: ClassVar[Literal["none", "optional", "needed"]]  # whether somebody has to be asked

    @abstractmethod
    async def run(self, data: str, judge: "Judging | None", settings: Any) -> Result:
        """Read the rows of `data`, ask `judge` where there is one, and count. Raises InputError for rows of no use."""


def read_settings(evaluation: type[Evaluation], words: list[str]) -> Any:
    """The settings from `key=value` words; raises ConfigError that names the nearest valid key."""
    data: dict[str, Any] = {}
    for word in words:
        data = merge(data, parse_assignment(word))
    try:
        return evaluation.settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, known_keys(evaluation.settings))) from None
