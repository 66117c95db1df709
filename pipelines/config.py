"""Typed run configuration. Torch-free, so that a dry run answers at once.

A run is resolved from five layers, later ones winning: the recipe's paper defaults, the profile (`cpu` or `gpu`), a
preset of the recipe, the YAML file, and `key=value` words from the command line. Unknown keys fail and name the nearest
valid key.
"""

import difflib
import os
import re
import shutil
import subprocess
import typing
from collections.abc import Collection
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError, model_validator

from pipelines.strict import Strict
from pipelines.training.config import TrainingConfig


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key and what to do."""


class Sampling(Strict):
    """How one role is sampled."""

    n: PositiveInt = Field(1, description="completions per request")
    temperature: float = Field(0.8, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = Field(1024, description="longest completion, tokens")


class SimulatedConfig(Strict):
    """How long an engine without a model takes, for rehearsals without a GPU."""

    start_s: float = Field(0.0, ge=0, description="until a new replica answers")
    load_s: float = Field(0.0, ge=0, description="of new weights")
    prefill_tokens_per_s: float = Field(20_000, gt=0, description="of one sequence")
    decode_tokens_per_s: float = Field(100, gt=0, description="of one sequence")
    words: PositiveInt = Field(32, description="longest reply, before its verdict")


class ModelConfig(Strict):
    """One model: a pool of identical replicas that serve one or more roles."""

    engine: Literal["vllm", "transformers", "simulated"] = Field(
        "vllm", description="simulated: no model, a GPU engine's timing, to rehearse a run"
    )
    path: str | None = Field(None, description="checkpoint folder, hub name or alias; the run's `model` when empty")
    replicas: PositiveInt = 1
    num_cpus: float = Field(1.0, ge=0, description="Ray CPUs a replica reserves")
    num_gpus: float = Field(0.0, ge=0, description="GPUs a replica reserves")
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    weights: Literal["float32", "bfloat16"] = Field("float32", description="transformers only: type of weights")
    max_model_len: PositiveInt = Field(4096, description="prompt and completion together, tokens")
    max_num_seqs: PositiveInt = Field(64, description="sequences decoded together")
    kv_cache_gib: float | None = Field(None, gt=0, description="CPU only: memory of the KV cache")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    enforce_eager: bool = False
    threads: PositiveInt | None = Field(None, description="CPU only: threads of one replica; all cores when empty")
    start_timeout_s: float = Field(600, gt=0)
    simulated: SimulatedConfig = SimulatedConfig()


class ServeConfig(Strict):
    """The live judge over HTTP."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535, description="first free port from 8000 when empty")


class SyncConfig(Strict):
    """Weight updates of live engines."""

    transport: Literal["checkpoint", "object_store", "adapter"] = Field(
        "checkpoint", description="how weights travel; adapter: what training.lora trained, merged by each replica"
    )
    deadline_s: float = Field(600, gt=0, description="all phases together")
    drain_s: float = Field(5.0, ge=0, description="replies still running after this start again on the new weights")


class StreamConfig(Strict):
    """The stream of groups through the role stages."""

    groups_in_flight: PositiveInt = Field(16, description="groups a stage works on at once")
    groups_per_part: PositiveInt = Field(4, description="groups committed together")
    request_timeout_s: float = Field(1800, gt=0)
    unavailable_timeout_s: float = Field(300, gt=0, description="how long a stage waits for a model that is down")


ROLES = ("policy", "judge", "meta_judge", "reference", "generator")


class RunConfig(Strict):
    """One run, resolved."""

    recipe: str
    preset: str = Field("paper", description="the recipe's settings to begin with; paper, or one of its own as small")
    model: str = Field("smollm2-135m-instruct", description="checkpoint folder, hub name, or the bundled alias")
    prompts: str = Field(..., description="JSONL, Parquet, or a Hugging Face data set folder or name")
    prompts_limit: PositiveInt | None = Field(None, description="prompts used per iteration")
    on_bad_rows: Literal["fail", "quarantine"] = "fail"
    iterations: PositiveInt = 1
    seed: int = Field(0, ge=0)
    name: str | None = Field(None, description="run name; date and a letter when empty", max_length=100,
                             pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
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

    @model_validator(mode="after")
    def _roles_fit(self) -> "RunConfig":
        """What could only fail after hours of sampling fails here."""
        policy, judge, reference = (self.roles.get(role, "") for role in ("policy", "judge", "reference"))
        if policy in self.models and self.models[policy].path is not None:
            raise ValueError(f"models.{policy}.path: the policy learns; give its checkpoint as model=...")
        scorer = self.models.get(reference)
        ours, training = scorer and (scorer.engine, scorer.dtype, scorer.weights), self.training
        if ours and ours != ("transformers", training.autocast, training.weights):
            raise ValueError(
                f"models.{reference}: the reference must compute as the trainer does: engine=transformers, "
                f"dtype={training.autocast} and weights={training.weights}, as training.autocast and training.weights"
            )
        judges = [self.models[m] for m in (judge, self.roles.get("meta_judge", "")) if m in self.models]
        if self.sync.transport == "adapter" and training.lora is None:
            raise ValueError("sync.transport=adapter: needs training.lora, without it all weights are trained")
        if getattr(self.method, "structured", False) and any(model.engine == "transformers" for model in judges):
            raise ValueError("method.structured: needs judges on engine=vllm, transformers has no structured outputs")
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
            # Fractions share one device; on more, give each a whole one: models.actor.num_gpus=1 training.num_gpus=1
            "actor": {"num_gpus": 0.4, "gpu_memory_utilization": 0.4, "max_model_len": 8192, "max_num_seqs": 256},
            "reference": {"engine": "transformers", "num_gpus": 0.2, "max_num_seqs": 1},
        },
        "training": {"num_gpus": 0.4},
    },
}
DEFAULT_ROLES = {
    "policy": "actor", "judge": "actor", "meta_judge": "actor", "reference": "reference", "generator": "actor"
}


