"""Settings that several methods share in form: values per iteration, and parts that keep the paper's other values."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from pipelines.config import Strict

T = TypeVar("T")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


DATA_FILE = "data file"
# A file of rows, a data set folder or a data set's name, beside the run's prompts.
DataFile = Annotated[str | None, DATA_FILE]

# One value per iteration, the last one repeating; a single value stands for all iterations.
PerIteration = Annotated[list[T], BeforeValidator(_as_list), Field(min_length=1)]


def at(values: Sequence[T], iteration: int) -> T:
    """The value of iteration 0, 1, ..."""
    return values[min(iteration, len(values) - 1)]


class Method(Strict):
    """Base of a recipe's settings: naming one value of a part (`samples.n`) leaves its other paper values in place."""

    @model_validator(mode="before")
    @classmethod
    def _keep_paper_values(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        out = dict(data)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel) and isinstance(out.get(name), dict):
                out[name] = {**field.default.model_dump(), **out[name]}
        return out
