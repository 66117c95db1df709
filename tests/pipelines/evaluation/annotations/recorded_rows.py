"""Files of recorded judgements for tests, and the numbers of results."""

import asyncio
import json
from pathlib import Path
from typing import Any

from pipelines.evaluation.base import Evaluation, Result


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> str:
    """rows.jsonl in the folder."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def evaluate(evaluation: type[Evaluation], data: str, **settings: Any) -> Result:
    """What the evaluation finds with these settings."""
    return asyncio.run(evaluation().run(data, None, evaluation.settings.model_validate(settings)))


def number(result: Result, name: str) -> float:
    """An estimate's value, which must be defined."""
    value = result.estimates[name].value
    assert value is not None, result.estimates[name]
    return value


def ends(result: Result, name: str) -> tuple[float, float]:
    """An estimate's interval, which must be defined."""
    interval = result.estimates[name].interval
    assert interval is not None, result.estimates[name]
    return interval
