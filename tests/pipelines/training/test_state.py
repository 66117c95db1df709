"""A training state is whole or not there, and belongs to one plan."""

import os
from pathlib import Path

import pytest
import torch

from pipelines.training import state
from pipelines.training.errors import TrainingError
from pipelines.training.state import StateFolder

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "weight.step": torch.tensor(3.0), "half": torch.ones(2).bfloat16()}


def progress(step: int, plan: str = "p") -> dict[str, object]:
    return {"plan": plan, "step": step, "best": None, "loss": 0.5}


@pytest.fixture
def folder(tmp_path) -> StateFolder:
    return StateFolder(str(tmp_path / "states"))


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_without_a_state_training_begins_at_the_start(folder):
    assert folder.progress("p") is None
    with pytest.raises(TrainingError, match="no training state"):
        folder.tensors()
    folder.clear()


def test_the_newest_state_comes_back_whole_and_alone(folder, tmp_path):
    transposed = TENSORS["weight"].T
    folder.save({**TENSORS, "weight": torch.zeros(2, 3)}, progress(9))
    folder.save({**TENSORS, "weight": transposed}, progress(10))
    again = StateFolder(str(tmp_path / "states"))
    assert again.progress("p") == progress(10)
    assert_equal(again.tensors(), {**TENSORS, "weight": transposed})
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000010"]


def test_a_state_of_another_plan_is_not_gone_on_from(folder):
    folder.save(TENSORS, progress(3, "other seed"))
    assert folder.progress("p") is None
    folder.save(TENSORS, progress(1))
    assert folder.progress("p") == progress(1)  # the state of the other plan, although further, is gone


@pytest.mark.parametrize("at", ["tensors", "progress", "rename"])
def test_a_process_that_dies_while_saving_leaves_the_last_state(folder, tmp_path, monkeypatch, at):
    folder.save(TENSORS, progress(3))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "tensors":
            patch.setattr(state, "save_file", die)
        elif at == "progress":
            patch.setattr(Path, "write_text", die)
        else:
            patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            folder.save({**TENSORS, "weight": torch.zeros(2, 3)}, progress(4))
    assert folder.progress("p") == progress(3)
    assert_equal(folder.tensors(), TENSORS)
    folder.save(TENSORS, progress(4))  # what the dead one left is no hindrance
    assert folder.progress("p") == progress(4)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000004"]


def test_a_process_that_dies_before_the_old_state_is_gone_leaves_the_new_one(folder, monkeypatch):
    folder.save(TENSORS, progress(3))
    with monkeypatch.context() as patch:
        patch.setattr(state.shutil, "rmtree", lambda *_, **__: None)
        folder.save({"weight": torch.ones(1)}, progress(4))
    assert folder.progress("p") == progress(4)
    assert_equal(folder.tensors(), {"weight": torch.ones(1)})


@pytest.mark.parametrize("content", [None, "", '{"plan": "p", "st'])
def test_a_damaged_state_is_named(folder, tmp_path, content):
    folder.save(TENSORS, progress(3))
    file = tmp_path / "states" / "step-00000003" / "progress.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(TrainingError, match=r"states/step-00000003: damaged .*remove the folder"):
        folder.progress("p")


def test_the_best_weights_are_kept_beside_the_states(folder, tmp_path, monkeypatch):
    folder.save_best({"weight": TENSORS["weight"].T})  # before any state
    folder.save(TENSORS, progress(3))
    assert_equal(folder.best(), {"weight": TENSORS["weight"].T})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            folder.save_best({"weight": torch.zeros(1)})
    assert_equal(folder.best(), {"weight": TENSORS["weight"].T})
    folder.save_best({"weight": torch.zeros(1)})
    assert_equal(folder.best(), {"weight": torch.zeros(1)})
    assert folder.progress("p") == progress(3)
    folder.clear()
    assert not (tmp_path / "states").exists()
