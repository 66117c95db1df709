import json
import re
import resource
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from cluster import doctor
from cluster.doctor import PINS, Check, diagnose
from pipelines.config import ConfigError, ModelConfig, RunConfig, ServeConfig, TrainingConfig
from pipelines.training import native

ROOT = Path(__file__).parents[2]
REFERENCE = ModelConfig(engine="transformers")


def make_config(**changes):
    settings = {
        "recipe": "meta_rewarding",
        "prompts": "prompts.jsonl",
        "method": {},
        "models": {"actor": ModelConfig(kv_cache_gib=2.0), "reference": ModelConfig(engine="transformers")},
        "roles": {"policy": "actor", "judge": "actor", "reference": "reference"},
        "training": TrainingConfig(),
    }
    return RunConfig.model_validate(settings | changes)


def by_name(checks):
    return {check.name: check for check in checks}


def test_the_pins_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [re.sub(r"\[.*\]", "", line) for line in project["dependencies"] + extras["cpu"] + extras["gpu"]]
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for distributions, pin in PINS.values():
        assert {pinned[name] for name in distributions} == {pin}


def test_diagnose_covers_the_machine_without_heavy_imports():
    code = (
        "import json, sys; from cluster.doctor import diagnose;"
        "heavy = [m for m in ('torch', 'vllm', 'ray', 'transformers') if m in sys.modules];"
        "print(json.dumps([[c.name for c in diagnose(None)], heavy]))"
    )
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    names, heavy = json.loads(reply.stdout)
    assert heavy == []
    assert {"python", "ray", "vllm", "torch", "transformers", "memory", "shared memory", "HTTP port", "dashboard port",
            "engine processes", "runs folder", "GPU", "open files"} <= set(names)


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path):
    config = make_config(model=str(tmp_path / "nowhere"), runs_dir="/proc/none")
    checks = diagnose(config)
    assert all(check.advice for check in checks if check.status != "ok")
    found = by_name(checks)
    assert found[f"model {tmp_path / 'nowhere'}"].status == "fail"
    assert found["runs folder"].status == "fail"


def test_python_and_packages():
    assert doctor.check_python((3, 12)).status == "ok"
    assert doctor.check_python((3, 13)).status == "fail"
    assert doctor.check_package("x", ("no-such-thing", "no-such-cpu"), "1.0") == Check(
        "x", "fail", "not installed", "make env, or pip install no-such-cpu==1.0"
    )
    version = doctor.installed_version("no-such-thing", "psutil")
    assert version == psutil.__version__
    assert doctor.check_package("psutil", ("psutil",), version).status == "ok"
    assert doctor.check_package("psutil", ("psutil",), "0.1").status == "warn"


def test_a_local_build_of_the_pinned_version_is_right(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda *names: "2.13.0+cpu")
    assert doctor.check_package("torch", ("torch",), "2.13.0").status == "ok"


def test_a_cuda_torchvision_beside_a_cpu_torch_is_found():
    assert doctor.check_companions("2.13.0+cpu", "0.28.0")[0].status == "fail"
    for torch, torchvision in [("2.13.0", "0.28.0"), ("2.13.0+cpu", "0.28.0+cpu"), ("2.13.0+cpu", None)]:
        assert doctor.check_companions(torch, torchvision) == []


def test_models_are_those_the_roles_use():
    spare = ModelConfig(path="unused")
    models = {"actor": ModelConfig(), "reference": ModelConfig(engine="transformers", path="base"), "spare": spare}
    assert doctor.model_names(make_config(model="small", models=models)) == ["small", "base"]
    assert doctor.model_names(None) == ["smollm2-135m-instruct"]


