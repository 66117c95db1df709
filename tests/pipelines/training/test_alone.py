"""`appellate train` without a cluster: its settings, its run folder, what is refused, and what a resumed one skips."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import session
from pipelines.config import PROFILES, ConfigError
from pipelines.ledger import Ledger
from pipelines.training import trainer
from pipelines.training.alone import TrainConfig, resolve_train
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from tests.test_cli import ROOT, appellate, one_line, refused, refused_json

ROWS = [
    {"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A car."},
    {"prompt": "Name a tree.", "chosen": "An oak.", "rejected": "A boat."},
]
FOUND = {"steps": 2, "skipped_steps": 0, "first_loss": 0.6931, "last_loss": 0.5, "last_accuracy": 1.0,
         "last_margin": 0.5, "tokens_per_s": 99.6}


class Stub:
    """A cluster and a trainer that note what they are asked for."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.needed: list[Any] = []
        self.trained: list[Any] = []
        self.error: BaseException | None = None

    @contextlib.contextmanager
    def open_cluster(self, *words: Any) -> Any:
        self.opened.append(words)
        yield

    def train(self, *words: Any) -> dict[str, Any]:
        self.trained.append(words)
        if self.error is not None:
            raise self.error
        return dict(FOUND)


@pytest.fixture
def stub(monkeypatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(session, "open_cluster", made.open_cluster)
    monkeypatch.setattr(session, "check_capacity", lambda *words: made.needed.append(words))
    monkeypatch.setattr(trainer, "train", made.train)
    return made


@pytest.fixture
def pairs(tmp_path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def words(tmp_path, pairs, tiny_model) -> list[str]:
    """A training called `mine` on two pairs."""
    return ["train", "--pairs", str(pairs), "--model", tiny_model, "--profile", "cpu", f"runs_dir={tmp_path}/runs",
            "name=mine"]


# ---- settings


def test_settings_of_the_trainer_may_lack_their_prefix():
    long = resolve_train("p", "m", ["training.beta=0.5", "training.lora.rank=4", "training.loss=dpo + nll"], "cpu")
    short = resolve_train("p", "m", ["beta=0.5", "lora={rank: 4}", "loss=dpo + nll"], "cpu")
    assert long == short == resolve_train("p", "m", ["beta=0.1", "beta=0.5", "lora.rank=4", "loss=dpo + nll"], "cpu")
    assert (long.training.beta, long.training.losses) == (0.5, {"dpo": 1.0, "nll": 1.0})
    both = [*TrainConfig.model_fields, *TrainingConfig.model_fields, "profile"]
    assert len(both) == len(set(both))  # so that it is clear which is meant


def test_the_trainer_gets_whole_devices_of_its_profile():
    assert 0 < PROFILES["gpu"]["training"]["num_gpus"] < 1
    for profile, gpus in (("cpu", 0.0), ("gpu", 1.0)):
        training = resolve_train("p", "m", [], profile).training
        assert (training.num_cpus, training.num_gpus) == (1.0, gpus)
        assert resolve_train("p", "m", [f"profile={profile}"]).training == training
    assert resolve_train("p", "m", ["num_gpus=2"], "gpu").training.num_gpus == 2
    rest = resolve_train("p", "m", [], "cpu").training.model_dump()
    assert rest == {**TrainingConfig().model_dump(), "num_cpus": 1.0, "num_gpus": 0.0}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rat=1e-6", "learning_rat: unknown key, did you mean learning_rate?"),
        ("training.bta=1", "training.bta: unknown key, did you mean training.beta?"),
        ("sed=1", "sed: unknown key, did you mean seed?"),
        ("lora.rnk=1", "training.lora.rnk: unknown key, did you mean training.lora.rank?"),
        ("models.actor.replicas=2", "models.actor.replicas: unknown key"),
        ("beta=-1", "training.beta: Input should be greater than 0 (got -1)"),
        ("loss=dpo+simpoo", "training.loss: 'simpoo' is no loss, did you mean simpo?"),
        ("beta", "'beta' is not key=value"),
        ("runs_dir=s3://bucket/runs", "runs_dir: training needs a folder that is mounted on every node"),
        ("profile=tpu", "profile: 'tpu' is unknown, valid are cpu, gpu"),
    ],
)
def test_a_wrong_setting_exits_2_with_the_nearest_key(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        resolve_train("p.jsonl", "m", [word])
    assert str(error.value).startswith(message)
    for more in ([], ["--dry-run"]):
        assert message in refused("train", "--pairs", "p.jsonl", "--model", "m", word, *more)
        assert message in refused_json("train", "--pairs", "p.jsonl", "--model", "m", word, *more)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_loads_neither_torch_nor_ray():
    code = (
        "import sys\nfrom appellate import app\n"
        "app(['train', '--pairs', 'p', '--model', 'm', 'seed=3', '--dry-run'], standalone_mode=False)\n"
        "heavy = ('torch', 'vllm', 'ray', 'transformers', 'datasets', 'pandas')\n"
        "print('loaded:', [name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "loaded: []"
    assert yaml.safe_load(result.stdout)["config"]["seed"] == 3


def test_a_dry_run_prints_the_configuration_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "--pairs", "p.jsonl", "--model", "m", "num_workers=[2, 4]", "--profile", "gpu", "--dry-run")
    text, data = appellate(*words), appellate(*words, "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    printed = json.loads(data.stdout)
    assert yaml.safe_load(text.stdout) == printed
    assert printed["plan"] == {"workers": 2, "cpus": 2.0, "gpus": 2.0}
    assert TrainConfig.model_validate(printed["config"]) == resolve_train("p.jsonl", "m", ["num_workers=[2, 4]"], "gpu")
    assert list(tmp_path.iterdir()) == []


# ---- training


def test_a_training_is_a_run_of_one_iteration(words, stub, tmp_path, tiny_model, pairs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_model)
    result = appellate("train", "--pairs", "pairs.jsonl", "--model", "model", *words[5:], "seed=7", "--json")
    assert result.exit_code == 0, result.output
    ledger = Ledger.open(f"{tmp_path}/runs/mine")
    expected = {"run": ledger.path, "model": f"{tmp_path}/model", "pairs": 2, "bad_rows": 0}
    summary = json.loads(result.stdout)
    assert {**(ledger.finished() or {}), "time": ""} == {**summary, "time": ""}
    del summary["training"]["time"]
    assert summary == {**expected, "training": FOUND, "checkpoint": f"{ledger.path}/iterations/0000/checkpoint"}

    ((settings, *place),) = stub.trained
    assert place == [7, ledger, 0, "v0", tiny_model]
    assert settings == resolve_train("p", "m", [], "cpu").training
    assert (stub.opened, stub.needed) == ([(ledger.run_id, None)], [(1.0, 0.0)])
    stored = ledger.read_config()
    assert (stored["pairs"], stored["model"]) == (str(pairs), f"{tmp_path}/model")
    manifest = ledger.read_manifest()
    assert manifest.keys() == {"seed", "python", "packages", "config_hash", "pairs_hash"}
    assert (manifest["seed"], len(manifest["pairs_hash"])) == (7, 64)
    committed = ledger.read_pairs(0).to_pylist()
    assert sorted(pair["chosen_text"] for pair in committed) == ["An apple.", "An oak."]
    assert {(p["iteration"], p["ref_version"], p["ref_logp_chosen"]) for p in committed} == {(0, None, None)}
    assert [event["kind"] for event in ledger.events()] == ["stage_started", "stage_done"] * 2


def test_a_training_ends_with_what_to_type_next(words, stub, tmp_path):
    shown = " ".join(appellate(*words, "loss=sft").stdout.split())
    assert f"training finished in {tmp_path}/runs/mine" in shown
    assert "│ 2 │ 2 │ 0.6931 → 0.5000 │ - │ 100 │" in shown  # nothing is compared, so nothing is accurate
    assert shown.endswith(f"next: appellate serve --model {tmp_path}/runs/mine/iterations/0000/checkpoint")
    assert "│ 0.6931 → 0.5000 │ 100% │" in " ".join(appellate(*words[:-1], "name=other").stdout.split())


def test_single_answers_train_where_nothing_is_compared(words, stub, pairs, tmp_path):
    pairs.write_text(json.dumps({"prompt": "Name a fruit.", "completion": "An apple."}) + "\n")
    assert "pairs.jsonl:1: rejected: is missing, and the loss compares two sides" in refused_json(*words)
    assert appellate(*words, "loss=sft").exit_code == 0
    (pair,) = Ledger.open(f"{tmp_path}/runs/mine").read_pairs(0).to_pylist()
    assert (pair["chosen_text"], pair["rejected_ids"]) == ("An apple.", [])


@pytest.mark.parametrize(
    ("content", "changed", "message"),
    [
        ('{"prompt": "p", "chosen": "c", "rejected": ""}\n', [], "pairs.jsonl:1: rejected: is empty; write it"),
        ('{"prompt": "p", "chosen": "c"}\n', [], "pairs.jsonl:1: rejected: is missing, and the loss compares"),
        (json.dumps({**ROWS[0], "chosen": "many " * 600}), [], "pairs.jsonl:1: chosen: has "),  # the model takes 512
        ("", [], "pairs.jsonl: no row that can be used (0 bad rows)"),
        (None, [], "pairs.jsonl: no such file or folder"),
        ("", ["--model", "/no/such/model"], "'/no/such/model': no such folder"),
    ],
)
def test_input_that_cannot_be_trained_on_exits_2_before_anything_starts(
    words, stub, tmp_path, pairs, content, changed, message
):
    if content is None:
        pairs.unlink()
    else:
        pairs.write_text(content)
    assert message in refused_json(*words, *changed)
    assert message in one_line(refused(*words, *changed).replace("\n  ", " "))
    assert list((tmp_path / "runs").iterdir()) == []  # so that the corrected command can have the name
    assert (stub.opened, stub.trained) == ([], [])


def test_a_run_folder_that_cannot_be_made_exits_2(words, tmp_path):
    Ledger.create(f"{tmp_path}/runs", "mine", {}, {})
    assert f"appellate resume {tmp_path}/runs/mine" in refused_json(*words)
    assert "runs_dir=/proc/nope: no run can be made there: " in refused_json(*words, "runs_dir=/proc/nope")


def test_bad_rows_that_are_left_out_are_counted_and_listed(words, stub, pairs, tmp_path):
    pairs.write_text(pairs.read_text() + '{"prompt": "p", "chosen": "c", "rejected": "c"}\nno json\n')
    result = appellate(*words, "on_bad_rows=quarantine", "--json")
    summary = json.loads(result.stdout)
    assert (summary["pairs"], summary["bad_rows"]) == (2, 2)
    (event,) = [e for e in Ledger.open(f"{tmp_path}/runs/mine").events() if e["kind"] == "bad_rows"]
    assert [row.split("pairs.jsonl")[1][:12] for row in event["rows"]] == [":3: rejected", ":4: is not J"]


# ---- resume


@pytest.mark.parametrize("error", [TrainingError("3 steps in a row were not finite"), KeyboardInterrupt()])
def test_a_training_that_ended_early_goes_on_with_the_pairs_it_has(words, stub, tmp_path, pairs, error):
    stub.error = error
    assert f"go on with: appellate resume {tmp_path}/runs/mine" in refused_json(*words, code=1)
    ledger = Ledger.open(f"{tmp_path}/runs/mine")
    assert ledger.done(0, "train") is None
    pairs.write_text("changed\n")  # the run has its pairs
    stub.error = None
    result = appellate("resume", ledger.path, "--json")
    assert result.exit_code == 0, result.output
    assert stub.trained[0] == stub.trained[1]
    assert len(stub.opened) == 2
    again = appellate("resume", ledger.path, "--json")
    assert json.loads(again.stdout)["nothing_to_do"] is True
    assert appellate("resume", ledger.path).stdout == f"{ledger.path} is finished; nothing to do\n"
    assert len(stub.trained) == 2


def test_a_training_that_was_marked_is_not_repeated(words, stub, tmp_path):
    assert appellate(*words).exit_code == 0
    ledger = Ledger.open(f"{tmp_path}/runs/mine")
    before = ledger.finished() or {}
    (tmp_path / "runs/mine/finished.json").unlink()
    result = appellate("resume", ledger.path, "--json")
    assert {**json.loads(result.stdout), "time": ""} == {**before, "time": ""}
    assert (len(stub.trained), len(stub.opened)) == (1, 1)


def test_pairs_that_changed_before_they_were_read_are_refused(words, stub, tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(Ledger, "commit_pairs", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    assert "No space left on device" in refused_json(*words, code=1)
    monkeypatch.undo()
    pairs.write_text(pairs.read_text() + json.dumps(ROWS[0]) + "\n")
    message = refused_json("resume", f"{tmp_path}/runs/mine")
    assert message.startswith(f"{pairs}: has changed since this run was made, and a run keeps its data; put the old")


def test_a_stored_training_of_another_version_exits_2(words, stub, tmp_path):
    assert appellate(*words).exit_code == 0
    ledger = Ledger.open(f"{tmp_path}/runs/mine")
    (tmp_path / "runs/mine/finished.json").unlink()
    ledger.write_config({**ledger.read_config(), "colour": "red"})
    assert "config.yaml is of another version: colour: unknown key" in refused_json("resume", ledger.path)
