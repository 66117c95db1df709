"""How a run is resolved from its layers, and what people are told when a key or value is wrong."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from pipelines import config, recipes
from pipelines.config import ConfigError, Sampling, nearest_key, parse_assignment, resolve, training_at
from pipelines.recipes.base import Recipe
from pipelines.recipes.method import DataFile, Method

ROOT = Path(__file__).parents[2]
TRAINING = {"beta": 0.2, "learning_rate": 5e-6, "num_cpus": 2.0}
PRESETS = {"small": {"iterations": 2, "training": {"epochs": 4, "num_cpus": 0.25}, "method": {"samples": {"n": 2}}}}


class Settings(Method):
    samples: Sampling = Sampling(n=8, temperature=0.8)
    judge: Sampling | None = None
    threshold: float = Field(0.5, ge=0, le=1)
    seed_rows: DataFile = None
    first: dict[str, Any] = Field(default_factory=dict)


class Paper(Recipe):
    name = "paper"
    paper = "0000.00000"
    iterations = 3
    settings = Settings
    training = TRAINING
    presets = PRESETS

    def training_at(self, settings: Settings, iteration: int) -> dict[str, Any]:
        return settings.first if iteration == 0 else {}


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.setattr(recipes, "get_recipe", lambda name: Paper())


def problem(*words: str, file: str = "paper") -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(file, ["prompts=p.jsonl", *words], "cpu")
    return str(caught.value)


def test_an_unknown_profile():
    with pytest.raises(ConfigError, match=r"^profile: 'tpu' is unknown, valid are cpu, gpu$"):
        resolve("paper", ["prompts=p", "profile=tpu"])


def test_later_layers_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "recipe: paper\nprofile: gpu\nprompts: p.jsonl\ntraining:\n  epochs: 2\n  beta: 0.3\nmethod.samples.n: 4\n"
    )
    run = resolve(str(file), ["training.beta=0.4", "models.actor.replicas=2"])

    assert (run.recipe, run.iterations, run.prompts) == ("paper", 3, "p.jsonl")
    assert (run.training.learning_rate, run.training.epochs, run.training.beta) == (5e-6, 2, 0.4)  # recipe, file, word
    assert (run.training.num_gpus, run.training.num_cpus) == (0.4, 2.0)
    assert (run.models["actor"].replicas, run.models["actor"].num_gpus) == (2, 0.4)
    assert (run.method.samples.n, run.method.samples.temperature) == (4, 0.8)
    assert resolve(str(file), profile="cpu").training.num_gpus == 0
    assert resolve(str(file), ["profile=cpu"]).training.num_gpus == 0
    assert resolve("paper", ["prompts=p"], "cpu").training.num_cpus == 0.5  # the profile is above the recipe


def test_a_preset_stands_below_what_is_said_and_above_the_paper(tmp_path):
    paper, small = (resolve("paper", ["prompts=p", *words], "cpu") for words in ([], ["preset=small"]))
    assert (paper.preset, paper.iterations, paper.method.samples.n, paper.training.epochs) == ("paper", 3, 8, 1)
    assert (small.preset, small.iterations, small.method.samples.n, small.training.epochs) == ("small", 2, 2, 4)
    assert small.method.samples.temperature == 0.8  # the paper's other values stay
    assert small.training.num_cpus == 0.25  # a preset is above the profile
    file = tmp_path / "run.yaml"
    file.write_text("recipe: paper\npreset: small\nprompts: p\niterations: 5\n")
    run = resolve(str(file), ["training.epochs=9"], "cpu")
    assert (run.preset, run.iterations, run.training.epochs, run.method.samples.n) == ("small", 5, 9, 2)
    assert resolve(str(file), ["preset=paper"], "cpu").method.samples.n == 8
    assert config.dump(run)["preset"] == "small"
    assert config.load_dump(config.dump(run)) == run


def test_a_configuration_from_before_presets_and_generators_is_read():
    data = config.dump(resolve("paper", ["prompts=p"], "cpu"))
    del data["preset"], data["roles"]["generator"], data["training"]["start_from"]
    assert config.load_dump(data).training.start_from == "previous"


def test_an_iteration_may_train_otherwise():
    run = resolve("paper", ["prompts=p", "method.first={loss: sft, epochs: 2}", "training.epochs=7"], "cpu")
    first, second = training_at(run, 0), training_at(run, 1)
    assert (first.loss, first.epochs, first.beta) == ("sft", 2, 0.2)
    assert second == run.training and second.epochs == 7


def test_layers_do_not_leak_into_the_next_run():
    resolve("paper", ["prompts=p", "models.actor.replicas=9", "roles.judge=reference", "training.beta=9"], "cpu")
    run = resolve("paper", ["prompts=p"], "cpu")
    assert (run.models["actor"].replicas, run.roles["judge"], run.training.beta) == (1, "actor", 0.2)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("samples.n=4", "samples.n: unknown key, did you mean method.samples.n?"),
        ("method.sample.n=4", "method.sample.n: unknown key, did you mean method.samples.n?"),
        ("method.judge.tmperature=1", "method.judge.tmperature: unknown key, did you mean method.judge.temperature?"),
        ("models.actor.replica=2", "models.actor.replica: unknown key, did you mean models.actor.replicas?"),
        ("trainning.beta=1", "trainning.beta: unknown key, did you mean training.beta?"),
        ("beta=1", "beta: unknown key, did you mean training.beta?"),
        ("role.judge=actor", "role.judge: unknown key, did you mean roles.judge?"),
        ("zzz=1", "zzz: unknown key"),
        ("models.actr.replicas=2", "models.actr: no role is played by this model, did you mean models.actor?"),
        ("roles.judge=teacher", "roles.judge: no model named 'teacher', models are actor, reference"),
        ("roles.juge=actor", "roles.juge: unknown role, valid roles are policy, judge, meta_judge, reference, "
                             "generator"),
        ("preset=smal", "preset: paper has none called 'smal', did you mean small?"),
        ("preset=7", "preset: paper has none called '7', valid are paper, small"),
        ("method.first={beta: 0}", "iteration 0: training.beta: Input should be greater than 0 (got 0)"),
        ("method.first={bta: 1}", "iteration 0: training.bta: unknown key, did you mean training.beta?"),
        ("method.first={start_from: seed}", "iteration 0: training: start_from=seed: loss='dpo' compares with the "
                                            "iteration's model; start there"),
        ("training.beta=0", "training.beta: Input should be greater than 0 (got 0)"),
        ("training.beta=.inf", "training.beta: Input should be a finite number (got inf)"),
        ("training.epochs=two", "training.epochs: Input should be a valid integer, unable to parse string as an "
                                "integer (got 'two')"),
        ("training=5", "training: Input should be a valid dictionary or instance of TrainingConfig (got 5)"),
        ("models=5", "models: Input should be a valid dictionary (got 5)"),
        ("method=5", "method: Input should be a valid dictionary or instance of Settings (got 5)"),
        ("method.threshold=2", "method.threshold: Input should be less than or equal to 1 (got 2)"),
        ("prompts=", "prompts: Input should be a valid string (got None)"),
        ("name=..", "name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$' (got '..')"),
        ("recipe=irpo", "recipe: is the first word of the command, or a line of its file, not {'recipe': 'irpo'}"),
        ("training.beta", "'training.beta' is not key=value"),
        ("=1", "'=1' is not key=value"),
        ("training..beta=1", "'training..beta' is not a key; write names with single dots between them, as in "
                             "training.beta"),
    ],
)
def test_what_people_are_told(word, expected):
    assert problem(word) == expected


def test_every_problem_is_one_line_and_all_are_listed():
    lines = problem("method.threshold=2", "training.beta=0", "nmae=x").splitlines()
    assert [line.split(":")[0] for line in lines] == ["method.threshold", "training.beta", "nmae"]
    assert len(problem("prompts=[1").splitlines()) == 1
    assert len(problem("prompts=[a, 'b\n c']").splitlines()) == 1
    with pytest.raises(ConfigError, match=r"^prompts: needed, e\.g\. prompts=\.\.\.$"):
        resolve("paper", [], "cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5e-6", 5e-6), ("1E3", 1000.0), (".5", 0.5), ("-2", -2), ("1.", 1.0), ("true", True), ("no", "no"), ("", None),
     ("null", None), ("[1, 2e-1]", [1, 0.2]), ("2026-01-01", "2026-01-01"), ("007", "007"), ("nan", "nan"),
     ("a=b", "a=b"), ("12:30", "12:30"), ('"5"', "5"), ("1_000", "1_000"), ("e-6", "e-6")],
)
def test_values_are_read_as_people_mean_them(text, expected):
    value = parse_assignment(f"a.b={text}")["a"]["b"]
    assert value == expected
    assert type(value) is type(expected)


def test_values_reach_their_types():
    run = resolve("paper", ["prompts=p", "name=7", "training.learning_rate=5e-6", "prompts_limit=1e3",
                            "serve.enabled=no", "models.actor.path=", "stream.groups_in_flight=1_000"], "cpu")
    assert (run.name, run.training.learning_rate, run.prompts_limit) == ("7", 5e-6, 1000)
    assert (run.serve.enabled, run.models["actor"].path, run.stream.groups_in_flight) == (False, None, 1000)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"recipe: [", "not valid YAML"),
        (b"- recipe", "needs a `recipe:` line"),
        (b"", "needs a `recipe:` line"),
        (b"recipe: paper\nprompts: \xff\n", "not UTF-8"),
        (b"recipe: paper\nprompts: p\ntraining: {bta: 1}", "training.bta: unknown key, did you mean training.beta?"),
        (b"recipe: paper\nprompts: p\n3: 4", "3: unknown key"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, expected):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    message = problem(file=str(file))
    assert expected in message
    assert "\n" not in message
    assert "no such file" in problem(file=str(tmp_path / "other.yaml"))


def test_a_dump_is_read_back_equal():
    run = resolve("paper", ["prompts=p", "method.judge.n=3", "roles.judge=teacher", "models.teacher.path=x"], "gpu")
    again = config.load_dump(yaml.safe_load(yaml.safe_dump(config.dump(run))))
    assert again == run
    assert again.method.judge.n == 3
    with pytest.raises(ConfigError, match=r"method\.old: unknown key"):
        config.load_dump({**config.dump(run), "method": {"old": 1}})


def test_nearest_key_prefers_the_same_last_part():
    valid = ["seed", "method.samples.n", "method.judge.samples.n", "training.beta"]
    assert nearest_key("samples.n", valid) == "method.samples.n"
    assert nearest_key("sed", valid) == "seed"
    assert nearest_key("qqqq", valid) is None


def test_unknown_recipe_names_the_nearest(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="did you mean meta_rewarding"):
        resolve("meta_rewardin", ["prompts=p"])


def test_configuration_and_records_load_no_framework():
    code = (
        "import sys, pipelines.config, pipelines.records, pipelines.recipes, pipelines.ledger\n"
        "import pipelines.steps.make_prompts\n"
        "print([m for m in ('torch', 'vllm', 'ray', 'transformers', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("models.actor.path=/some/model", "models.actor.path: the policy learns"),
        ("models.reference.engine=vllm", "models.reference: the reference must compute as the trainer does"),
        ("training.autocast=float32", "engine=transformers, dtype=float32 and weights=float32, as training.autocast"),
        ("models.reference.dtype=float32", "dtype=bfloat16 and weights=float32, as training.autocast"),
        ("training.weights=bfloat16", "dtype=bfloat16 and weights=bfloat16, as training.autocast and training.weights"),
        ("models.reference.weights=bfloat16", "dtype=bfloat16 and weights=float32, as training.autocast"),
        ("training.loss=dpo + nl", "training.loss: 'nl' is no loss, did you mean nll?"),
    ],
)
def test_what_could_only_fail_after_sampling_fails_at_once(word, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        resolve("meta_rewarding", ["prompts=p.jsonl", word], "cpu")


@pytest.mark.parametrize("device", [True, False])
@pytest.mark.parametrize("answer", ["echo 'GPU 0: H100'", "echo", "echo GPU; exit 9", None])
@pytest.mark.parametrize("named", ["gpu", "cpu", "", None, "tpu"])
def test_a_run_takes_the_profile_that_was_installed(monkeypatch, tmp_path, device, answer, named):
    install = runpy.run_path(str(ROOT / "requirements" / "install.py"), run_name="loaded")
    file = tmp_path / "nvidiactl"
    if device:
        file.touch()
    if answer:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(config, "NVIDIA_DEVICE", file)
    monkeypatch.delenv("APPELLATE_PROFILE", raising=False)
    if named is not None:
        monkeypatch.setenv("APPELLATE_PROFILE", named)
    if named == "tpu":
        with pytest.raises(install["InstallError"], match="APPELLATE_PROFILE=tpu: valid are cpu"):
            install["choose_profile"](dict(os.environ), file)
        with pytest.raises(ConfigError, match="APPELLATE_PROFILE=tpu: valid are cpu"):
            config.detect_profile()
    else:
        assert config.detect_profile() == install["choose_profile"](dict(os.environ), file)


def test_nvidia_smi_is_not_asked_where_the_device_tells(monkeypatch, tmp_path):
    def asked(*args, **options):
        raise AssertionError

    monkeypatch.setattr(config.subprocess, "run", asked)
    monkeypatch.setattr(config, "NVIDIA_DEVICE", tmp_path)
    assert config.gpu_present()
    monkeypatch.setattr(config, "NVIDIA_DEVICE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not config.gpu_present()


def test_local_paths_become_absolute_and_names_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "smollm2-135m-instruct", "teacher"):
        (tmp_path / name).mkdir()
    (tmp_path / "p.jsonl").touch()
    words = ["prompts=p.jsonl", "model=mine", "models.t.path=teacher", "roles.judge=t"]
    run = config.absolute_paths(resolve("paper", words, "cpu"))
    assert (run.prompts, run.model) == (f"{tmp_path}/p.jsonl", f"{tmp_path}/mine")
    assert (run.models["t"].path, run.models["actor"].path) == (f"{tmp_path}/teacher", None)
    assert run.runs_dir == f"{tmp_path}/runs"
    words = ["prompts=org/data", "models.t.path=org/model", "roles.judge=t", "runs_dir=s3://bucket/runs"]
    run = config.absolute_paths(resolve("paper", words, "cpu"))
    assert (run.prompts, run.model, run.runs_dir) == ("org/data", "smollm2-135m-instruct", "s3://bucket/runs")
    assert run.models["t"].path == "org/model"
    assert config.absolute_paths(resolve("paper", ["prompts=" + "x" * 9999], "cpu")).prompts == "x" * 9999


def test_data_files_of_the_method_become_absolute_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed.jsonl").touch()
    for word, expected in (("method.seed_rows=seed.jsonl", f"{tmp_path}/seed.jsonl"), ("seed=1", None),
                           ("method.seed_rows=org/data", "org/data")):  # fmt: skip
        run = config.absolute_paths(resolve("paper", ["prompts=p.jsonl", word], "cpu"))
        assert run.method.seed_rows == expected
        assert config.data_files(run) == ({"seed_rows": expected} if expected else {})
