"""Writes down what the authors' program computes, for tests/weighting/test_rotograd_package.py.

The program (``rotograd`` on PyPI) needs ``geotorch==0.3.0``, and two of its versions are wanted, so
each is installed into a folder of its own, and this is run once a version:

    pip install --no-deps --target A rotograd==0.1.6.0
    pip install --no-deps --target B rotograd==0.1.4
    pip install --no-deps --target C geotorch==0.3.0
    PYTHONPATH=A:C python tests/weighting/rotograd_fixtures/make.py
    PYTHONPATH=B:C python tests/weighting/rotograd_fixtures/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rotograd
import rotograd.rotograd as program
import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import rotograd_problem as problem  # noqa: E402


def build(mode: str, kind: str, size: int, rotation_map: str) -> tuple[Any, Any, list[Any]]:
    encoder, heads = problem.networks(kind)
    original = program.orthogonal
    triv = {"matrix_exp": "expm", "cayley": "cayley"}[rotation_map]
    program.orthogonal = lambda module, name, triv_=triv, **_: original(module, name, triv=triv_)
    given = list(heads)
    try:
        if rotograd.__version__ == "0.1.4":
            model = rotograd.RotoGradNorm(encoder, given, size, alpha=1.5)
        else:
            make = {"full": rotograd.RotoGrad, "rotate": rotograd.RotateOnly}[mode]
            # The shape behind the rotated axis; images have two more.
            post = () if kind == "flat" else torch.Size((2, 3))
            model = make(encoder, given, size, post_shape=post)
    finally:
        program.orthogonal = original
    model = model.double()
    for place in range(len(heads)):
        start = problem.rotation(size, seed=9.0 + place)
        getattr(model.parametrizations, f"rotation_{place}")[0].base.copy_(start)
    return model.train(), encoder, heads


def raw(model: Any, place: int) -> Tensor:
    return getattr(model.parametrizations, f"rotation_{place}").original


def run(mode: str, kind: str, size: int, rotation_map: str) -> dict[str, Tensor]:
    model, encoder, heads = build(mode, kind, size, rotation_map)
    own = [p for head in heads for p in head.parameters()]
    optimizer = torch.optim.SGD([*encoder.parameters(), *own], lr=problem.LR)
    leader = torch.optim.SGD(model.parameters(), lr=problem.ROTATION_LR)
    # The heads are parameters of the program's module, too.
    leader.param_groups[0]["params"] = [
        p for p in model.parameters() if all(p is not q for q in own)
    ]
    found: dict[str, Tensor] = {}
    for step in range(problem.STEPS):
        x = problem.inputs(kind, step)
        predictions = model(x)
        if step == 0:
            model.rep.register_hook(lambda g: found.update(representation=g.clone()))
        optimizer.zero_grad()
        leader.zero_grad()
        model.backward(problem.losses(x, predictions))
        if step == 0:
            found["encoder"] = torch.cat([p.grad.flatten() for p in encoder.parameters()])
            found["heads"] = torch.cat([p.grad.flatten() for p in own])
            found["rotations"] = torch.stack([raw(model, k).grad for k in range(len(heads))])
            if mode == "gradnorm":
                found["weights"] = torch.stack([w.grad for w in model.weight_])
        optimizer.step()
        leader.step()
    with torch.no_grad():
        found["encoder_end"] = torch.cat([p.flatten() for p in encoder.parameters()])
        found["heads_end"] = torch.cat([p.flatten() for p in own])
        found["rotations_end"] = torch.stack([r.detach() for r in model.rotation])
        if mode == "gradnorm":
            found["weights_end"] = torch.stack(list(model.weight_))
    return found


if __name__ == "__main__":
    version = rotograd.__version__
    arrays = {}
    for wanted, *case in problem.cases():
        if wanted == version:
            name = "-".join(map(str, case))
            for key, value in run(*case).items():
                arrays[f"{name}/{key}"] = value.detach().numpy()
    np.savez_compressed(HERE / f"rotograd-{version}.npz", **arrays)
