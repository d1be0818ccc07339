"""A reader of YAML with the scalars of YAML 1.2, which refuses duplicate keys.

PyYAML follows YAML 1.1, in which the key ``on`` is the boolean true and ``1e-3`` is a string.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

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
_RULES = {name: re.compile(f"^(?:{rule})$") for name, rule, _ in _SCALARS}
# Types that are not in YAML 1.2's core schema; a file that uses them by a tag is refused.
_DROPPED = ("timestamp", "binary", "set", "omap", "pairs")

_LONGEST = 100_000  # characters of a file
_DEEPEST = 30  # levels of nesting
_MOST = 20_000  # nodes, with each alias counted as its content
_DIGITS = 100  # of a number


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with other rules for scalars, and checks of keys, strings and sizes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of the finished nodes, by id

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node; refuse it if it is too deeply nested, contains itself or is too large."""
        alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"it is nested more than {_DEEPEST} levels deep", mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if id(node) not in self._sizes:
            if alias:  # of what is still being read
                raise yaml.composer.ComposerError(None, None, "a value contains itself", mark)
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if self._sizes[id(node)] > _MOST:
            raise yaml.composer.ComposerError(
                None, None, f"it expands to more than {_MOST} values", mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse duplicate keys."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen and key.value != "<<":
                    raise _wrong(key, f"the key {_shown(key.value)} occurs twice")
                seen.add((key.tag, key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Construct a string; refuse control characters."""
        text = str(self.construct_scalar(node))
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n":
                raise _wrong(node, f"a string contains the character U+{ord(character):04X}")
        return text

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Construct an integer; a leading zero does not make it octal."""
        return int(self._literal(node, "int"))

    def construct_real(self, node: yaml.ScalarNode) -> float:
        """Construct a real number, infinity or NaN."""
        text = self._literal(node, "float" if node.value.strip("+-0123456789") else "int")
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        """Construct a boolean."""
        return self._literal(node, "bool").lower() == "true"

    def _literal(self, node: yaml.ScalarNode, kind: str) -> str:
        text = str(self.construct_scalar(node))
        if not _RULES[kind].match(text):
            raise _wrong(node, f"{_shown(text)} is not a valid {kind}")
        if len(text) > _DIGITS:
            raise _wrong(
                node,
                f"a number has {len(text)} digits, more than {_DIGITS} (in quotes it is a string)",
            )
        return text


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _wrong(node: yaml.Node, reason: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _rule, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"{_STR}{_name}", re.compile(f"^(?:{_rule})$"), list(_first))
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag not in {f"{_STR}{name}" for name in _DROPPED}
}
_Loader.add_constructor(f"{_STR}str", _Loader.construct_text)
_Loader.add_constructor(f"{_STR}int", _Loader.construct_whole)
_Loader.add_constructor(f"{_STR}float", _Loader.construct_real)
_Loader.add_constructor(f"{_STR}bool", _Loader.construct_truth)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, a mapping has a key twice, a string has a control character,
            or it is too large: more than 100,000 characters, 20,000 values, 30 levels, or a number
            of more than 100 digits.

    Example:
        >>> parse_yaml("{on: val, lr: 1e-3, prune: true}")
        {'on': 'val', 'lr': 0.001, 'prune': True}
    """
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"it has more than {_LONGEST} characters")
    return yaml.load(text, _Loader)  # no less safe than SafeLoader
