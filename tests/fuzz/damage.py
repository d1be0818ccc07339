"""Ways in which a checkpoint is damaged: its bytes, or what was saved in it."""

from __future__ import annotations

import copy
import gzip
import io
import pickle
import random
import zipfile
from collections.abc import Callable
from typing import Any

import torch

Values = dict[Any, Any]


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _zeros(data: bytearray, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice([4, 64, 512, 4096])
    end = min(start + length, len(data))
    data[start:end] = bytes(end - start)
    return bytes(data)


def _noise(data: bytearray, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice([4, 64, 512])
    end = min(start + length, len(data))
    data[start:end] = rng.randbytes(end - start)
    return bytes(data)


def _lost(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 2, 64, 512])]
    return bytes(data)


def _doubled(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return bytes(data[:start] + data[start : start + 128] + data[start:])


def _swapped(data: bytearray, rng: random.Random) -> bytes:
    middle = rng.randrange(len(data))
    return bytes(data[middle:] + data[:middle])


def _tail(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data) + rng.randbytes(rng.choice([1, 64, 70_000]))


def _torn_pickle(data: bytearray, rng: random.Random) -> bytes:
    """The archive is whole, with check sums that hold; what is pickled in it is not."""
    archive = io.BytesIO(bytes(data))
    if not zipfile.is_zipfile(archive):
        return _flip(data, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(made, "w") as new:
        for record in old.infolist():
            inside = bytearray(old.read(record))
            if record.filename.endswith("data.pkl"):
                inside = bytearray(rng.choice([_flip, _cut, _lost, _noise])(inside, rng))
            new.writestr(record.filename, bytes(inside))
    return made.getvalue()


# Each takes the bytes of a good checkpoint.
OF_BYTES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    *(_cut, _flip, _zeros, _noise, _lost, _doubled, _swapped, _tail),
    *(_torn_pickle, _torn_pickle, _torn_pickle),
)


def _pickled(value: Any) -> Callable[[random.Random], bytes]:
    return lambda rng: pickle.dumps(value, protocol=rng.randrange(2, 6))


def _saved(value: Any) -> Callable[[random.Random], bytes]:
    def save(_: random.Random) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    return save


def _zip(rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(rng.choice(["data.pkl", "archive/data.pkl", "a.txt"]), rng.randbytes(40))
    return file.getvalue()


# What is in the file's place.
OTHER_THINGS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda _: b"",
    lambda rng: bytes(rng.randrange(1, 5000)),
    lambda rng: rng.randbytes(rng.randrange(1, 5000)),
    lambda _: b"epoch,loss\n1,0.5\n",
    lambda _: "Gewichte für später\n".encode("utf-16"),
    lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    lambda _: gzip.compress(b"weights"),
    lambda _: b"{}",
    _zip,
    *map(_pickled, [3, None, [1, [2]], {"a": 1}, print, random.Random, object(), b"x" * 99]),
    *map(_saved, [3, "text", [], {}, {"epoch": 3}, torch.ones(2), [torch.ones(2)], None]),
    *map(_saved, [{"model": {}}, {"model": 3}, {"model": None, "optimizer": None}]),
    _saved(torch.nn.Linear(2, 2)),
)

_NO_TENSORS: tuple[Any, ...] = (3, "text", None, [1.0], {"a": 1}, {"a": torch.ones(2)}, (), True)


def _a_key(state: Values, rng: random.Random) -> Any:
    return rng.choice(list(state))


def _reshape(state: Values, rng: random.Random) -> None:
    key = _a_key(state, rng)
    shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
    state[key] = torch.ones(shape)


def _retype(state: Values, rng: random.Random) -> None:
    key = _a_key(state, rng)
    types = [torch.complex64, torch.int64, torch.bool, torch.uint8, torch.float16, torch.float64]
    if isinstance(state[key], torch.Tensor):
        state[key] = state[key].to(rng.choice(types))


def _replace(state: Values, rng: random.Random) -> None:
    state[_a_key(state, rng)] = rng.choice(_NO_TENSORS)


def _rename(state: Values, rng: random.Random) -> None:
    key = _a_key(state, rng)
    names: list[Any] = ["", ".", "..", "a" * 999, f"{key}.tasks.a.weight", "encoder", "\x00"]
    names += [float("nan"), None, 3, ("a", "b"), f"{key}x", "module." + str(key)]
    names += ["rotograd.rotations.a.parametrizations.weight.original", "rotograd_leader.moments.x"]
    names += ["encoder.one.tasks.a.weight", "encoder.norm.tasks.b.running_mean", "loss_scale"]
    state[rng.choice(names)] = state.pop(key)


def _drop(state: Values, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, len(state) + 1)):
        del state[_a_key(state, rng)]


def _layout(state: Values, rng: random.Random) -> None:
    key = _a_key(state, rng)
    value = state[key]
    if isinstance(value, torch.Tensor) and value.dim():
        kinds: list[Callable[[torch.Tensor], Any]] = [
            lambda v: v.to_sparse(),
            lambda v: v.to("meta"),
            lambda v: v.expand(3, *v.shape),
            lambda v: torch.nn.Parameter(v.float()),
            lambda v: v.flatten().float() * float("nan"),
        ]
        state[key] = rng.choice(kinds)(value)


_OF_STATE = (_reshape, _retype, _replace, _rename, _drop, _layout)


def _of_optimizer(state: Values, rng: random.Random) -> None:
    where = rng.randrange(5)
    if where == 0:
        state[rng.choice(["state", "param_groups"])] = rng.choice(_NO_TENSORS)
    elif where == 1:
        group = state["param_groups"][0]
        group["params"] = rng.choice([[], None, [0, 0], [99], [-1], ["a"], group["params"][1:], 3])
    elif where == 2:
        state["state"][rng.choice([0, 1, 99, "a", None])] = rng.choice(_NO_TENSORS)
    elif where == 3:
        inner = state["state"][rng.choice(list(state["state"]))]
        inner[rng.choice([*inner, "other"])] = rng.choice([*_NO_TENSORS, torch.ones(3, 1)])
    else:
        groups = rng.choice([[], [{}], [3], state["param_groups"] * 2, {}, [{"params": None}]])
        state["param_groups"] = groups


def damaged_values(saved: Values, rng: random.Random) -> Any:
    """A copy of what a checkpoint holds, damaged in one place or a few."""
    found = copy.deepcopy(saved)
    model = found["model"] if "optimizer" in found else found
    if "optimizer" in found and rng.random() < 0.6:
        _of_optimizer(found["optimizer"], rng)
        return found
    for _ in range(rng.choice([1, 1, 2, 4])):
        if model:
            rng.choice(_OF_STATE)(model, rng)
    nested = [found, {"state_dict": found}, {"model": found}, [found], {"net": {"net": found}}]
    return rng.choice([found] * 12 + nested)
