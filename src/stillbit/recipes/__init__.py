"""Recipes: YAML data over frozen dataclasses, and the networks that they name.

Nothing is imported here, so that `stillbit recipes` reads `catalog` without loading a training library.
"""
