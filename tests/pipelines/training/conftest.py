"""What the tests of whole trainings share."""

from collections.abc import Callable

import pytest

from pipelines.records import Pair
from pipelines.training import metrics
from pipelines.training.fit import Job
from tests.pipelines.training import jobs
from tests.pipelines.training.tiny import scored, tiny_lm, tiny_pairs, write_checkpoint


@pytest.fixture(scope="session")
def start_model(tmp_path_factory) -> str:
    """Folder of a tiny Llama in float32."""
    return write_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="session")
def scored_pairs() -> list[Pair]:
    """Ten pairs of three prompts, with the tiny Llama's own log-probabilities as their reference, version v0."""
    return scored(tiny_pairs(10), tiny_lm())


@pytest.fixture
def make_job(tmp_path, start_model, monkeypatch) -> Callable[..., Job]:
    """`make_job(pairs, setting=...)`: a training from the tiny Llama in a run folder of its own."""
    monkeypatch.setattr(metrics, "peak_flops", lambda device: 1e12)
    return lambda pairs, model=start_model, **changes: jobs.make_job(tmp_path, model, pairs, **changes)
