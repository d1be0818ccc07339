"""Gramians of gradients that are distributed over ranks.

The gradient of the whole batch is the mean of the ranks' gradients. For a layer that is computed by
products, each rank has its own positions: one rank receives those of all ranks, and multiplies. For
a layer that is computed by rows, each rank receives some columns, and sums the ranks' parts. No
rank has all rows, and the results are T x T numbers per rank, which are summed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.columns import real_rows
from libmtl_recon.gradients.gramian import exact_device, gramian
from libmtl_recon.gradients.products import Deltas
from libmtl_recon.gradients.ranks import Ranks

# The number of columns of the rows that are exchanged at a time.
_COLUMNS = 1 << 20


def refuse_other_graphs(outline: object, ranks: Ranks) -> None:
    """Check that the ranks' networks ran the same operations in a step.

    Args:
        outline: A description of this rank's operations, made of plain values; it is equal on all
            ranks that ran the same operations, whatever the length of their parts of the batch.
        ranks: The ranks.

    Raises:
        ReconError: They ran different operations.
    """
    code = torch.tensor([zlib.crc32(repr(outline).encode())])
    with ranks.sending("plan"):
        codes = torch.cat(ranks.gather(code))
    if bool((codes != codes[0]).any()):
        raise ReconError(
            "The network called different layers on different ranks, for example because layers "
            "are dropped at random or chosen by the data, so products of gradients cannot be "
            "combined. Set `way` to auto, which computes rows in this case."
        )


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Assign each layer to the rank that multiplies for it, so that the work is balanced.

    Args:
        sizes: The number of numbers of each layer; the same on all ranks.
        ranks: The number of ranks.
    """
    load, found = [0] * ranks, [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        found[place] = load.index(min(load))
        load[found[place]] += sizes[place]
    return found


def hand_over(
    layers: Sequence[Sequence[Deltas]], ranks: Ranks, *, exact: bool
) -> list[list[Deltas] | None]:
    """Send each layer's gradients and inputs to one rank.

    Args:
        layers: This rank's gradients, with the same layers and calls on all ranks.
        ranks: The ranks.
        exact: Take products in float64.

    Returns:
        For each layer, the gradients of all ranks if this rank multiplies for it, otherwise None.
    """
    own = [tensor for layer in layers for one in layer for tensor in one.tensors()]
    shapes = ranks.shapes_of(own)
    # By the first rank's sizes, since all ranks must compute the same assignment.
    ends, sizes = 0, []
    for layer in layers:
        begins, ends = ends, ends + 2 * len(layer)
        sizes.append(sum(shape.numel() for shape in shapes[0][begins:ends]))
    of_layer = owners(sizes, ranks.size)
    to = [of_layer[place] for place, layer in enumerate(layers) for _ in range(2 * len(layer))]
    received = iter(ranks.deliver(own, to, shapes))
    found: list[list[Deltas] | None] = []
    for place, layer in enumerate(layers):
        if of_layer[place] != ranks.rank:
            found.append(None)
            continue
        together = []
        for one in layer:
            of_inputs, of_gradients = next(received), next(received)
            for inputs, gradients in zip(of_inputs, of_gradients, strict=True):
                call = _call_elsewhere(one.call, inputs, gradients)
                together.append(Deltas(call, one.tasks, list(gradients), exact=exact))
        found.append(together)
    return found


def _call_elsewhere(call: Call, inputs: Tensor, gradients: Tensor) -> Call:
    return replace(call, inputs=inputs, shape=gradients.shape[1:], version=inputs._version)


def column_blocks(rows: Tensor) -> list[Tensor]:
    """Split rows ``[T, d]`` into blocks of columns, so that copies stay small."""
    return list(rows.split(_COLUMNS, dim=1)) if rows.shape[1] else []


def gramian_of_mean(rows: Tensor, ranks: Ranks) -> Tensor:
    """Compute the Gramian ``[T, T]``, float64, of the mean of the ranks' rows; no rank stores all.

    Args:
        rows: ``[T, d]``, this rank's part.
        ranks: The ranks.
    """
    device = exact_device(rows.device)
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device)
    for block in column_blocks(real_rows(rows)):
        with ranks.sending("rows"):
            sums, _ = ranks.own_columns(block)
        total += gramian(sums)
    with ranks.sending("gramians"):
        return ranks.add_up(total).div_(ranks.size**2)


def add_up_gramians(found: dict[str, Tensor], errors: Tensor, ranks: Ranks) -> None:
    """Replace each layer's Gramian ``[T, T]``, and the errors, by their sums over the ranks.

    Args:
        found: The Gramians by layer, in the same order on all ranks. They are those of the sum of
            the gradients; this function scales them to those of the mean.
        errors: ``[T]``, on the CPU.
        ranks: The ranks.
    """
    if not found:
        return
    layers = list(found.values())
    told = torch.cat([*(one.reshape(-1) for one in layers), errors.to(layers[0])])
    ranks.add_up(told).div_(ranks.size**2)
    *parts, summed = told.split([*(one.numel() for one in layers), len(errors)])
    for name, part in zip(found, parts, strict=True):
        found[name] = part.view(found[name].shape)
    errors.copy_(summed)
