"""The command line: what loads, what is printed, and the exit codes 0 ok, 2 bad input, 1 failed."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from actors.pool import ModelUnavailable
from appellate import app
from cluster import down
from pipelines import loop
from pipelines.config import dump, resolve
from pipelines.ledger import Ledger, LedgerError
from pipelines.records import groups_table
from pipelines.steps.make_prompts import InputError
from serve import standalone
from tests.pipelines.planted import planted_iteration

ROOT = Path(__file__).parents[1]
ANSWER: dict[str, Any] = {
    "weight_version": "v3", "protocol": "additive", "scores": [4.0], "winner": None, "confidence": None,
    "abstained": False, "reason": None,
    "votes": [{"responses": [0], "order": 0, "status": "ok", "score": 4.0, "verdict": None}],
}


def appellate(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def refused(*words: str, code: int = 2) -> str:
    """Standard error of a command that ends with `code` and one plain message."""
    result = appellate(*words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.strip()


def refused_json(*words: str, code: int = 2) -> str:
    result = appellate(*words, "--json")
    assert result.exit_code == code
    assert result.stderr == ""
    (only,) = json.loads(result.stdout).items()
    assert only[0] == "error"
    return only[1]


@pytest.fixture
def prompts(tmp_path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "2 + 2?"}\n')
    return str(file)


@pytest.fixture
def groups(tmp_path) -> Path:
    file = tmp_path / "groups.parquet"
    pq.write_table(groups_table(planted_iteration(4)), file)
    return file


# ---- run


def test_a_dry_run_loads_neither_torch_nor_vllm_nor_ray():
    code = (
        "import sys\nfrom appellate import app\n"
        "app(['run', 'meta_rewarding', 'prompts=p.jsonl', '--dry-run'], standalone_mode=False)\n"
        "heavy = ('torch', 'vllm', 'ray', 'transformers', 'datasets', 'pandas')\n"
        "print('loaded:', [name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "loaded: []"
    assert yaml.safe_load(result.stdout)["config"]["recipe"] == "meta_rewarding"


def test_a_dry_run_prints_the_configuration_and_the_plan_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("run", "irpo", "prompts=p.jsonl", "models.actor.replicas=3", "--profile", "cpu", "--dry-run")
    text, data = appellate(*words), appellate(*words, "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    printed = json.loads(data.stdout)
    assert yaml.safe_load(text.stdout) == printed
    assert printed["config"]["training"]["loss"] == "dpo + nll"
    actor = printed["plan"]["models"]["actor"]
    assert (actor["replicas"], actor["cpus"]) == (3, 1.5)
    assert actor["roles"] == ["policy", "judge", "meta_judge", "generator"]
    assert printed["plan"]["total"] == {"cpus": 2.25, "gpus": 0}
    assert printed["plan"]["steps"] == ["SampleStep"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["meta_rewarding", "training.bta=1"], "training.bta: unknown key, did you mean training.beta?"),
        (["meta_rewrding"], "recipe: 'meta_rewrding' is unknown, did you mean meta_rewarding?"),
        (["meta_rewarding", "training.beta=-1"], "training.beta: Input should be greater than 0 (got -1)"),
        (["meta_rewarding", "iterations"], "'iterations' is not key=value"),
        (["none.yaml"], "none.yaml: no such file"),
        (["meta_rewarding", "x[/b]=1"], "x[/b]: unknown key"),  # no markup of the terminal's
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_wrong_configuration_exits_2_with_the_nearest_key(tmp_path, monkeypatch, words, message, more):
    monkeypatch.chdir(tmp_path)
    asked = ["run", *words, "prompts=p.jsonl", *more]
    assert message in refused(*asked)
    assert message in refused_json(*asked)
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_needed():
    assert "prompts: needed, e.g. prompts=..." in refused("run", "irpo", "--dry-run")


def test_an_existing_run_is_not_overwritten(tmp_path, prompts):
    Ledger.create(str(tmp_path), "mine", {}, {})
    message = refused_json("run", "irpo", f"prompts={prompts}", f"runs_dir={tmp_path}", "name=mine")
    assert f"appellate resume {tmp_path}/mine" in message


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ('{"prompt": ""}\n', [], "prompts.jsonl:1: prompt: is empty"),
        ('{"prompt": "2 + 2?"}\n', ["models.actor.max_model_len=20"], "the model takes 20 with the answer"),
        ('{"prompt": "2 + 2?"}\n', ["model=/no/such/model"], "'/no/such/model': no such folder"),
    ],
)
def test_input_that_no_run_can_use_exits_2_before_anything_starts(tmp_path, tiny_model, content, words, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    given = [f"prompts={file}", f"runs_dir={tmp_path / 'runs'}", f"model={tiny_model}", "name=mine", *words]
    assert message in refused_json("run", "irpo", *given)
    assert list((tmp_path / "runs").iterdir()) == []  # so that the corrected command can have the name


def test_a_refused_resume_keeps_its_run(tmp_path, tiny_model):
    config = dump(resolve("irpo", ["prompts=/no/such/file.jsonl", f"model={tiny_model}"], "cpu"))
    ledger = Ledger.create(str(tmp_path), "mine", config, {})
    assert "no such file" in refused_json("resume", ledger.path)
    assert Ledger.open(ledger.path).events() == []


def test_a_run_that_has_begun_keeps_its_folder_whatever_is_raised(tmp_path, prompts, monkeypatch):
    def begin(config: Any, ledger: Ledger, progress: Any) -> None:
        ledger.mark(0, "groups")
        raise InputError("too late")

    monkeypatch.setattr(loop, "execute", begin)
    assert refused_json("run", "irpo", f"prompts={prompts}", f"runs_dir={tmp_path}", "name=mine") == "too late"
    assert Ledger.open(f"{tmp_path}/mine").iterations() == [0]


@pytest.mark.parametrize("folder", ["/proc/nope", "/dev/null/runs", "nosuch://bucket/runs"])
def test_a_folder_for_runs_that_cannot_be_made_exits_2(prompts, folder):
    words = ["run", "irpo", f"prompts={prompts}", f"runs_dir={folder}"]
    assert one_line(refused(*words)).startswith(f"error: runs_dir={folder}: no run can be made there: ")
    assert refused_json(*words).startswith(f"runs_dir={folder}: ")


def test_a_run_means_the_same_from_every_directory(tmp_path, tiny_model, monkeypatch):
    executed = []
    monkeypatch.setattr(loop, "execute", lambda config, ledger, progress: executed.append(config) or {
        "run": ledger.path, "recipe": "irpo", "iterations": []})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    result = appellate("run", "irpo", "prompts=p.jsonl", "model=model", "name=mine", "--profile", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = appellate("resume", "../runs/mine", "--json")
    assert result.exit_code == 0, result.stderr
    first, second = executed
    assert first == second
    assert (first.prompts, first.model) == (f"{tmp_path}/p.jsonl", f"{tmp_path}/model")
    assert first.runs_dir == f"{tmp_path}/runs"
    (tmp_path / "p.jsonl").write_text('{"prompt": "3 + 3?"}\n')
    message = refused_json("resume", "../runs/mine")
    assert message.startswith(f"{tmp_path}/p.jsonl: has changed since this run was made")
    assert len(executed) == 2


# ---- resume


def finished(tmp_path: Path) -> Ledger:
    config = resolve("irpo", ["prompts=p.jsonl"], "cpu")
    ledger = Ledger.create(str(tmp_path), "done", dump(config), {})
    ledger.mark_finished({"run": ledger.path, "recipe": "irpo", "iterations": []})
    return ledger


def test_a_finished_run_is_left_as_it_is(tmp_path):
    ledger = finished(tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    text, data = appellate("resume", ledger.path), appellate("resume", ledger.path, "--json")
    assert (text.exit_code, text.stdout) == (0, f"{ledger.path} is finished; nothing to do\n")
    assert data.exit_code == 0
    summary = json.loads(data.stdout)
    assert (summary["nothing_to_do"], summary["run"], summary["recipe"]) == (True, ledger.path, "irpo")
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_run_exits_2(tmp_path):
    assert "not a run directory" in refused_json("resume", str(tmp_path))
    assert "no such run directory" in refused("resume", f"{tmp_path}/none").replace("\n", " ")


def test_a_run_of_another_version_exits_2(tmp_path):
    config = dump(resolve("irpo", ["prompts=p.jsonl"], "cpu"))
    ledger = Ledger.create(str(tmp_path), "old", {**config, "colour": "red"}, {})
    message = refused_json("resume", ledger.path)
    assert "config.yaml is of another version: colour: unknown key" in message
    assert ledger.events() == []


@pytest.mark.parametrize("content", [b"", b"- recipe\n", b"recipe: [", b"seed: 1\n", b"recipe:\n", b"\xff\xfe", b"7"])
def test_a_damaged_configuration_exits_2(tmp_path, content):
    ledger = Ledger.create(str(tmp_path), "mine", {}, {})
    (tmp_path / "mine" / "config.yaml").write_bytes(content)
    assert one_line(refused("resume", ledger.path)).startswith(f"error: {ledger.path}/config.yaml: ")
    assert ledger.events() == []


def test_a_run_that_another_process_drives_is_left_alone(tmp_path, prompts):
    ledger = Ledger.create(str(tmp_path), "mine", dump(resolve("irpo", [f"prompts={prompts}"], "cpu")), {})
    with ledger.lock():
        message = refused_json("resume", ledger.path)
        assert (tmp_path / "mine" / "driver.json").exists()
    assert "has driven this run since" in message
    assert ledger.events() == []


def test_a_run_that_fails_says_so_in_its_events(tmp_path, prompts, monkeypatch):
    def fail(*_: Any) -> None:
        raise LedgerError("part-1.parquet: cannot be read")

    monkeypatch.setattr(loop, "execute", fail)
    words = ["run", "irpo", f"prompts={prompts}", f"runs_dir={tmp_path}", "name=mine"]
    assert "part-1.parquet: cannot be read" in refused_json(*words, code=1)
    assert [event["kind"] for event in Ledger.open(f"{tmp_path}/mine").events()] == ["failed"]


# ---- replay


def test_a_replay_prints_what_came_of_the_groups(groups, tmp_path):
    out = tmp_path / "pairs.parquet"
    result = appellate("replay", "meta_rewarding", "--groups", str(groups), "--out", str(out), "rho=0")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert (printed["groups"], printed["out"]) == (4, str(out))
    assert sum(printed["pairs"].values()) == pq.read_table(out).num_rows > 0


def test_bad_groups_exit_2_with_file_row_and_field(groups, tmp_path):
    rows = pq.read_table(groups).to_pylist()
    rows[2]["samples"][1]["text"] = None
    pq.write_table(groups_table(rows), groups)
    words = ["replay", "meta_rewarding", "--groups", str(groups), "--out", str(tmp_path / "pairs.parquet")]
    assert f"{groups} row 2: samples[1].text: needed, nothing found" in refused(*words)
    assert f"{groups} row 2: samples[1].text: needed, nothing found" in refused_json(*words)
    pq.write_table(pa.table({"prompt_id": ["p"]}), groups)
    assert f"{groups} row 0: messages: needed" in refused_json(*words)
    groups.write_text("no parquet")
    assert f"{groups}: not a Parquet file" in refused_json(*words)
    groups.unlink()
    assert f"{groups}: no such file" in refused_json(*words)
    assert not (tmp_path / "pairs.parquet").exists()


def test_an_unknown_setting_of_a_replay_exits_2(groups, tmp_path):
    words = ["replay", "meta_rewarding", "--groups", str(groups), "--out", str(tmp_path / "p.parquet")]
    assert "did you mean method.chosen_max_chars?" in refused_json(*words, "chosen_max_char=5")


def test_pairs_need_a_file_that_can_be_written(groups, tmp_path):
    words = ["replay", "meta_rewarding", "--groups", str(groups), "--out"]
    assert one_line(refused(*words, str(tmp_path))) == f"error: --out {tmp_path}: is a folder; name a Parquet file"
    assert "--out /proc/nope/p.parquet cannot be used" in one_line(refused(*words, "/proc/nope/p.parquet"))
    assert "--out /dev/null/p.parquet cannot be used" in refused_json(*words, "/dev/null/p.parquet")


# ---- judge


def ask(*words: str) -> list[str]:
    return ["judge", "--prompt", "2 + 2?", "--response", "4", *words]


def test_a_judge_that_is_not_there_exits_1_with_what_to_do():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        message = refused_json(*ask("--url", url), code=1)
    assert message.startswith(f"no judge at {url}: ")
    assert message.endswith("start one with `appellate serve --model ...`")
    for wrong in ("nonsense", "http://[/x"):
        assert f"no judge at {wrong}: " in refused(*ask("--url", wrong), code=1).replace("\n", " ")


def test_a_judgement_is_asked_for_and_shown(monkeypatch):
    asked = []

    def post(url: str, json: Any, timeout: float, trust_env: bool) -> httpx.Response:
        asked.append((url, json))
        return httpx.Response(200, json=ANSWER)

    monkeypatch.setattr(httpx, "post", post)
    result = appellate(*ask("--response", "5", "--votes", "2", "--url", "http://judge:1/"))
    body = {"prompt": "2 + 2?", "responses": ["4", "5"], "votes": 2}
    assert asked == [("http://judge:1/v1/judgements", body)]
    assert result.exit_code == 0
    assert "scores [4.0], winner None" in result.stdout
    assert "additive · v3" in result.stdout
    assert json.loads(appellate(*ask("--json")).stdout) == ANSWER


@pytest.mark.parametrize(("status", "code"), [(422, 2), (404, 2), (503, 1), (302, 1)])
def test_a_judge_that_refuses_says_whose_fault_it_is(monkeypatch, status, code):
    reply = httpx.Response(status, json={"error": "responses.0: String should have at least 1 character"})
    monkeypatch.setattr(httpx, "post", lambda *_, **__: reply)
    message = refused_json(*ask(), code=code)
    assert message.startswith(f"the judge answered {status}: ")
    assert "responses.0: String should have at least 1 character" in message


@pytest.mark.parametrize("content", [b"<html>\nhello", b"[1]", b'{"id": 1}', b"", b"\xff"])
def test_another_server_is_no_judge(monkeypatch, content):
    monkeypatch.setattr(httpx, "post", lambda *_, **__: httpx.Response(200, content=content))
    assert one_line(refused(*ask(), code=1)).startswith("error: what answers at http://127.0.0.1:8000 is no judge")
    assert "is no judge" in refused_json(*ask(), code=1)


def test_a_proxy_is_not_asked_for_the_own_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://no-such-proxy.invalid:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = appellate(*ask("--url", f"http://127.0.0.1:{server.server_port}", "--json"))
        server.shutdown()
    assert json.loads(result.stdout) == ANSWER


# ---- serve


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "foo"], "error: profile: 'foo' is unknown, valid are cpu, gpu"),
        (["--port", "99999"], "error: port: Input should be less than or equal to 65535 (got 99999)"),
        (["--port", "0"], "error: port: Input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_serve_refuses_settings_before_it_looks_at_the_model(words, message):
    assert one_line(refused("serve", "--model", "/no/such/model", *words)) == message


def test_serve_needs_a_model():
    assert "'/no/such/model': no such folder" in one_line(refused("serve", "--model", "/no/such/model"))


@pytest.mark.parametrize("error", [ModelUnavailable, RuntimeError, OSError])
def test_a_start_of_serve_that_fails_is_one_line(monkeypatch, tiny_model, error):
    def fail(*_: Any) -> None:
        raise error("replicas do not start:\n  " + "x" * 9000 + "\n[the cause]")

    monkeypatch.setattr(standalone, "serve_model", fail)
    message = one_line(refused("serve", "--model", str(tiny_model), "--profile", "cpu", code=1))
    assert message.startswith(f"error: {error.__name__}: ")
    assert message.endswith("x [the cause]")
    assert len(message) < 2100


# ---- doctor and down


def test_doctor_refuses_an_unknown_profile_with_and_without_a_recipe():
    for words in ([], ["irpo", "prompts=p"]):
        message = "profile: 'foo' is unknown, valid are cpu, gpu"
        assert one_line(refused("doctor", *words, "--profile", "foo")) == f"error: {message}"
        assert refused_json("doctor", *words, "--profile", "foo") == message


def test_down_on_a_cluster_that_does_not_answer_exits_1(monkeypatch):
    def fail(*_: Any) -> None:
        raise down.DownError("nothing deleted on the cluster at there:1")

    monkeypatch.setattr(down, "take_down", fail)
    assert refused_json("down", "--address", "there:1", code=1) == "nothing deleted on the cluster at there:1"


# ---- the rest


def test_without_a_verb_the_verbs_are_listed():
    result = appellate()
    assert result.exit_code == 2
    for verb in ("run", "train", "resume", "serve", "judge", "replay", "doctor", "down"):
        assert verb in result.output
