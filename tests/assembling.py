"""The parts of a recipe, in a session of their own."""

from stillbit.assembly import Assembly, assemble
from stillbit.recipes.schema import Recipe
from stillbit.training.session import Session


def assembled(recipe: Recipe) -> Assembly:
    return assemble(recipe, Session.start(recipe.training))
