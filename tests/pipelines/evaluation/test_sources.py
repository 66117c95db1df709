"""Whom `--judge` names: the newest weights that a run has trained, a checkpoint, or nobody yet."""

import pytest

from actors.checkpoints import CheckpointError
from pipelines.config import ConfigError
from pipelines.evaluation.sources import model_of
from pipelines.ledger import Ledger


def test_a_run_is_judged_by_its_newest_trained_weights(tmp_path):
    ledger = Ledger.create(str(tmp_path), "run", {"recipe": "irpo"}, {})
    ledger.mark(0, "groups", {})
    with pytest.raises(ConfigError, match="has trained no weights yet"):
        model_of(ledger.path)
    ledger.mark(0, "train", {"steps": 3})
    assert model_of(ledger.path) == (ledger.checkpoint_dir(0), "v1")
    ledger.mark(1, "train", {"skipped": True, "steps": 0})  # an iteration without pairs changes nothing
    assert model_of(ledger.path) == (ledger.checkpoint_dir(0), "v1")
    ledger.mark(2, "train", {"steps": 3})
    assert model_of(ledger.path) == (ledger.checkpoint_dir(2), "v3")


def test_what_is_neither_is_no_judge(tmp_path):
    with pytest.raises(CheckpointError):
        model_of(str(tmp_path / "nowhere"))
