"""The resource plan of a run: which roles, replicas, CPUs and GPUs it will ask the cluster for."""

from typing import Any

from pipelines.config import RunConfig
from pipelines.recipes import get_recipe
from pipelines.training.config import TrainingConfig

STAGE_CPUS = 0.05  # a role stage waits on models; the same for the commit stage and the HTTP replica


def resource_plan(config: RunConfig) -> dict[str, Any]:
    """What the run needs while it samples and while it trains; CPUs and GPUs are Ray's logical ones."""
    recipe = get_recipe(config.recipe)
    models: dict[str, Any] = {}
    for name, model in config.models.items():
        models[name] = {
            "roles": [role for role, played_by in config.roles.items() if played_by == name],
            "engine": model.engine,
            "checkpoint": model.path or config.model,
            "replicas": model.replicas,
            "cpus": model.replicas * model.num_cpus,
            "gpus": model.replicas * model.num_gpus,
        }
    training = training_plan(config.training)
    steps = max((recipe.steps(config.method, iteration) for iteration in range(config.iterations)), key=len)
    stages = STAGE_CPUS * (len(steps) + 1) + (STAGE_CPUS if config.serve.enabled else 0)
    return {
        "models": models,
        "training": training,
        "steps": [type(step).__name__ for step in steps],
        "total": {
            # Stages and train workers take turns, the models stay.
            "cpus": sum(m["cpus"] for m in models.values()) + max(stages, training["cpus"]),
            "gpus": sum(m["gpus"] for m in models.values()) + training["gpus"],
        },
    }


def training_plan(training: TrainingConfig) -> dict[str, Any]:
    """The fewest train workers, and the CPUs and GPUs that they need."""
    workers = training.worker_range[0]
    return {"workers": workers, "cpus": workers * training.num_cpus, "gpus": workers * training.num_gpus}
