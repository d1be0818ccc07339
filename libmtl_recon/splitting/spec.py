"""The record of how a network was split, from which the same network is built again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from libmtl_recon._version import __version__
from libmtl_recon.conflicts.strict_json import parse
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.task_names import check_task_names

FORMAT = "libmtl-recon split"
VERSION = 1
BN = ("per_task", "mixed")
INIT = ("copy", "fresh")


def own_versions() -> dict[str, str]:
    """Return the versions of the packages on which a split made in this process depends."""
    return {"libmtl-recon": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True)
class SplitSpec:
    """The specification of a split, with the arguments of :func:`~libmtl_recon.split_layers`.

    It is in the metadata of a split network's state dict. :func:`~libmtl_recon.split_from` uses it
    to build the network again.

    Attributes:
        layers: The task-specific layers' names, in the network at ``root``.
        tasks: The tasks' names, in the order of a result's parts.
        bn: The kind of running statistics of norms that stayed shared; see ``split_layers``.
        init: The initialisation of the copies. A network that is built from a checkpoint gets the
            checkpoint's values.
        per_task_output: Whether the network returns one entry per task; None if this is determined
            in its first call.
        root: The path of the split network within the module to which the state dict belongs;
            empty for that module itself.
        origin: Where the layers came from, as given by the caller: with ``--arch Recon``
            ``base`` (the architecture), ``K``, ``S``, ``select``, ``source`` and ``profile``.
        versions: The versions of the packages with which the network was split.

    Raises:
        UsageError: There is no such value.

    Example:
        >>> spec = SplitSpec(("conv1",), ("left", "right"))
        >>> SplitSpec.from_json(spec.to_json()) == spec
        True
    """

    layers: tuple[str, ...]
    tasks: tuple[str, ...]
    bn: str = "per_task"
    init: str = "copy"
    per_task_output: bool | None = False
    root: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=own_versions, hash=False)

    def __post_init__(self) -> None:
        for name in ("layers", "tasks"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) for one in value):
                raise UsageError(name, "must be a sequence of names", value, "Give a list of them.")
            object.__setattr__(self, name, tuple(value))
        check_task_names("tasks", self.tasks)
        twice = next((one for one in self.layers if self.layers.count(one) > 1), None)
        if twice is not None:
            raise UsageError("layers", "must be different names", twice, "Give it once.")
        check_choice("bn", self.bn, BN)
        check_choice("init", self.init, INIT)

    def same_network(self, other: SplitSpec) -> bool:
        """Return whether two splits give the same network; the origin is not compared."""
        return (
            set(self.layers) == set(other.layers)
            and self.tasks == other.tasks
            and self.bn == other.bn
            and self.root == other.root
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of :meth:`to_json` as Python objects."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "layers": list(self.layers),
            "tasks": list(self.tasks),
            "bn": self.bn,
            "init": self.init,
            "per_task_output": self.per_task_output,
            "root": self.root,
            "origin": dict(self.origin),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, data: Any, source: str = "the split") -> SplitSpec:
        """Create a specification from the result of :meth:`to_dict`.

        Args:
            data: The Python objects.
            source: The name of their source, for the message.

        Raises:
            ReconError: The data are not a specification, or are damaged or of a newer version of
                this package.
        """
        try:
            return cls(**_values(data))
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise ReconError(
                f"{source} does not record how a network was split: {reason}."
            ) from error

    def to_json(self) -> str:
        """Return the specification as a readable JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the text") -> SplitSpec:
        """Create a specification from a text written by :meth:`to_json`.

        Args:
            text: The JSON text.
            source: The name of the file, for the message.

        Raises:
            ReconError: See :meth:`from_dict`.
        """
        try:
            data = parse(text)
        except ValueError as error:
            raise ReconError(
                f"{source} does not record how a network was split: it is not JSON ({error})."
            ) from error
        return cls.from_dict(data, source)


def check_choice(parameter: str, value: object, known: tuple[str, ...]) -> None:
    """Check that a value is one of the known ones.

    Raises:
        UsageError: It is not a known value.
    """
    if value not in known:
        way_out = f"Take one of {', '.join(known)}."
        raise UsageError(parameter, f"must be {' or '.join(known)}", value, way_out)


# What is kept under each key, beside the format and its version.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "layers": list,
    "tasks": list,
    "bn": str,
    "init": str,
    "per_task_output": (bool, type(None)),
    "root": str,
    "origin": dict,
    "versions": dict,
}


def _values(data: Any) -> dict[str, Any]:
    """Check the values of a specification and return them.

    Raises:
        ValueError: A value is missing, of the wrong type, or unknown.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    version = data.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"its version must be a whole number, but is {_shown(version)}")
    unknown = [key for key in data if key not in ("format", "version", *_KINDS)]
    if version > VERSION:
        more = f", with {', '.join(map(_shown, unknown[:5]))}" if unknown else ""
        raise ValueError(
            f"it is of version {version}{more}, and this libmtl-recon ({__version__}) reads up to "
            f"version {VERSION}; install a newer one"
        )
    if unknown:
        raise ValueError(f"it has the unknown key {_shown(unknown[0])}")
    for key, kind in _KINDS.items():
        if key not in data:
            raise ValueError(f"it lacks {key!r}")
        if not isinstance(data[key], kind):
            raise ValueError(f"its {key!r} is {_shown(data[key])}")
    if not all(isinstance(key, str) for name in ("origin", "versions") for key in data[name]):
        raise ValueError("its 'origin' and 'versions' must have names for keys")
    return {key: data[key] for key in _KINDS}


def _shown(value: Any) -> str:
    return repr(value)[:100]
