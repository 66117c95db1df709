"""The recipe that docs/writing-a-recipe.md shows, saved as the page says, is one like the others."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import recipes
from pipelines.config import from_layers
from tests.oracles import Cast, answers
from tests.pipelines import test_invariants
from tests.pipelines.planted import group, run_recipe, sample
from tests.playing import play

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-recipe.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def concise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe of the page, as if its file were in pipelines/recipes/."""
    (tmp_path / "concise.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    monkeypatch.setattr(recipes, "RECIPES", (*recipes.RECIPES, "concise"))
    yield recipes.get_recipe("concise")
    del sys.modules["pipelines.recipes.concise"]


def test_one_new_file_is_all_it_takes(tmp_path: Path) -> None:
    """In a copy of the application with the file in its place, the command line knows the recipe."""
    assert len(CODE.splitlines()) <= 42
    for name in ("actors", "cluster", "pipelines", "serve"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "appellate.py", tmp_path)
    (tmp_path / "pipelines" / "recipes" / "concise.py").write_text(CODE, encoding="utf-8")
    prompts = ROOT / "examples" / "arithmetic.jsonl"
    command = [sys.executable, "appellate.py", "run", "concise", f"prompts={prompts}", "preset=small", "--dry-run"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert "concise" in found.stdout and "irpo" not in found.stdout


def test_it_is_configured_like_the_others(concise: Any) -> None:
    paper, small = (from_layers("concise", [{"prompts": "-", "preset": name}], "cpu") for name in ("paper", "small"))
    assert (paper.method.samples.n, paper.method.samples.max_tokens, paper.training.beta) == (16, 1024, 0.1)
    assert (small.method.samples.n, small.method.margin, small.iterations) == (4, 5, 2)


def test_of_the_right_answers_the_shortest_is_preferred(concise: Any) -> None:
    texts = ["Two and two.\nFinal answer: 4", "Final answer: 5", "It is, as one sees at once,\nFinal answer: 4"]
    planted = group(gold="4", samples=[sample(str(i), text, i) for i, text in enumerate(texts)])
    (read,), (pair,) = run_recipe("concise", [planted], margin=2)
    assert (pair["chosen_from"], pair["rejected_from"]) == ("0", "2")
    assert (pair["chosen_score"], pair["rejected_score"]) == (-6, -10)
    (read,), none = run_recipe("concise", [planted])
    assert (read["dropped"], none) == ("equally_long", [])


def test_its_steps_run(concise: Any) -> None:
    rows = test_invariants.natural_rows("concise", 20)
    found = play("concise", rows, Cast(policy=answers(right=0.9)))
    _, pairs = run_recipe("concise", found.groups)
    assert len(pairs) == 20
    assert all(len(pair["chosen_text"]) < len(pair["rejected_text"]) for pair in pairs)


def invariants() -> list[Any]:
    found = [test for name, test in vars(test_invariants).items() if name.startswith("test_")]
    return [test for test in found if "d6" not in test.__name__]  # it compares no responses


@pytest.mark.parametrize("test", invariants(), ids=lambda test: test.__name__.removeprefix("test_"))
def test_it_satisfies(test: Any, concise: Any, tmp_path: Path) -> None:
    """What is tested of every registered recipe."""
    needed = inspect.signature(test).parameters
    test(**{name: value for name, value in {"name": "concise", "tmp_path": tmp_path}.items() if name in needed})
