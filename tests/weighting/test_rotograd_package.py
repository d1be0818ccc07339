"""RotoGrad beside the authors' program: the same gradients, and the same after 60 steps.

What the program computes is kept in `rotograd_fixtures`, with the script that made it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rotograd_problem as problem
import torch
from torch import Tensor

from libmtl_recon.weighting.rotograd import RotoGrad

FIXTURES = Path(__file__).parent / "rotograd_fixtures"


def flat(tensors: list[Tensor | None]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors if t is not None])


def run(mode: str, kind: str, size: int, rotation_map: str) -> dict[str, Tensor]:
    encoder, heads = problem.networks(kind)
    ours = RotoGrad(
        problem.TASKS, size, mode=mode, map=rotation_map, alpha=1.5, objective="package"
    ).double()
    rotations = [ours.rotations[task] for task in problem.TASKS]
    for place, rotation in enumerate(rotations):
        rotation.start_at(problem.rotation(size, seed=9.0 + place))
    logs = list(ours.log_weights.values())
    with torch.no_grad():
        for log in logs:
            log.fill_(1.0)  # where the program starts; it is a softmax of equal numbers anyway
    own = [p for head in heads for p in head.parameters()]
    optimizer = torch.optim.SGD([*encoder.parameters(), *own], lr=problem.LR)
    leader = torch.optim.SGD(ours.parameters(), lr=problem.ROTATION_LR)
    found: dict[str, Tensor] = {}
    for step in range(problem.STEPS):
        x = problem.inputs(kind, step)
        z = encoder(x)
        if step == 0:
            z.register_hook(lambda g: found.update(representation=g.clone()))
        predictions = [
            head(ours.rotate(z, t)) for t, head in zip(problem.TASKS, heads, strict=True)
        ]
        optimizer.zero_grad()
        leader.zero_grad()
        ours.backward(dict(zip(problem.TASKS, problem.losses(x, predictions), strict=True)))
        if step == 0:
            found["encoder"] = flat([p.grad for p in encoder.parameters()])
            found["heads"] = flat([p.grad for p in own])
            found["rotations"] = torch.stack([r.parameter.grad for r in rotations])
            if mode == "gradnorm":
                found["weights"] = torch.stack([log.grad for log in logs])
        optimizer.step()
        leader.step()
    found["encoder_end"] = flat(list(encoder.parameters()))
    found["heads_end"] = flat(own)
    found["rotations_end"] = torch.stack([r.matrix() for r in rotations])
    if mode == "gradnorm":
        found["weights_end"] = torch.stack(logs)
    return found


@pytest.mark.parametrize("case", list(problem.cases()), ids=str)
def test_agrees_with_the_authors_program(case: tuple[str, str, str, int, str]) -> None:
    version, *chosen = case
    name = "-".join(map(str, chosen))
    with np.load(FIXTURES / f"rotograd-{version}.npz", allow_pickle=False) as kept:
        wanted = {
            key.partition("/")[2]: torch.from_numpy(kept[key])
            for key in kept
            if key.startswith(f"{name}/")
        }
    found = run(*chosen)
    assert set(found) == set(wanted)
    assert len(wanted) == (9 if chosen[0] == "gradnorm" else 7)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key].detach(), value, rtol=1e-12, atol=1e-12)
