"""Trains weightings of the Gramian in each way of computing it, and compares where they come.

Run by `test_ways.py` in a process of its own for each LibMTL: the file to write, then the
weightings' names.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL
import numpy as np
import torch
from micro_batches import Runs, together
from missing_problem import AbsoluteError, SquaredError
from torch import Tensor, nn

from libmtl_recon.gradients import Record
from libmtl_recon.integrations.libmtl import prepared_arguments
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook

WAYS = ("stored", "ghost", "auto")
NAN = float("nan")
# LibMTL's own functions differentiate for these as if every parameter were reached.
ALL_REACHED = ("FairGrad", "Nash_MTL")


class Encoder(nn.Module):
    """Layers by products and by rows, one of them used twice, one frozen and one unreached."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 240), nn.BatchNorm1d(240), nn.Linear(240, 240)
        self.conv = nn.Conv1d(60, 48, 3, padding=1, stride=2)
        self.last = nn.Linear(96, 6)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.one(x)))
        x = torch.tanh(self.two(torch.relu(self.two(x))))
        x = torch.relu(self.conv(x.unflatten(1, (60, 4)))).flatten(1)
        return torch.tanh(self.frozen(self.last(x)) * self.scale)


class WithUnreached(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.unreached = nn.Linear(3, 3)


def seed_all() -> None:
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)


class Count:
    """How often a Gramian was computed from what was noted, and which layers by products."""

    def __init__(self) -> None:
        self.steps, self.products = 0, set[str]()
        own = Record.gramian_as_it_is

        def counted(record: Record, *args: Any) -> Tensor:
            found = own(record, *args)
            self.steps += 1
            self.products |= {one.layer for one in record.ways if one.way == "products"}
            return found

        Record.gramian_as_it_is = counted  # type: ignore[method-assign]


def trained(name: str, way: str, data: Any, **changes: Any) -> dict[str, Tensor]:
    """The parameters after training, and what was counted if it was scored."""
    prepared_arguments.forget()
    prepared_arguments.keep_training({"recon_gradients": way})
    seed_all()
    scored = changes.pop("scored", False)
    hook = ScoringHook()
    encoder = Encoder if name in ALL_REACHED else WithUnreached
    with trainer_hooks(*([hook] if scored else [])):
        given = {"encoder_class": encoder, "optim_param": {"optim": "sgd", "lr": 0.05}}
        trainer = make_trainer(name, 3, **{**given, **changes})
        trainer.train(data, data, epochs=2)
    found = dict(trainer.model.named_parameters())
    found |= {"weights": torch.as_tensor(trainer.batch_weight)}
    found |= {f"gradient of {n}": p.grad for n, p in found.items() if p.grad is not None}
    if scored:
        profile = hook.profile()
        assert profile is not None
        found |= {"counts": torch.from_numpy(profile.counts), "missed": torch.tensor(hook.missed)}
    return {key: value.detach().clone() for key, value in found.items()}


def accumulated(name: str, way: str) -> dict[str, Tensor]:
    prepared_arguments.forget()
    prepared_arguments.keep_training({"recon_gradients": way})
    return together(Runs(name))


def settings(name: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Iterate over settings: the name, the data, and the Trainer's arguments."""
    data = [(x.double(), y) for x, y in batches(3)]
    yield "plain", data, {}
    yield "scored", data, {"scored": True}
    tasks = ("t0", "t1", "t2")
    own = {t: [(x + i, y[t]) for x, y in data] for i, t in enumerate(tasks)}
    yield "multi_input", own, {"multi_input": True}
    task = {"metrics": ["Err"], "weight": [0]}
    measured = {"metrics_fn": AbsoluteError(), "loss_fn": SquaredError()}
    yield (
        "missing labels",
        _some_missing(data),
        {"task_dict": dict.fromkeys(tasks, task | measured)},
    )
    if name == "Nash_MTL":
        arguments = {"update_weights_every": 2, "optim_niter": 20, "max_norm": 0.1}
        yield "every other step", data, {"weight_args": arguments}
    yield "split", data, _recon({"one": 9, "conv": 8})


def _some_missing(data: Any) -> Any:
    """The same as regressions; the second task has no label in some batches."""
    found = []
    for place, (x, labels) in enumerate(data):
        values = {task: y.double()[:, None].repeat(1, 2) for task, y in labels.items()}
        if place % 2:
            values["t1"][:] = NAN
        found.append((x, values))
    return found


def _recon(layers: dict[str, int]) -> dict[str, Any]:
    by_name = detect(LibMTL).by_name
    path = Path(sys.argv[1]).with_name("layers.json")
    path.write_text(json.dumps(layers), encoding="utf-8")
    return {
        "architecture": "Recon" if by_name else LibMTL.architecture.Recon,
        "arch_args": {"recon_layers": str(path), "recon_k": len(layers)},
    }


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference relative to a tensor's largest entry; infinite if one is absent.

    A bias before a batch norm has a gradient of nothing but rounding.
    """
    if found.keys() != wanted.keys():
        return float("inf")
    pairs = [(found[n].double().nan_to_num(-9), wanted[n].double().nan_to_num(-9)) for n in wanted]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-5)) for a, b in pairs)


def main() -> None:
    torch.set_default_dtype(torch.float64)
    path, *names = sys.argv[1:]
    count, found = Count(), {}
    for name in names:
        for key, data, changes in settings(name):
            ways = {}
            for way in WAYS:
                count.steps, count.products = 0, set()
                ways[way] = trained(name, way, data, **changes)
                if way != "stored":
                    error = distance(ways[way], ways["stored"])
                    found[f"{name}, {key}, {way}"] = [error, count.steps, len(count.products)]
        error = distance(accumulated(name, "ghost"), accumulated(name, "stored"))
        found[f"{name}, accumulated, ghost"] = [error, 1, 1]
    Path(path).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
