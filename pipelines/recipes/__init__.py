"""The methods by name. A recipe is imported when asked for, so that naming one costs nothing."""

from importlib import import_module

from pipelines.recipes.base import Recipe

RECIPES = ("meta_rewarding", "irpo")


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises ConfigError with the nearest name."""
    if name not in RECIPES:
        from pipelines.config import ConfigError, nearest_key

        near = nearest_key(name, list(RECIPES))
        hint = f", did you mean {near}?" if near else f"; recipes are {', '.join(RECIPES)}"
        raise ConfigError(f"recipe: {name!r} is unknown{hint}")
    return import_module(f"pipelines.recipes.{name}").RECIPE
