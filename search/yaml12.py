"""Reading YAML as people mean it: the scalars of YAML 1.2, and no key twice.

PyYAML follows YAML 1.1, in which the key ``on`` is the truth value true and ``1e-3`` is a text.
"""

from __future__ import annotations

import re
from typing import Any, TextIO

import yaml

_STR = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_REPLACED = {f"{_STR}{name}" for name in ("bool", "int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with other rules for scalars, and an eye on keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, each of whose keys is there once."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is there twice", key.start_mark
                )
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number; a leading zero does not make it octal."""
        return int(self.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _rule, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"{_STR}{_name}", re.compile(f"^(?:{_rule})$"), list(_first))
_Loader.add_constructor(f"{_STR}int", _Loader.construct_whole)


def parse_yaml(text: str | TextIO) -> Any:
    """The value that a YAML text or file describes.

    Raises:
        yaml.YAMLError: It is no YAML, or a mapping has a key twice.

    Example:
        >>> parse_yaml("{on: val, lr: 1e-3, prune: true}")
        {'on': 'val', 'lr': 0.001, 'prune': True}
    """
    return yaml.load(text, _Loader)  # no less safe than SafeLoader
