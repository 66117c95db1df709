"""Typed run configuration. Torch-free, so that a dry run answers at once.

A run is resolved from four layers, later ones winning: the recipe's paper defaults, the profile (`cpu` or `gpu`), the
YAML file, and `key=value` words from the command line. Unknown keys fail and name the nearest valid key.
"""

import difflib
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key and what to do."""


class Strict(BaseModel):
    """Base of every settings class: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Sampling(Strict):
    """How one role is sampled."""

    n: PositiveInt = Field(1, description="completions per request")
    temperature: float = Field(0.8, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = Field(1024, description="longest completion, tokens")


class ModelConfig(Strict):
    """One model: a pool of identical replicas that serve one or more roles."""

    engine: Literal["vllm", "transformers"] = "vllm"
    path: str | None = Field(None, description="checkpoint folder, hub name or alias; the run's `model` when empty")
    replicas: PositiveInt = 1
    num_cpus: float = Field(1.0, ge=0, description="Ray CPUs a replica reserves")
    num_gpus: float = Field(0.0, ge=0, description="GPUs a replica reserves")
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    max_model_len: PositiveInt = Field(4096, description="prompt and completion together, tokens")
    max_num_seqs: PositiveInt = Field(64, description="sequences decoded together")
    kv_cache_gib: float | None = Field(None, gt=0, description="CPU only: memory of the KV cache")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    enforce_eager: bool = False
    threads: PositiveInt | None = Field(None, description="CPU only: threads of one replica; all cores when empty")
    start_timeout_s: float = Field(600, gt=0)


class TrainingConfig(Strict):
    """The DPO trainer. Loss per pair: weight * (DPO + nll_alpha * NLL / len(chosen))."""

    beta: float = Field(0.1, gt=0)
    nll_alpha: float = Field(0.0, ge=0, description="weight of the chosen side's length-normalised NLL")
    learning_rate: float = Field(1e-6, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    epochs: PositiveInt = 1
    batch_pairs: PositiveInt = Field(32, description="pairs of one optimizer step, over all workers")
    max_steps: PositiveInt | None = None
    logprob_chunk: PositiveInt = Field(512, description="response tokens projected to the vocabulary at a time")
    autocast: Literal["bfloat16", "float32"] = "bfloat16"
    num_workers: PositiveInt = 1
    num_cpus: float = Field(1.0, ge=0, description="Ray CPUs a train worker reserves")
    use_gpu: bool = False
    threads: PositiveInt | None = Field(None, description="CPU only: threads of one train worker")
    max_failures: int = Field(2, ge=0, description="restarts of the training after a worker died")
    timeout_s: float = Field(86_400, gt=0)


class ServeConfig(Strict):
    """The live judge over HTTP."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535, description="first free port from 8000 when empty")


class SyncConfig(Strict):
    """Weight updates of live engines."""

    transport: Literal["checkpoint", "object_store"] = "checkpoint"
    deadline_s: float = Field(600, gt=0, description="all phases together")
    drain_s: float = Field(5.0, ge=0, description="replies still running after this are started again on the new weights")


class StreamConfig(Strict):
    """The stream of groups through the role stages."""

    groups_in_flight: PositiveInt = Field(16, description="groups a stage works on at once")
    groups_per_part: PositiveInt = Field(4, description="groups committed together")
    request_timeout_s: float = Field(1800, gt=0)
    unavailable_timeout_s: float = Field(300, gt=0, description="how long a stage waits for a model that is down")


ROLES = ("policy", "judge", "meta_judge", "reference")


class RunConfig(Strict):
    """One run, resolved."""

    recipe: str
    model: str = Field("smollm2-135m-instruct", description="checkpoint folder, hub name, or the bundled alias")
    prompts: str = Field(..., description="JSONL, Parquet, or a Hugging Face data set folder or name")
    prompts_limit: PositiveInt | None = Field(None, description="prompts used per iteration")
    on_bad_rows: Literal["fail", "quarantine"] = "fail"
    iterations: PositiveInt = 1
    seed: int = Field(0, ge=0)
    name: str | None = Field(None, description="run name; date and a letter when empty", pattern=r"^[A-Za-z0-9._-]+$")
    runs_dir: str = "runs"
    address: str | None = Field(None, description="Ray cluster to join; a local one is started when empty")
    method: Any = Field(description="the recipe's own settings")
    models: dict[str, ModelConfig] = Field(description="the pools by name")
    roles: dict[str, str] = Field(description="which model plays which role")
    training: TrainingConfig
    stream: StreamConfig = StreamConfig()
    sync: SyncConfig = SyncConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _roles_have_models(self) -> "RunConfig":
        for role, model in self.roles.items():
            if role not in ROLES:
                raise ValueError(f"roles.{role}: unknown role, valid roles are {', '.join(ROLES)}")
            if model not in self.models:
                raise ValueError(f"roles.{role}: no model named {model!r}, models are {', '.join(self.models)}")
        return self


# A profile changes values, never code.
PROFILES: dict[str, dict[str, Any]] = {
    "cpu": {
        "models": {
            "actor": {"num_cpus": 0.5, "kv_cache_gib": 2.0, "max_model_len": 4096, "max_num_seqs": 64,
                      "enforce_eager": True},
            "reference": {"engine": "transformers", "num_cpus": 0.25, "max_num_seqs": 1},
        },
        "training": {"num_cpus": 0.5},
    },
    "gpu": {
        "models": {
            "actor": {"num_gpus": 1.0, "max_model_len": 8192, "max_num_seqs": 256},
            "reference": {"engine": "transformers", "num_gpus": 0.5, "max_num_seqs": 1},
        },
        "training": {"use_gpu": True},
    },
}
DEFAULT_ROLES = {"policy": "actor", "judge": "actor", "meta_judge": "actor", "reference": "reference"}


def detect_profile() -> str:
    """`gpu` where an NVIDIA device is visible, else `cpu`."""
    return "gpu" if os.path.exists("/dev/nvidiactl") else "cpu"


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two nested dictionaries; `over` wins."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def parse_assignment(word: str) -> dict[str, Any]:
    """`a.b=value` as a nested dictionary; the value is read as YAML (numbers, lists, null)."""
    key, sep, text = word.partition("=")
    if not sep or not key:
        raise ConfigError(f"{word!r} is not key=value")
    value: Any = yaml.safe_load(text) if text else ""
    if isinstance(value, str):
        value = _number(value)
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _number(text: str) -> Any:
    """YAML 1.1 reads 5e-6 as text; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    return _number(value) if isinstance(value, str) and "e-" in value.lower() else value


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a settings class."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += known_keys(annotation, f"{prefix}{name}.")
    return keys


def nearest_key(key: str, valid: list[str]) -> str | None:
    """The valid key most like `key`: the same last part first (`samples.n` -> `method.samples.n`), then spelling."""
    tails = [v for v in valid if v.endswith("." + key)]
    if tails:
        return min(tails, key=len)
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if close:
        return close[0]
    last = key.rsplit(".", 1)[-1]
    by_last = {v.rsplit(".", 1)[-1]: v for v in reversed(valid)}
    close = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.5)
    return by_last[close[0]] if close else None


def resolve(
    recipe_or_file: str, assignments: list[str] | tuple[str, ...] = (), profile: str | None = None
) -> RunConfig:
    """The run configuration for `appellate run RECIPE|FILE.yaml [key=value ...]`; raises ConfigError."""
    layers: list[dict[str, Any]] = []
    name = recipe_or_file
    if recipe_or_file.endswith((".yaml", ".yml")):
        path = Path(recipe_or_file)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(loaded, dict) or not isinstance(loaded.get("recipe"), str):
            raise ConfigError(f"{path}: needs a `recipe:` line and settings below it")
        name = loaded.pop("recipe")
        profile = profile or loaded.pop("profile", None)
        loaded.pop("profile", None)
        layers.append(_numbers(loaded))
    layers += [parse_assignment(word) for word in assignments]
    return from_layers(name, layers, profile)


def from_layers(recipe_name: str, layers: list[dict[str, Any]], profile: str | None = None) -> RunConfig:
    """Merge recipe defaults, profile and layers, validate, and return the frozen configuration."""
    from pipelines.recipes import get_recipe

    recipe = get_recipe(recipe_name)
    profile = profile or detect_profile()
    if profile not in PROFILES:
        raise ConfigError(f"profile: {profile!r} is unknown, valid are {', '.join(PROFILES)}")
    merged: dict[str, Any] = {
        "recipe": recipe.name,
        "iterations": recipe.iterations,
        "method": {},
        "roles": DEFAULT_ROLES,
        "training": recipe.training,
    }
    for layer in [PROFILES[profile], *layers]:
        merged = merge(merged, layer)
    valid = known_keys(RunConfig) + known_keys(recipe.settings, "method.")
    for model in merged["models"]:
        valid += known_keys(ModelConfig, f"models.{model}.")
    try:
        merged["method"] = recipe.settings.model_validate(merged["method"])
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, valid, "method." if error.title == recipe.settings.__name__ else "")) from None


def explain(error: ValidationError, valid: list[str], prefix: str = "") -> str:
    """One line per problem, each with its key; unknown keys name the nearest valid one."""
    lines = []
    for item in error.errors():
        key = prefix + ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = nearest_key(key, valid)
            lines.append(f"{key}: unknown key" + (f", did you mean {near}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"{key}: needed, e.g. {key}=...")
        else:
            lines.append(f"{key + ': ' if key else ''}{item['msg']} (got {item['input']!r})"[:300])
    return "\n".join(lines)


def dump(config: RunConfig) -> dict[str, Any]:
    """Plain dictionary of the resolved configuration; `load_dump` reads it back."""
    data = config.model_dump(mode="json")
    data["method"] = config.method.model_dump(mode="json")
    return data


def load_dump(data: dict[str, Any]) -> RunConfig:
    """The configuration that `dump` wrote."""
    from pipelines.recipes import get_recipe

    recipe = get_recipe(data["recipe"])
    return RunConfig.model_validate({**data, "method": recipe.settings.model_validate(data["method"])})