NVIDIA_DEVICE = Path("/dev/nvidiactl")


def detect_profile() -> str:
    """APPELLATE_PROFILE when set, else `gpu` where an NVIDIA GPU answers; the rule of requirements/install.py."""
    named = os.environ.get("APPELLATE_PROFILE")
    if not named:
        return "gpu" if gpu_present() else "cpu"
    if named not in PROFILES:
        raise ConfigError(f"APPELLATE_PROFILE={named}: valid are {', '.join(PROFILES)}")
    return named


def gpu_present() -> bool:
    """Whether this machine has an NVIDIA GPU; nvidia-smi is asked only where the device file is missing."""
    if NVIDIA_DEVICE.exists():
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def known_profile(profile: str | None) -> str:
    """`profile`, or the one of this machine when not given; raises ConfigError for an unknown one."""
    profile = profile or detect_profile()
    if profile not in PROFILES:
        raise ConfigError(f"profile: {profile!r} is unknown, valid are {', '.join(PROFILES)}")
    return profile


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def absolute_paths(config: RunConfig) -> RunConfig:
    """The configuration with local paths made absolute, so that it means the same from every directory.

    Names that are no file or folder here (hub names, aliases, URIs) stay as they are.
    """
    from actors.checkpoints import ALIASES

    def local(name: str, taken: Collection[str] = ()) -> str:
        try:
            found = "://" not in name and name not in taken and Path(name).expanduser().exists()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, or an unknown ~user: whoever opens it says so
            return name
        return _absolute(name) if found else name

    models = {
        key: model.model_copy(update={"path": local(model.path, ALIASES) if model.path else model.path})
        for key, model in config.models.items()
    }
    return config.model_copy(update={
        "prompts": local(config.prompts), "model": local(config.model, ALIASES), "models": models,
        "method": config.method.model_copy(update={name: local(source) for name, source in data_files(config).items()}),
        "runs_dir": config.runs_dir if "://" in config.runs_dir else _absolute(config.runs_dir),
    })


def data_files(config: RunConfig) -> dict[str, str]:
    """The method's settings that name data files (recipes.method.DataFile) and are set."""
    from pipelines.recipes.method import DATA_FILE

    fields = type(config.method).model_fields.items()
    named = {name: getattr(config.method, name) for name, field in fields if DATA_FILE in field.metadata}
    return {name: source for name, source in named.items() if source}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two nested dictionaries; `over` wins."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 5e-6 is a number, and 2026-01-01, `no` and 007 are text (pydantic reads `no` as false)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; raises ConfigError that names `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as nested dictionaries."""
    parts = key.strip().split(".")
    if not all(parts):
        raise ConfigError(f"{key!r} is not a key; write names with single dots between them, as in training.beta")
    for part in reversed(parts):
        value = {part: value}
    return value


