"""The schema for editors: it takes what ships, refuses what the reader refuses, and explains each key."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from stillbit.recipes import catalog, document
from stillbit.recipes.json_schema import json_schema

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def keys(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the keys that a schema describes, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {}).items()
    if isinstance(schema, dict | list):
        for one in schema.values() if isinstance(schema, dict) else schema:
            yield from keys(one)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", catalog.names())
def test_shipped_recipes_are_valid(name: str) -> None:
    assert list(VALIDATOR.iter_errors(document.parse(catalog.text(name), name))) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"modle": {}}, id="unknown-section"),
        pytest.param({"data": {"augment": {"hflop": 0.5}}}, id="unknown-key"),
        pytest.param({"freezing": {"steps": 3}}, id="option-that-the-run-decides"),
        pytest.param({"freezing": {"threshold": 2.0}}, id="number-out-of-range"),
        pytest.param({"training": {"epochs": "ten"}}, id="wrong-type"),
        pytest.param({"quantization": {"policy": "best"}}, id="unknown-choice"),
        pytest.param({"quantization": {"weight_range": {"estimator": "max"}}}, id="unknown-choice-in-a-nested-section"),
        pytest.param({"published": "yes"}, id="text-for-a-flag"),
    ],
)
def test_what_the_reader_refuses_is_marked(content: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(content)) != []


def test_each_key_is_explained() -> None:
    assert [name for name, one in keys(SCHEMA) if not one.get("description")] == []


def test_defaults_are_those_of_the_classes() -> None:
    freezing = SCHEMA["$defs"]["Recipe"]["properties"]["freezing"]["anyOf"][0]["properties"]
    assert (freezing["threshold"]["default"], freezing["max_bits"]["default"]) == (0.1, 4)
    assert SCHEMA["$defs"]["QuantConfig"]["properties"]["policy"]["default"] == "lsq_paper"


def test_the_command_prints_it(command: Any) -> None:
    code, out, _ = command("recipes", "--schema")
    assert (code, json.loads(out)) == (0, SCHEMA)
