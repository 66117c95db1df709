"""The methods by name: every module of this folder but the two that they share, imported when it is asked for."""

from importlib import import_module
from pkgutil import iter_modules

from pipelines.recipes.base import Recipe

SHARED = ("base", "method")
RECIPES = tuple(sorted(module.name for module in iter_modules(__path__) if module.name not in SHARED))


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises ConfigError with the nearest name."""
    if name not in RECIPES:
        from pipelines.config import ConfigError, nearest_key

        near = nearest_key(name, list(RECIPES))
        hint = f", did you mean {near}?" if near else f"; recipes are {', '.join(RECIPES)}"
        raise ConfigError(f"recipe: {name!r} is unknown{hint}")
    return import_module(f"pipelines.recipes.{name}").RECIPE
