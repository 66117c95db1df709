import importlib.util
import subprocess
import sys
import tomllib
import urllib.error
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
INSTALL = ROOT / "requirements" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", INSTALL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recorded(install, monkeypatch):
    """Commands the installer would run; a command fails when one of the words in `fails` is part of it."""
    commands, fails = [], set()

    def call(*command, quiet=False):
        words = [str(word) for word in command]
        commands.append(words)
        return not fails & set(words)

    def make_venv(venv):
        (venv / "bin").mkdir(exist_ok=True)
        (venv / "bin" / "python").touch()
        return venv / "bin" / "python"

    monkeypatch.setattr(install, "call", call)
    monkeypatch.setattr(install, "make_venv", make_venv)
    monkeypatch.setattr(install, "index_answers", lambda url: False)
    return commands, fails


def test_only_fitting_interpreters_and_machines(install):
    for version in [(3, 11), (3, 12)]:
        install.check_python(version, "Linux", "x86_64")
    for version in [(3, 10), (3, 13), (2, 7)]:
        with pytest.raises(install.InstallError, match=r"Python 3.11 or 3.12, this is"):
            install.check_python(version, "Linux", "x86_64")
    with pytest.raises(install.InstallError, match="Darwin on arm64"):
        install.check_python((3, 11), "Darwin", "arm64")


def test_the_profile_is_named_or_seen(install, monkeypatch, tmp_path):
    device = tmp_path / "nvidiactl"
    assert install.choose_profile({"APPELLATE_PROFILE": "gpu"}, device) == "gpu"
    with pytest.raises(install.InstallError, match="valid are cpu and gpu"):
        install.choose_profile({"APPELLATE_PROFILE": "tpu"}, device)

    def absent(*args, **options):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(install.subprocess, "run", absent)
    assert install.choose_profile({}, device) == "cpu"
    device.touch()
    assert install.choose_profile({}, device) == "gpu"
    assert install.choose_profile({"APPELLATE_PROFILE": "cpu"}, device) == "cpu"


@pytest.mark.parametrize(("code", "said", "profile"), [(0, "GPU 0: H100", "gpu"), (0, "", "cpu"), (9, "GPU", "cpu")])
def test_nvidia_smi_must_answer(install, monkeypatch, tmp_path, code, said, profile):
    answer = subprocess.CompletedProcess([], code, stdout=said)
    monkeypatch.setattr(install.subprocess, "run", lambda *args, **options: answer)
    assert install.choose_profile({}, tmp_path / "none") == profile


def test_an_optional_index_is_asked_once_and_briefly(install):
    asked = []

    class Reply:
        status = 200

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    def opener(url, timeout):
        asked.append((url, timeout))
        return Reply()

    assert install.index_answers("https://index.invalid/", opener)
    assert asked == [("https://index.invalid/", install.PROBE_TIMEOUT_S)]
    assert install.PROBE_TIMEOUT_S <= 5


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError(), ConnectionResetError()])
def test_an_index_that_does_not_answer_is_left_out(install, error):
    def opener(url, timeout):
        raise error

    assert not install.index_answers("https://index.invalid/", opener)


def test_a_closed_port_is_no_index(install):
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    assert not install.index_answers(f"http://127.0.0.1:{port}/")


def test_torch_comes_from_a_local_wheel_then_the_cpu_index_then_the_main_one(install, recorded, monkeypatch, tmp_path):
    commands, fails = recorded
    python, pins = tmp_path / "python", tmp_path / "cpu.txt"
    install.install_torch(tmp_path, python, "2.13.0", pins)
    assert "--no-index" in commands[0]
    assert "--extra-index-url" not in commands[1]
    fails.add("--no-index")
    commands.clear()
    install.install_torch(tmp_path, python, "2.13.0", pins)
    assert "--extra-index-url" not in commands[1]
    monkeypatch.setattr(install, "index_answers", lambda url: True)
    commands.clear()
    install.install_torch(tmp_path, python, "2.13.0", pins)
    assert commands[1][-2:] == ["--extra-index-url", install.CPU_INDEX]


@pytest.mark.parametrize(("version", "there"), [("2.13.0+cpu", True), ("2.13.0", True), ("2.12.0", False)])
def test_a_torch_that_is_there_is_left_alone(install, recorded, tmp_path, version, there):
    commands, _ = recorded
    (tmp_path / "lib/python3.11/site-packages" / f"torch-{version}.dist-info").mkdir(parents=True)
    install.install_torch(tmp_path, tmp_path / "python", "2.13.0", tmp_path / "cpu.txt")
    assert (not commands) == there


def test_a_finished_environment_is_left_alone(install, recorded, tmp_path):
    commands, _ = recorded
    venv = tmp_path / "venv"
    install.build(venv, "cpu")
    assert commands
    commands.clear()
    install.build(venv, "cpu")
    assert commands == []
    install.build(venv, "gpu")
    assert commands


def test_a_changed_list_or_installer_is_installed_again(install):
    cases = [("cpu", b"a==1"), ("cpu", b"a==2"), ("gpu", b"a==1")]
    assert len({install.stamp_text(*case) for case in cases}) == 3


@pytest.mark.parametrize("broken", ["torch==2.13.0", "-r", "-c"])
def test_a_half_made_environment_is_not_marked_as_done(install, recorded, tmp_path, broken):
    commands, fails = recorded
    venv = tmp_path / "venv"
    fails.add(broken)
    with pytest.raises(install.InstallError):
        install.build(venv, "cpu")
    assert not (venv / install.STAMP).exists()
    fails.clear()
    commands.clear()
    install.build(venv, "cpu")
    assert commands
    assert (venv / install.STAMP).exists()


def test_pip_takes_over_where_uv_fails(install, recorded, tmp_path):
    commands, fails = recorded
    fails.add("uv==1.0")
    install.install_list(tmp_path / "bin" / "python", tmp_path / "cpu.txt", "1.0")
    assert commands[-1][1:4] == ["-m", "pip", "install"]
    assert "--no-deps" in commands[-1]


def test_a_folder_that_is_no_environment_is_not_touched(install, tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(install.InstallError, match="not empty"):
        install.make_venv(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "words"


def test_the_lists_pin_every_direct_dependency(install):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for profile in ("cpu", "gpu"):
        pins = {name.lower(): version for name, version in install.read_pins(
            (ROOT / "requirements" / f"{profile}.txt").read_text()).items()}
        for line in project["dependencies"] + extras[profile] + extras["demo"] + extras["dev"]:
            name, _, version = line.lower().partition("==")
            assert pins[name.partition("[")[0]] == (version or pins[name.partition("[")[0]])


def test_the_cpu_list_leaves_out_what_breaks_beside_a_cpu_torch(install):
    pins = install.read_pins((ROOT / "requirements" / "cpu.txt").read_text())
    assert not {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python"} & pins.keys()
    assert not [name for name in pins if name.startswith("nvidia-")]
    assert "+" not in pins["torch"]


def test_the_installer_needs_no_packages():
    code = f"import runpy; runpy.run_path({str(INSTALL)!r}, run_name='loaded')"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


def test_the_command_runs_the_source_tree(install, tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    install.write_command(tmp_path, ROOT)
    reply = subprocess.run([tmp_path / "bin" / "appellate", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert reply.returncode == 0, reply.stderr
    assert "resume" in reply.stdout