def test_a_model_without_chat_template_fails(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    check = doctor.check_model(str(tmp_path))
    assert check.status == "fail"
    assert "chat template" in check.found
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert doctor.check_model(str(tmp_path)).status == "ok"
    assert doctor.check_model("organisation/not-downloaded").status == "warn"


def test_memory_need_grows_with_replicas_cache_and_the_trainer():
    sizes: dict[str, float | None] = {"smollm2-135m-instruct": 0.25}
    # Ray 2, actor 0.25 + 2 + 2 of cache, reference 0.25 + 2, trainer 8 x 0.25 + 2
    one = 2 + 4.25 + 2.25 + 4
    assert doctor.needed_memory_gib(make_config(), sizes) == pytest.approx(one)
    more = make_config(models={"actor": ModelConfig(kv_cache_gib=2.0, replicas=3), "reference": REFERENCE})
    assert doctor.needed_memory_gib(more, sizes) == pytest.approx(one + 2 * 4.25)
    gpu = make_config(models={"actor": ModelConfig(num_gpus=1, kv_cache_gib=2.0), "reference": REFERENCE})
    assert doctor.needed_memory_gib(gpu, sizes) == pytest.approx(one - 2)
    assert doctor.needed_memory_gib(make_config(), {"smollm2-135m-instruct": None}) is None
    assert [doctor.check_memory(have, 10.0).status for have in (11.0, 8.0, 5.0)] == ["ok", "warn", "fail"]


def test_a_container_limit_counts_as_memory(tmp_path):
    machine = doctor.available_memory_gib(tmp_path)
    (tmp_path / "memory.max").write_text(f"{3 * 2**28}\n")
    (tmp_path / "memory.current").write_text(f"{2**28}\n")
    assert doctor.available_memory_gib(tmp_path) == min(0.5, machine)
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.available_memory_gib(tmp_path) > 0.5


def test_small_shared_memory_warns(tmp_path, monkeypatch):
    usage = type("Usage", (), {"total": 64 * 2**20, "free": 60 * 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    check = doctor.check_shared_memory(tmp_path)
    assert check.status == "warn"
    assert "--shm-size" in check.advice
    assert doctor.check_shared_memory(tmp_path / "none").status == "warn"


def test_a_taken_port_warns_and_a_wanted_one_fails():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert doctor.check_http_port("127.0.0.1", port).status == "fail"
        assert doctor.check_dashboard_port(port).status == "warn"
    assert doctor.check_http_port("127.0.0.1", port).status == "ok"
    assert doctor.check_dashboard_port(port).status == "ok"


def test_a_run_without_the_live_judge_needs_no_port():
    names = by_name(diagnose(make_config(serve=ServeConfig(enabled=False))))
    assert "HTTP port" not in names


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "ray::ServeReplica:judge", "/opt/ray/raylet/raylet --x"])
def test_foreign_engines_are_found_by_title(title):
    child = subprocess.Popen(["sleep", "60"], executable="/bin/sleep")
    renamed = subprocess.Popen([title, "60"], executable="/bin/sleep")
    try:
        while psutil.Process(renamed.pid).cmdline()[:1] != [title]:  # until its exec is over
            time.sleep(0.01)
        check = doctor.check_engines([psutil.Process(child.pid), psutil.Process(renamed.pid)])
        assert check.status == "warn"
        assert check.found.startswith(f"1 running: {renamed.pid} ")
        assert "ray stop" in check.advice
    finally:
        for process in (child, renamed):
            process.kill()
            process.wait()
    assert doctor.check_engines([]).status == "ok"


def test_disk_is_checked_where_the_runs_go(tmp_path):
    assert doctor.check_disk(str(tmp_path / "new" / "runs"), 0.001).status == "ok"
    assert doctor.check_disk(str(tmp_path), 1e9).status == "fail"
    assert doctor.check_disk("s3://bucket/runs", 1e9).status == "ok"
    assert doctor.needed_disk_gib(make_config(model="m", iterations=3), {"m": 2.0}) == 9.0


def test_gpu_against_configuration():
    cpu, gpu = make_config(), make_config(training=TrainingConfig(num_gpus=1))
    expected = [(cpu, False, "ok"), (cpu, True, "warn"), (gpu, True, "ok"), (gpu, False, "fail")]
    for config, present, status in expected:
        assert doctor.check_gpu(config, present, "cpu").status == status
    far = make_config(training=TrainingConfig(num_gpus=1), address="auto")
    assert doctor.check_gpu(far, False, "gpu").status == "ok"
    assert doctor.check_gpu(None, True, "cpu") == Check("GPU", "ok", "an NVIDIA GPU: profile cpu")


def test_the_profile_is_the_named_one_and_the_device_the_seen_one(monkeypatch):
    monkeypatch.setattr(doctor, "gpu_present", lambda: True)
    monkeypatch.setenv("APPELLATE_PROFILE", "cpu")
    assert by_name(diagnose(None))["GPU"].found == "an NVIDIA GPU: profile cpu"
    assert by_name(diagnose(None, "gpu"))["GPU"].found == "an NVIDIA GPU: profile gpu"
    with pytest.raises(ConfigError, match="profile: 'foo' is unknown"):
        diagnose(None, "foo")


def test_open_files():
    assert doctor.check_open_files(65536, 65536).status == "ok"
    assert doctor.check_open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY).status == "ok"
    assert "ulimit" in doctor.check_open_files(1024, 65536).advice
    assert "limits.conf" in doctor.check_open_files(1024, 1024).advice


def test_trainer_loops():
    able = native.NEEDED | {"sse"}
    assert doctor.check_loops(able, "/usr/bin/g++").found == "in C++, compiled by /usr/bin/g++"
    assert (doctor.check_loops(able, None).status, doctor.check_loops(frozenset(), None).status) == ("warn", "ok")
    assert "avx512_bf16" in doctor.check_loops(able - {"avx512_bf16"}, "g++").found
