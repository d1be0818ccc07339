"""Batch norms with the statistics of the whole batch, on all ranks (``--recon_sync_bn``).

Each rank sends the others its number of values per channel, their mean and the sum of squared
differences from it; from these all ranks compute the same statistics. The norms' own ``forward``
runs unchanged, and calls :func:`normalised` where it would call PyTorch's function. What differs
between tasks, after the first split of Recon, is normalised per task.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.fillers import counts_for_nothing
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks

_KINDS = nn.modules.batchnorm._BatchNorm
_MARK = "_libmtl_recon_synchronised"


def synchronise(network: nn.Module) -> int:
    """Make a network's batch norms use the statistics of all ranks in training from now on.

    Args:
        network: The network; copies of it do so, too.

    Returns:
        The number of its batch norms.

    Raises:
        ReconError: One is synchronised by PyTorch, which would count fillers.
    """
    norms = [module for module in network.modules() if is_batch_norm(module)]
    for number, norm in enumerate(norms, 1):
        if isinstance(norm, nn.SyncBatchNorm):
            raise ReconError(
                "The network has a torch.nn.SyncBatchNorm, which would count the samples that fill "
                "up a batch with fewer samples than there are ranks. Use torch.nn.BatchNorm2d (or "
                "1d, 3d), which is synchronised as well."
            )
        synchronised = is_synchronised(norm)
        vars(norm)[_MARK] = number  # with which the ranks check that they run the same norm
        if not synchronised:
            norm.register_forward_pre_hook(_enter)
            norm.register_forward_hook(_leave, always_call=True)
    return len(norms)


def count_norms(network: nn.Module) -> int:
    """Return the number of batch norms of a network."""
    return sum(map(is_batch_norm, network.modules()))


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module is one of PyTorch's batch norms."""
    return isinstance(module, _KINDS)


def is_synchronised(module: nn.Module) -> bool:
    """Return whether a module is a batch norm that uses the statistics of all ranks."""
    return _MARK in vars(module)


class _InTheirPlace(TorchFunctionMode):
    """Redirect a batch norm's call of PyTorch's function to :func:`normalised`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (normalised if func is batch_norm else func)(*args, **(kwargs or {}))


_entered: list[tuple[nn.Module, _InTheirPlace]] = []


def _enter(module: nn.Module, _: Any) -> None:
    if ranks() is not None:
        mode = _InTheirPlace()
        mode.__enter__()  # type: ignore[no-untyped-call]
        _entered.append((module, mode))


def _leave(module: nn.Module, _: Any, __: Any) -> None:
    # Called also where another hook has raised before ours was called.
    if _entered and _entered[-1][0] is module:
        _entered.pop()[1].__exit__(None, None, None)  # type: ignore[no-untyped-call]


def normalised(
    input: Tensor,  # the names are those of PyTorch's function
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute :func:`torch.nn.functional.batch_norm` with the statistics of all ranks.

    Args:
        input: ``[N', C, ...]``, this rank's part.
        running_mean: ``[C]``, as in PyTorch; moved towards the whole batch's mean.
        running_var: As in PyTorch.
        weight: As in PyTorch.
        bias: As in PyTorch.
        training: As in PyTorch; if false, the running statistics are used.
        momentum: As in PyTorch.
        eps: As in PyTorch.

    Raises:
        ValueError: The whole batch has only one value per channel.
        ReconError: Another rank is computing another batch norm.
    """
    given = (input, running_mean, running_var, weight, bias)
    if has_torch_function(given):
        found: Tensor = handle_torch_function(
            normalised,
            given,
            input,
            running_mean,
            running_var,
            weight,
            bias,
            training=training,
            momentum=momentum,
            eps=eps,
        )
        return found
    group = ranks()
    if not training or group is None:
        return batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum or 0.0, eps
        )
    own = not counts_for_nothing()
    mean, variance, count = _statistics(input.detach(), group, own=own)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            factor = momentum or 0.0
            running_mean.lerp_(mean.to(running_mean), factor)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var), factor)
    scale = torch.rsqrt(variance + eps)
    output: Tensor = _Normalised.apply(input, mean, scale, count, group, own)
    shape = _shape(input)
    if weight is not None:
        output = output * weight.view(shape)
    if bias is not None:
        output = output + bias.view(shape)
    return output.to(input.dtype)  # as there, also where autocast leaves parameters in float32


def _statistics(input: Tensor, group: Ranks, *, own: bool) -> tuple[Tensor, Tensor, int]:
    """Return mean and variance per channel ``[C]``, and the number of values."""
    values = input.to(_wide(input)).transpose(0, 1).flatten(1)
    count = values.shape[1] if own else 0
    if count:
        variance, mean = torch.var_mean(values, dim=1, correction=0)
    else:
        variance = mean = values.new_zeros(len(values))
    number = vars(_entered[-1][0])[_MARK] if _entered else 0
    told = torch.cat([mean, variance, mean.new_tensor([count, number])])
    with group.sending("batch norms"):
        found = torch.stack(group.gather(told))
    means, variances, counts, numbers = found.split([len(mean), len(mean), 1, 1], dim=1)
    # Both in one transfer, so that the device is waited for once.
    numbered = torch.cat([counts.sum(dim=0), numbers.amin(dim=0), numbers.amax(dim=0)]).tolist()
    if numbered[1] != numbered[2]:
        raise ReconError(
            "The network called different batch norms for the ranks' parts of a batch, for "
            "example because the data decides which layers are used, so that their statistics "
            "cannot be those of the whole batch. Call the same batch norms in every forward pass, "
            "or pass --recon_sync_bn off."
        )
    total = int(numbered[0])
    if total == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got an input of one over all "
            "ranks."
        )
    shares = counts / total
    mean = (means * shares).sum(dim=0)
    variance = ((variances + (means - mean).square()) * shares).sum(dim=0)
    return mean, variance, total


class _Normalised(torch.autograd.Function):
    """(x - mean) · scale, with mean and scale over all ranks' values."""

    # It is linear: applied to a sum of gradients it gives the sum of its results for each.
    is_linear = True

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        mean: Tensor,
        scale: Tensor,
        count: int,
        group: Ranks,
        own: bool,
    ) -> Tensor:
        """Normalise this rank's part."""
        shape = _shape(input)
        output = (input.to(_wide(input)) - mean.view(shape)) * scale.view(shape)
        output = output.to(input.dtype)
        ctx.save_for_backward(output, scale)
        ctx.count, ctx.group, ctx.own, ctx.dtype = count, group, own, input.dtype
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradient of this rank's part; mean and scale depend on all parts."""
        output, scale = ctx.saved_tensors  # once: a checkpoint unpacks them only once
        shape, wide = _shape(output), _wide(output)
        gradient, output = gradient.to(wide), output.to(wide)
        others = [axis for axis in range(gradient.ndim) if axis != 1]
        sums = torch.stack([gradient.sum(dim=others), (gradient * output).sum(dim=others)])
        with ctx.group.sending("batch norms"):
            means = ctx.group.add_up(sums) / ctx.count
        if not ctx.own:  # nothing depends on it
            return torch.zeros_like(output, dtype=ctx.dtype), *[None] * 5
        centred = gradient - means[0].view(shape) - output * means[1].view(shape)
        return (centred * scale.view(shape)).to(ctx.dtype), *[None] * 5


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _shape(input: Tensor) -> tuple[int, ...]:
    return (1, -1, *[1] * (input.ndim - 2))
