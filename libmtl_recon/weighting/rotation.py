"""A learned rotation of a representation's channels, which can be merged into the next layer."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.weighting.full_precision import FullPrecision

Map = Literal["cayley", "matrix_exp"]
MAPS: tuple[Map, ...] = ("cayley", "matrix_exp")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Rotation(FullPrecision):
    """A rotation R ``[m, m]`` of the first m channels, initialised to the identity.

    It is parametrised by :func:`torch.nn.utils.parametrizations.orthogonal`. Under the Cayley map
    and the matrix exponential, R is a product of rotations, so that always det R = 1. Its dtype
    follows the module's, except for float16 and bfloat16, which are too coarse for a rotation.

    Args:
        size: The number of rotated channels m.
        orthogonal_map: The map from the parameters to the rotation.
        representation: The number of channels and of dimensions of the rotated representation.
        device: The device of the parameters.
        dtype: float32 or float64.
    """

    weight: Tensor
    cayley: Tensor
    representation: Tensor

    def __init__(
        self,
        size: int,
        orthogonal_map: Map = "cayley",
        *,
        representation: tuple[int, int] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size, device=device, dtype=dtype))
        orthogonal(self, "weight", orthogonal_map=orthogonal_map)
        self.map: Map = orthogonal_map
        # For checkpoints: the same parameters give another rotation under another map.
        self.register_buffer("cayley", torch.tensor(orthogonal_map == "cayley", device=device))
        shape = torch.tensor(representation or (size, 2), device=device)
        self.register_buffer("representation", shape)
        self._computed = _Computed()

    @property
    def parameter(self) -> nn.Parameter:
        """The learned parameters ``[m, m]``, of which only the part below the diagonal is used."""
        return self.parametrizations.weight.original  # type: ignore[union-attr, return-value]

    def matrix(self) -> Tensor:
        """Return R ``[m, m]``, without a graph; it is recomputed if the parameters have changed."""
        return self._live().detach()

    def start_at(self, matrix: Tensor) -> None:
        """Set the initial rotation.

        Args:
            matrix: ``[m, m]``, a rotation.

        Raises:
            UsageError: It has another size, is not orthogonal or has determinant -1.
        """
        wanted = matrix.detach().to(self.parameter)
        eye = torch.eye(len(self.parameter)).to(wanted)
        close = 1e-4 if wanted.dtype == torch.float32 else 1e-9
        fits = wanted.shape == eye.shape
        if not fits or float((wanted @ wanted.T - eye).abs().max()) > close or wanted.det() < 0:
            raise UsageError(
                "matrix",
                f"must be a rotation of {len(eye)} channels",
                list(matrix.shape),
                "Create one with `torch.linalg.qr`, and change the sign of a column if its "
                "determinant is -1.",
            )
        self.weight = wanted

    def pull(self, gradient: Tensor) -> None:
        """Add the gradient with respect to R to the parameters' ``.grad``.

        Args:
            gradient: ``[m, m]``, the gradient of a loss with respect to R.
        """
        (found,) = torch.autograd.grad(
            self._live(), self.parameter, gradient.to(self.parameter.dtype)
        )
        self._computed.live = None  # Its graph has been freed.
        grad = self.parameter.grad
        self.parameter.grad = found if grad is None else grad + found

    def _live(self) -> Tensor:
        """Return R with its graph to the parameters."""
        parameter, base = self.parameter, self.parametrizations.weight[0].base  # type: ignore[index, union-attr]
        state = (id(parameter), parameter._version, id(base), base._version)
        if self._computed.live is None or self._computed.state != state:
            # A value computed in evaluation is reused in the next training step.
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.autocast(parameter.device.type, enabled=False),
            ):
                self._computed.live = self.weight
            self._computed.state = state
        return self._computed.live

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        other = state_dict.get(f"{prefix}cayley")
        if other is not None and bool(other) != (self.map == "cayley"):
            raise UsageError(
                "map",
                "must be the other one, the map of the loaded rotations",
                self.map,
                "The same parameters give another rotation under another map.",
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._computed.live = None
        return super()._apply(fn, recurse)


class _Computed:
    """A value computed from a module's parameters; a copy of the module computes it again."""

    def __init__(self) -> None:
        self.live: Tensor | None = None
        self.state: Any = None

    def __deepcopy__(self, memo: Any) -> _Computed:
        return _Computed()


