"""Adam for the leader's parameters, with its state in the model's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from libmtl_recon.weighting.following import Following
from libmtl_recon.weighting.full_precision import FullPrecision

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Leader(Following):
    """Adam with moments that are buffers: they are saved, loaded, copied and moved with the model.

    The learning rate is an argument of each step, so that a schedule can be a function of the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments = nn.ModuleDict()

    @torch.no_grad()
    def step(self, parameters: Iterable[tuple[str, nn.Parameter]], lr: float) -> None:
        """Take a step, and remove the gradients.

        Args:
            parameters: Parameters by name; those without a gradient are unchanged, as are their
                moments.
            lr: The learning rate.
        """
        for name, parameter in parameters:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            own = self._moments(name, parameter)
            adam(
                [parameter],
                [gradient],
                [own.mean],
                [own.square],
                [],
                [own.updates],
                # Otherwise each update would synchronise with the device for its number.
                capturable=parameter.is_cuda,
                amsgrad=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                lr=lr,
                weight_decay=0.0,
                eps=_EPSILON,
                maximize=False,
            )

    def _moments(self, name: str, like: Tensor) -> Moments:
        key = name.replace(".", "/")  # A module's name has no dots.
        if key not in self.moments:
            self.moments[key] = Moments(like)
        # They may come from a checkpoint, on another device.
        return self.moments[key].to(like.device)  # type: ignore[return-value]

    def follow(self, source: Leader) -> None:
        """Create the moments of the leader that this is a copy of."""
        for key, moments in source.moments.items():
            if key not in self.moments:
                self.moments[key] = Moments(moments.mean)  # type: ignore[arg-type]

    def make_room(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
        """Create the moments that are in a state; see :meth:`RotoGrad.make_room`."""
        start = f"{prefix}moments."
        for name, value in state_dict.items():
            key, _, kind = name.removeprefix(start).rpartition(".")
            if name.startswith(start) and kind == "mean" and key not in self.moments:
                self.moments[key] = Moments(value)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Moments(FullPrecision):
    """The moments of one parameter's gradient.

    Args:
        like: The parameter.
    """

    mean: Tensor
    square: Tensor
    updates: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros_like(like, requires_grad=False))
        self.register_buffer("square", torch.zeros_like(like, requires_grad=False))
        # In float32 as in torch's Adam, whatever the parameter's dtype.
        self.register_buffer("updates", torch.zeros((), dtype=torch.float32, device=like.device))
