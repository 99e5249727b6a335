"""YAML as recipes use it: safe, without duplicate keys, and with `1e-5` a number.

Two traps of PyYAML end here. It follows YAML 1.1, where `1e-5` is a string for want of a dot; and it lets the second of
two equal keys win in silence.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from stillbit.errors import RecipeError

_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with both traps closed."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse the second of two equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; it quotes the text `1e-5`, which `_Loader` would take for a number."""


# Tried after PyYAML's own rule for integers, so `128` stays an integer.
for _end in (_Loader, _Dumper):
    _end.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, origin: str) -> Any:
    """Read one YAML document."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{origin}{place}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin}: {' '.join(str(error).split())}") from None


def render(mapping: dict[str, Any]) -> str:
    """Write a mapping as YAML, keys in their order; `parse` reads the same values back."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
