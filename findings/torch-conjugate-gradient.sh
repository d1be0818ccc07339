#!/usr/bin/env bash
# PyTorch 2.14.1: a complex parameter that a loss uses by its conjugate gets a gradient that is only
# marked as conjugated (`grad.is_conj()` is True). `torch.optim.SGD` takes it; `torch.optim.Adam` and
# `torch.nn.utils.clip_grad_norm_` raise RuntimeError, so that the same network trains with one
# optimiser and not with the other.
#
# Output seen:
#     is_conj True
#     SGD steps
#     Adam raises RuntimeError
#     clip_grad_norm_ raises RuntimeError
#     Adam steps after grad.resolve_conj()
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn


def outcome(name, call):
    try:
        call()
    except RuntimeError as error:
        return f"{name} raises {type(error).__name__}"
    return f"{name} steps"


weight = nn.Parameter(torch.tensor([1.0 + 2.0j, 3.0 - 1.0j]))
signal = torch.tensor([0.5 + 0.5j, -1.0j])
(weight.conj() * signal).sum().abs().backward()
seen = [
    f"is_conj {weight.grad.is_conj()}",
    outcome("SGD", torch.optim.SGD([weight], lr=0.1).step),
    outcome("Adam", torch.optim.Adam([weight]).step),
    outcome("clip_grad_norm_", lambda: nn.utils.clip_grad_norm_([weight], 1.0)),
]
weight.grad = weight.grad.resolve_conj()
seen.append(outcome("Adam", torch.optim.Adam([weight]).step) + " after grad.resolve_conj()")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "is_conj True",
        "SGD steps",
        "Adam raises RuntimeError",
        "clip_grad_norm_ raises RuntimeError",
        "Adam steps after grad.resolve_conj()",
    ]
)
PYTHON