def channel_axis(dimensions: int) -> int:
    """Return the axis of a representation's channels.

    It is the last axis of rows ``[B, d]`` and of tokens ``[B, L, d]``, and the axis after the batch
    for images ``[B, C, H, W]`` and volumes.
    """
    return -1 if dimensions <= 3 else 1


def rotate(representation: Tensor, matrix: Tensor) -> Tensor:
    """Rotate the first m channels; for images, at each pixel.

    Args:
        representation: ``[B, C]``, ``[B, L, C]`` or ``[B, C, ...]``, C ≥ m.
        matrix: R ``[m, m]``, of the same dtype.

    Returns:
        In the representation's shape: R z for the first m channels, the others unchanged.
    """
    size, axis = len(matrix), channel_axis(representation.ndim)
    channels = representation.shape[axis]
    block = representation.narrow(axis, 0, size)
    if axis == -1:
        turned = block @ matrix.T
    else:
        turned = (matrix @ block.flatten(2)).unflatten(2, block.shape[2:])
    if size == channels:
        return turned
    return torch.cat([turned, representation.narrow(axis, size, channels - size)], dim=axis)


def rows(representation: Tensor) -> Tensor:
    """Return a representation, or its gradient, as rows of channels ``[N, C]``, one per pixel."""
    axis = channel_axis(representation.ndim)
    return representation.movedim(axis, -1).flatten(0, -2)


def fold_rotation(layer: nn.Module, rotation: Tensor, *, channels: int | None = None) -> nn.Module:
    """Merge a rotation into the linear layer after it.

    Args:
        layer: ``nn.Linear``, or a convolution or transposed convolution with one group.
        rotation: R ``[m, m]``.
        channels: The number of channels of the layer's input, if it differs from the number of
            inputs: an ``nn.Linear`` behind an ``nn.Flatten`` has several inputs per channel, one
            per pixel.

    Returns:
        A copy f' of the layer f, with f'(z) = f(R z).

    Raises:
        ReconError: The layer is not of these kinds, or has several groups.
        UsageError: The rotation is not a square matrix, or the layer has too few channels, or the
            number of its inputs is not a multiple of the channels.

    Example:
        >>> import torch
        >>> layer, z = torch.nn.Linear(2, 3), torch.randn(5, 2)
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> folded = fold_rotation(layer, turn)
        >>> torch.allclose(folded(z), layer(z @ turn.T), atol=1e-6)
        True
    """
    square = isinstance(rotation, Tensor) and rotation.ndim == 2 and len(set(rotation.shape)) == 1
    if not square or not rotation.is_floating_point():
        raise UsageError(
            "rotation",
            "must be a square matrix [m, m], a tensor of floating-point numbers",
            list(rotation.shape) if isinstance(rotation, Tensor) else type(rotation).__name__,
            "RotoGrad.rotation(task) returns the rotation of a task, or None for the identity.",
        )
    if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
        raise ReconError(
            f"A rotation can be merged into nn.Linear and convolutions, not into "
            f"{type(layer).__name__}. Keep the rotation, or put a linear layer first."
        )
    if getattr(layer, "groups", 1) != 1:
        raise ReconError(
            f"A rotation mixes channels, which {type(layer).__name__} with groups={layer.groups} "
            "processes separately, so it cannot be merged into this layer. Keep the rotation."
        )
    # The axis of the inputs is the second in all of these except the transposed convolutions.
    transposed = isinstance(layer, _TRANSPOSED)
    weight = layer.weight.detach().cpu().double()  # MPS has no float64
    weight = weight.transpose(0, 1) if transposed else weight
    inputs, size = weight.shape[1], len(rotation)
    channels = channels or inputs
    if size > channels or inputs % channels:
        raise UsageError(
            "channels",
            f"must be at least the {size} rotated channels, and divide the layer's {inputs} inputs",
            channels,
            "Give the number of channels of the representation.",
        )
    split = weight.unflatten(1, (channels, inputs // channels))
    turned = torch.einsum("oc...,ci->oi...", split[:, :size], rotation.detach().to(split))
    whole = torch.cat([turned, split[:, size:]], dim=1).flatten(1, 2)
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        folded.weight.copy_(whole.transpose(0, 1) if transposed else whole)
    return folded