def parse_assignment(word: str) -> dict[str, Any]:
    """`a.b=value` as a nested dictionary; the value is read as YAML (numbers, lists), and no value is null."""
    key, sep, text = word.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"{word!r} is not key=value")
    return nest(key, read_yaml(text, f"{key} (quote the value if it is text)"))


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a settings class."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        union = typing.get_origin(field.annotation) in (typing.Union, UnionType)
        for annotation in typing.get_args(field.annotation) if union else [field.annotation]:
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
            loaded = read_yaml(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
        if not isinstance(loaded, dict) or not isinstance(loaded.get("recipe"), str):
            raise ConfigError(f"{path}: needs a `recipe:` line and settings below it")
        name = loaded.pop("recipe")
        layers += [nest(str(key), value) for key, value in loaded.items()]
    layers += [parse_assignment(word) for word in assignments]
    for layer in layers:
        if "recipe" in layer:
            raise ConfigError(f"recipe: is the first word of the command, or a line of its file, not {layer}")
    return from_layers(name, layers, profile)


def from_layers(recipe_name: str, layers: list[dict[str, Any]], profile: str | None = None) -> RunConfig:
    """Merge recipe defaults, profile and layers, validate, and return the frozen configuration."""
    from pipelines.recipes import get_recipe

    recipe = get_recipe(recipe_name)
    profiles = [str(layer.pop("profile")) for layer in layers if "profile" in layer]
    profile = known_profile(profile or (profiles[-1] if profiles else None))
    named = [str(layer.pop("preset")) for layer in layers if "preset" in layer]
    preset, presets = named[-1] if named else "paper", {"paper": {}, **recipe.presets}
    if preset not in presets:
        near = nearest_key(preset, list(presets))
        hint = f"did you mean {near}?" if near else f"valid are {', '.join(presets)}"
        raise ConfigError(f"preset: {recipe.name} has none called {preset!r}, {hint}")
    merged: dict[str, Any] = {
        "recipe": recipe.name,
        "preset": preset,
        "iterations": recipe.iterations,
        "method": {},
        "roles": DEFAULT_ROLES,
        "training": recipe.training,
    }
    for layer in [PROFILES[profile], presets[preset], *layers]:
        merged = merge(merged, layer)
    models = merged["models"] if isinstance(merged["models"], dict) else {}
    valid = known_keys(RunConfig) + known_keys(recipe.settings, "method.") + [f"roles.{role}" for role in ROLES]
    for model in models:
        valid += known_keys(ModelConfig, f"models.{model}.")
    config = _validated(recipe.settings, merged, valid)
    for iteration in range(config.iterations):
        training_at(config, iteration)
    used = {*config.roles.values(), *PROFILES[profile]["models"]}
    for model in config.models.keys() - used:
        near = nearest_key(model, sorted(used))
        hint = f", did you mean models.{near}?" if near else f"; set e.g. roles.judge={model}"
        raise ConfigError(f"models.{model}: no role is played by this model{hint}")
    return config


def training_at(config: RunConfig, iteration: int) -> TrainingConfig:
    """The trainer's settings in one iteration: the run's, and over them the recipe's own; raises ConfigError."""
    from pipelines.recipes import get_recipe

    changes = get_recipe(config.recipe).training_at(config.method, iteration)
    if not changes:
        return config.training
    try:
        return TrainingConfig.model_validate(merge(config.training.model_dump(), changes))
    except ValidationError as error:
        valid = known_keys(TrainingConfig, "training.")
        raise ConfigError(f"iteration {iteration}: {explain(error, valid, 'training')}") from None


def _validated(settings: type[BaseModel], data: dict[str, Any], valid: list[str]) -> RunConfig:
    """The configuration of nested plain data; the ConfigError lists the problems of every section."""
    problems: list[str] = []
    try:
        data = {**data, "method": settings.model_validate(data.get("method"))}
    except ValidationError as error:
        problems.append(explain(error, valid, "method"))
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        problems.append(explain(error, valid))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def explain(error: ValidationError, valid: list[str], prefix: str = "") -> str:
    """One line per problem, each with its key; unknown keys name the nearest valid one."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in ([prefix] if prefix else []) + list(item["loc"]))
        if item["type"] == "extra_forbidden":
            for unknown in _leaves(key, item["input"]):
                near = nearest_key(unknown, valid)
                lines.append(f"{unknown}: unknown key" + (f", did you mean {near}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"{key}: needed, e.g. {key}=...")
        else:
            message = " ".join(item["msg"].removeprefix("Value error, ").split())
            got = "" if isinstance(item["input"], (dict, BaseModel)) else f" (got {item['input']!r:.100})"
            lines.append(f"{key + ': ' if key else ''}{message}{got}")
    return "\n".join(lines)


def _leaves(key: str, value: Any) -> list[str]:
    """The dotted keys below an unknown key, as its own name may be the only wrong part of them."""
    if isinstance(value, dict) and value:
        return [leaf for name, item in value.items() for leaf in _leaves(f"{key}.{name}", item)]
    return [key]


def dump(config: RunConfig) -> dict[str, Any]:
    """Plain dictionary of the resolved configuration; `load_dump` reads it back."""
    data = config.model_dump(mode="json")
    data["method"] = config.method.model_dump(mode="json")
    return data


def load_dump(data: dict[str, Any]) -> RunConfig:
    """The configuration that `dump` wrote; raises ConfigError when it is of another version."""
    from pipelines.recipes import get_recipe

    recipe = get_recipe(data["recipe"])
    return _validated(recipe.settings, data, known_keys(RunConfig) + known_keys(recipe.settings, "method."))
