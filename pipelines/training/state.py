"""What a killed training goes on from: weights, moments and the place in the plan, the same for every strategy.

Tensors are safetensors, numbers are JSON, and a state is whole or not there: it is written beside the last one and
takes its place by a rename.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipelines.training.errors import TrainingError
from pipelines.training.strategies.base import State


class StateFolder:
    """Training states of one iteration; only the newest is kept."""

    def __init__(self, folder: str):
        self._folder = Path(folder)

    def save(self, tensors: State, progress: dict[str, Any]) -> None:
        """Keep a state. `progress` is JSON; `progress["step"]` is the number of steps taken."""
        final = self._folder / f"step-{progress['step']:08d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "state.safetensors")
        (partial / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for other in self._folder.glob("step-*"):
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    def progress(self, plan: str) -> dict[str, Any] | None:
        """The newest state's progress; None without one, or where it is of another plan (pairs, seed, settings)."""
        newest = self._newest()
        if newest is None:
            return None
        try:
            progress = json.loads((newest / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{newest}: damaged ({error}); remove the folder to train from the start") from error
        return progress if progress.get("plan") == plan else None

    def tensors(self) -> State:
        """The newest state's weights and moments."""
        newest = self._newest()
        if newest is None:
            raise TrainingError(f"{self._folder}: no training state")
        return load_file(newest / "state.safetensors")

    def save_best(self, weights: State) -> None:
        """Keep the weights that did best on the validation pairs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "best.safetensors.partial"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
        os.replace(partial, self._folder / "best.safetensors")

    def best(self) -> State:
        """The weights that `save_best` kept last."""
        return load_file(self._folder / "best.safetensors")

    def clear(self) -> None:
        """Training is done; its states are not needed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _newest(self) -> Path | None:
        found = sorted(path for path in self._folder.glob("step-*") if not path.name.endswith(".partial"))
        return found[-1] if found else None
