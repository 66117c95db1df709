"""The recipes' pages against the code: every recipe has a section, and its table names every default, rightly."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import from_layers, read_yaml
from pipelines.recipes import RECIPES, get_recipe

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("recipes.md", "judge-recipes.md"))
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))
ROW = re.compile(r"^\| `([\w.]+)` \| `(.*?)` \| (?:`(.*?)`)? ?\| (.+) \|$", re.M)
TAGS = ("paper", "note", "repo", "memory", "unsure", "derived")


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data by dotted key."""
    if not isinstance(value, dict) or not value:
        return {prefix[:-1]: value}
    return {key: leaf for name, item in value.items() for key, leaf in leaves(item, f"{prefix}{name}.").items()}


def defaults(name: str, preset: str) -> dict[str, Any]:
    """Every setting of the method and the run's others, by the key that the page uses."""
    config = from_layers(name, [{"prompts": "-", "preset": preset}], "cpu")
    training = leaves(config.training.model_dump(mode="json"), "training.")
    run = {"iterations": config.iterations, "prompts_limit": config.prompts_limit}
    return {**run, **training, **leaves(config.method.model_dump(mode="json"))}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_page_section_with_its_defaults(name: str) -> None:
    assert name in SECTIONS, f"docs/recipes.md has no section {name}"
    section, recipe = SECTIONS[name], get_recipe(name)
    assert recipe.paper in section and "──►" in section and "Left open" in section
    paper, small = defaults(name, "paper"), defaults(name, "small")
    rows = {key: (default, other, tags) for key, default, other, tags in ROW.findall(section)}
    method = leaves(from_layers(name, [{"prompts": "-"}], "cpu").method.model_dump(mode="json"))
    named = method.keys() | leaves(recipe.training, "training.").keys() | {"iterations"}
    assert named <= rows.keys(), f"not in the table: {sorted(named - rows.keys())}"
    for key, (default, other, tags) in rows.items():
        assert read_yaml(default, key) == paper[key], key
        assert read_yaml(other or default, key) == small[key], f"{key}, small"
        assert any(f"[{tag}]" in tags for tag in TAGS), f"{key}: no source"


def test_every_section_is_of_a_recipe() -> None:
    assert set(SECTIONS) == set(RECIPES)
