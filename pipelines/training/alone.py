"""`appellate train`: the trainer alone, on preference data from anywhere. Torch-free until it trains."""

import math
import os
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from pipelines.config import PROFILES, ConfigError, explain, known_keys, known_profile, merge, parse_assignment
from pipelines.ledger import Ledger
from pipelines.manifest import made_with, source_hash
from pipelines.plan import training_plan
from pipelines.progress import RunProgress, tell_bad_rows
from pipelines.storage import absolute
from pipelines.strict import Strict
from pipelines.training.config import TrainingConfig

VERSION = "v0"  # of the start weights, as in a run; pairs that a run made with them keep their reference


class TrainConfig(Strict):
    """One training on given pairs, resolved."""

    pairs: str = Field(description="JSONL, Parquet, or a Hugging Face data set folder or name")
    model: str = Field(description="checkpoint folder, hub name, or the bundled alias")
    on_bad_rows: Literal["fail", "quarantine"] = "fail"
    seed: int = Field(0, ge=0)
    name: str | None = Field(None, description="run name; date and a letter when empty")
    runs_dir: str = "runs"
    address: str | None = Field(None, description="Ray cluster to join; a local one is started when empty")
    training: TrainingConfig

    @field_validator("runs_dir")
    @classmethod
    def _mounted(cls, folder: str) -> str:
        if "://" in folder:
            raise ValueError("training needs a folder that is mounted on every node")
        return folder


def resolve_train(pairs: str, model: str, assignments: list[str], profile: str | None = None) -> TrainConfig:
    """The configuration of `appellate train`; settings of the trainer may lack their `training.`.

    The profile's fractions of CPUs and GPUs, which let models share them with the trainer, become whole ones. Raises
    ConfigError.
    """
    layers = [_placed(parse_assignment(word)) for word in assignments]
    named = [layer.pop("profile") for layer in layers if "profile" in layer]
    values = PROFILES[known_profile(profile or (str(named[-1]) if named else None))]["training"]
    whole = {key: math.ceil(values[key]) for key in ("num_cpus", "num_gpus") if key in values}
    settings: dict[str, Any] = {"pairs": pairs, "model": model, "training": values | whole}
    for layer in layers:
        settings = merge(settings, layer)
    return load_train(settings)


def _placed(layer: dict[str, Any]) -> dict[str, Any]:
    return {"training": layer} if layer.keys() <= TrainingConfig.model_fields.keys() else layer


def is_training(data: dict[str, Any]) -> bool:
    """Whether a stored configuration is that of a training alone, not of a recipe's run."""
    return "pairs" in data and "recipe" not in data


def load_train(data: dict[str, Any]) -> TrainConfig:
    """The configuration of plain data, as `new_training` stores it; raises ConfigError."""
    try:
        return TrainConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, known_keys(TrainConfig) + known_keys(TrainingConfig))) from None


def new_training(config: TrainConfig) -> tuple[TrainConfig, Ledger]:
    """The run folder of a training, and the configuration in it, whose local paths are absolute; raises LedgerError."""
    from actors.checkpoints import ALIASES

    def local(name: str) -> str:
        here = "://" not in name and name not in ALIASES and os.path.exists(os.path.expanduser(name))
        return absolute(name) if here else name

    paths = {"pairs": local(config.pairs), "model": local(config.model), "runs_dir": absolute(config.runs_dir)}
    config = config.model_copy(update=paths)
    settings = config.model_dump(mode="json")
    manifest = {**made_with(config.seed, settings), "pairs_hash": source_hash(config.pairs)}
    return config, Ledger.create(config.runs_dir, config.name, settings, manifest)


def execute_train(config: TrainConfig, ledger: Ledger, progress: RunProgress) -> dict[str, Any]:
    """Train, or go on with training; returns the summary that finished.json holds.

    The pairs become those of iteration 0, and its checkpoint is the result. What is wrong with the data or the model is
    found before a cluster starts. Raises InputError, CheckpointError, ChatFormatError, SessionError and TrainingError.
    """
    from actors.checkpoints import as_trained, resolve_model
    from cluster.session import check_capacity, open_cluster
    from pipelines.training.trainer import train, watch

    done = ledger.finished()
    if done is not None:
        return done
    with ledger.lock():
        folder = as_trained(resolve_model(config.model))
        ledger.complete(0, "pairs", lambda: _commit_pairs(config, ledger, folder, progress))
        progress.say(f"run folder {ledger.path}")

        def work() -> dict[str, Any]:
            plan = training_plan(config.training)
            progress.stage("starting train workers", plan["workers"])
            with open_cluster(ledger.run_id, config.address), watch(ledger, 0, progress):
                check_capacity(plan["cpus"], plan["gpus"])
                found = train(config.training, config.seed, ledger, 0, VERSION, folder)
            compared = () if config.training.needs_pairs else ("last_accuracy", "last_margin")
            return {key: value for key, value in found.items() if key not in compared}

        ledger.complete(0, "train", work)
        pairs = ledger.done(0, "pairs") or {}
        summary = {
            "run": ledger.path,
            "model": config.model,
            "pairs": pairs["pairs"],
            "bad_rows": pairs["bad_rows"],
            "training": ledger.done(0, "train"),
            "checkpoint": ledger.checkpoint_dir(0),
        }
        ledger.mark_finished(summary)
    return summary


def _commit_pairs(config: TrainConfig, ledger: Ledger, folder: str, progress: RunProgress) -> dict[str, Any]:
    from transformers import AutoConfig

    from actors.chat import ChatFormat
    from pipelines.training.data import read_pairs

    chat = ChatFormat.load(folder)
    model: Any = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    context = getattr(model, "max_position_embeddings", None)
    progress.say(f"reading {config.pairs}")
    found = read_pairs(config.pairs, chat, config.training.needs_pairs, context, config.on_bad_rows)
    tell_bad_rows(found.bad_rows, ledger, progress)
    ledger.commit_pairs(0, found.pairs, "all")
    return {"pairs": len(found.pairs), "bad_rows": len(found.bad_rows)}
