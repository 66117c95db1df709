"""The run's registry: which weights are current for each model, and the lease that ties replicas to their driver.

It is a plain Ray actor owned by the driver. When the driver ends, however it ends, Ray ends the registry; replicas
watch it and take themselves down, so that no engine outlives its run.
"""

from typing import Any

import ray

from actors.weights import WeightSource

NAMESPACE = "appellate"


def application_name(run: str, model: str) -> str:
    """Name of the Serve application of one model of one run; runs never share names."""
    return f"appellate-{run}-{model}"


class Registry:
    """Current weights by model."""

    def __init__(self) -> None:
        self._current: dict[str, WeightSource] = {}

    async def current(self, model: str) -> WeightSource:
        """What a new or restarted replica of `model` must load; raises KeyError for an unknown model."""
        return self._current[model]

    async def set_current(self, model: str, source: WeightSource) -> None:
        """The commit point of a weight update."""
        self._current[model] = source


def start_registry(run: str) -> Any:
    """Create the registry of `run`, owned by this process."""
    actor: Any = ray.remote(Registry)
    options = {"name": f"appellate-{run}", "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": 64}
    return actor.options(**options).remote()


def find_registry(run: str) -> Any:
    """The registry of a live run; raises ValueError when the run's driver is gone."""
    return ray.get_actor(f"appellate-{run}", namespace=NAMESPACE)
