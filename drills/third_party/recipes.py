"""The recipes by name."""

from importlib import import_module

from drills.third_party.recipe import SANE, Recipe
from sim.base.errors import UsageError

NAMES: tuple[str, ...] = ("nats", "centrifugo", "socketio", "durable_streams")  # servers that others wrote
PRACTICE = "practice"  # our own mock
STARTED: tuple[str, ...] = (PRACTICE, *NAMES)  # each has a `RECIPE` in a module of its name


def get(name: str) -> Recipe:
    """Return a recipe by its server's name. Raises `UsageError` for an unknown one."""
    if name not in STARTED:
        raise UsageError(f"unknown server '{name}'; there are: {', '.join(STARTED)}.")
    recipe: Recipe = import_module(f"drills.third_party.{name}").RECIPE
    return recipe


def check_variant(recipe: Recipe, variant: str) -> None:
    """Raise `UsageError` for an unknown variant of a server."""
    if variant != SANE and variant not in recipe.variants:
        known = ", ".join((SANE, *recipe.variants))
        raise UsageError(f"{recipe.title} has no variant '{variant}'; there are: {known}.")
