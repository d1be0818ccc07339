"""Read and write conflict profiles as readable JSON: one line per layer, nonempty bins only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.grid import BINS, EDGES
from libmtl_recon.conflicts.layers import Layer, layer_name, named_norm
from libmtl_recon.conflicts.strict_json import parse
from libmtl_recon.texts import bounded

FORMAT = "libmtl-recon conflict profile"
VERSION = 2
_READ = (1, 2)  # the first had no counts of the whole gradient

# Bins are written as their lower edge.
_NAMES = [f"{edge:.3f}" for edge in EDGES[:-1]]
_BIN_OF = {name: index for index, name in enumerate(_NAMES)}
_UNDEFINED = "undefined"
_COLUMNS = [*_NAMES, _UNDEFINED]
# The largest count, and the largest sum of counts of a layer, so that no sum overflows.
_LARGEST = 2**53
_MOST_COUNTS = 2**62
# The largest number of layers times blocks: 1.7 GB of counts.
MOST_CELLS = 2**19


class Contents(NamedTuple):
    """The contents of a profile; see :class:`~libmtl_recon.ConflictProfile`."""

    architecture: tuple[Layer, ...]
    tasks: tuple[str, ...]
    counts: NDArray[np.int64]
    undefined: NDArray[np.int64]
    block_steps: NDArray[np.int64]
    provenance: Mapping[str, Any]
    whole: NDArray[np.int64] | None


def encode(contents: Contents) -> str:
    """Return the JSON text; ``provenance`` must be representable in JSON."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "tasks": list(contents.tasks),
        "steps": int(contents.block_steps.sum()),
        "provenance": dict(contents.provenance),
    }
    lines = [f"  {json.dumps(key)}: {_shown(value)}" for key, value in head.items()]
    layers = [encode_layer(layer) for layer in contents.architecture]
    lines.append(_rows('  "architecture": [', [json.dumps(row) for row in layers], "  ]"))
    blocks = [_encode_block(contents, index) for index in range(len(contents.block_steps))]
    lines.append(_rows('  "blocks": [', blocks, "  ]"))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def decode(text: str) -> Contents:
    """Read a text written by :func:`encode`.

    Raises:
        ValueError: It is not a profile, or is damaged; the message gives the reason.
    """
    data = parse(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if data.get("version") not in _READ:
        read = " and ".join(map(str, _READ))
        raise ValueError(f"its version is {data.get('version')!r}; this program reads {read}")
    blocks = _get(data, "blocks", list)
    if not blocks:
        raise ValueError("it has no steps")
    check_size(len(_get(data, "architecture", list)), len(blocks))
    architecture = tuple(map(decode_layer, data["architecture"]))
    row = {layer.name: index for index, layer in enumerate(architecture)}
    if len(row) != len(architecture):
        raise ValueError("two of its layers have the same name")
    tasks = tuple(_of_type(task, str, "a task") for task in _get(data, "tasks", list))
    if len(set(tasks)) != len(tasks) or len(tasks) < 2:
        raise ValueError("it needs at least two tasks with different names")
    counts = np.zeros((len(blocks), len(row), BINS), np.int64)
    undefined = np.zeros((len(blocks), len(row)), np.int64)
    steps = np.zeros(len(blocks), np.int64)
    counted = "whole" in _of_type(blocks[0], dict, "a block")
    whole = np.zeros((len(blocks), BINS + 1), np.int64) if counted else None
    for index, block in enumerate(blocks):
        _of_type(block, dict, "a block")
        steps[index] = _whole(block.get("steps"))
        for name, cosines in _get(block, "cosines", dict).items():
            for edge, count in _of_type(cosines, dict, f"the cosines of {name[:100]!r}").items():
                counts[index, _known(row, name), _known(_BIN_OF, edge)] = _whole(count)
        for name, count in _get(block, "undefined", dict).items():
            undefined[index, _known(row, name)] = _whole(count)
        if whole is not None:
            for edge, count in _get(block, "whole", dict).items():
                whole[index, BINS if edge == _UNDEFINED else _known(_BIN_OF, edge)] = _whole(count)
    if int(sum(map(int, steps))) * len(tasks) ** 2 > _MOST_COUNTS:
        raise ValueError("it has more steps and pairs of tasks than is possible")
    for array in (counts, undefined, steps, whole):
        if array is not None:
            array.setflags(write=False)  # so that a profile does not copy it
    provenance = _get(data, "provenance", dict)
    return Contents(architecture, tasks, counts, undefined, steps, provenance, whole)


def check_size(layers: int, blocks: int) -> None:
    """Check that the counts of a profile fit into the memory of most machines.

    Raises:
        ValueError: They do not.
    """
    if layers * blocks > MOST_CELLS:
        raise ValueError(
            f"it has {layers:,} layers in {blocks:,} blocks of steps, and a profile holds at most "
            f"{MOST_CELLS:,} layers times blocks"
        )


def encode_layer(layer: Layer) -> dict[str, Any]:
    """Return a layer as JSON values."""
    row = {"name": layer.name, "type": layer.type, "shapes": layer.shapes}
    if layer.norm == named_norm(layer.type):
        return row
    return {**row, "norm": layer.norm}


def _encode_block(contents: Contents, index: int) -> str:
    cosines, undefined = [], {}
    for row, layer in enumerate(contents.architecture):
        counts = contents.counts[index, row]
        cosines.append(f"  {json.dumps(layer.name)}: {json.dumps(_filled(counts))}")
        if contents.undefined[index, row]:
            undefined[layer.name] = int(contents.undefined[index, row])
    head = f'{{"steps": {int(contents.block_steps[index])}, "undefined": {json.dumps(undefined)},'
    if contents.whole is not None:
        head += f'\n     "whole": {json.dumps(_filled(contents.whole[index]))},'
    return _rows(head + '\n     "cosines": {', cosines, "     }}")


def _filled(counts: NDArray[np.int64]) -> dict[str, int]:
    return {_COLUMNS[b]: int(counts[b]) for b in np.flatnonzero(counts)}


def decode_layer(data: Any) -> Layer:
    """Read what :func:`encode_layer` made.

    Raises:
        ValueError: It is not a layer.
    """
    _of_type(data, dict, "a layer")
    shapes = tuple(
        tuple(_whole(size) for size in _of_type(shape, list, "a shape"))
        for shape in _get(data, "shapes", list)
    )
    norm = _get(data, "norm", bool) if "norm" in data else None
    layer = Layer(_get(data, "name", str), _get(data, "type", str), shapes, norm)
    if layer.parameters > _LARGEST:
        raise ValueError(f"the layer {layer.name[:100]!r} has more parameters than is possible")
    return layer


def _rows(start: str, rows: list[str], end: str) -> str:
    return start + "\n" + ",\n".join(f"    {row}" for row in rows) + "\n" + end


def _shown(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    # Lone surrogates, as in file names that are not UTF-8, have a JSON escape but no encoding.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _get(data: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in data:
        raise ValueError(f"{key!r} is missing")
    return _of_type(data[key], kind, repr(key))


def _of_type(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        names: dict[type, str] = {
            list: "a list",
            dict: "an object",
            str: "a text",
            bool: "true or false",
        }
        raise ValueError(f"{what} must be {names[kind]} (got {bounded(str(value), 40)!r})")
    return value


def _known(numbers: Mapping[str, int], name: str) -> int:
    name = layer_name(name)  # the root used to have an empty name
    if name not in numbers:
        raise ValueError(
            f"{name[:100]!r} is neither a layer of its architecture nor an edge of a bin"
        )
    return numbers[name]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(
            f"a count or size must be a whole number from 0 up (got {bounded(repr(value), 40)})"
        )
    return value
