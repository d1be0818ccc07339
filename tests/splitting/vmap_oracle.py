"""Another way to split a network: one call of the plain one, mapped over stacked parameters.

By ``torch.func.vmap(functional_call)``, which shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Computed(NamedTuple):
    """What T networks computed, each with a dimension in front for the tasks.

    Attributes:
        outputs: ``[T, ...]``.
        buffers: By their names in the plain network, after the call.
        own: The leaves that hold the tasks' own parameters, by their names.
        shared: The leaves that all tasks share, without that dimension.
    """

    outputs: Tensor
    buffers: dict[str, Tensor]
    own: dict[str, Tensor]
    shared: dict[str, Tensor]


def computed(
    plain: nn.Module,
    own: Sequence[Mapping[str, Tensor]],
    buffers: Sequence[Mapping[str, Tensor]],
    x: Tensor,
) -> Computed:
    """Call a plain network once for all tasks.

    Args:
        plain: Not changed; what it shares between modules is one parameter, of one name.
        own: Each task's own parameters, by their names.
        buffers: Each task's own buffers, by their names; the others are the network's.
        x: All tasks' input.
    """
    tasks = len(own)
    stacked = {
        name: torch.stack([one[name].detach() for one in own]).requires_grad_() for name in own[0]
    }
    shared = {
        name: value.detach().clone().requires_grad_()
        for name, value in plain.named_parameters()
        if name not in stacked
    }
    kept = {
        name: torch.stack([one.get(name, value).detach() for one in buffers])
        for name, value in plain.named_buffers()
    }
    # All is mapped over, as what is not cannot be written into by what is.
    each = {name: value.expand(tasks, *value.shape) for name, value in shared.items()}

    def one_task(parameters: dict[str, Tensor], state: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(plain, {**parameters, **state}, (x.clone(),))

    outputs = vmap(one_task)({**stacked, **each}, kept, x.expand(tasks, *x.shape))
    return Computed(outputs, kept, stacked, shared)
