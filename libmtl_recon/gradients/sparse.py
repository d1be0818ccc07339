"""Assignment of sparse gradients as sparse tensors, which some optimisers require."""

from __future__ import annotations

import torch
from torch import Tensor

from libmtl_recon.gradients import columns


class Touched:
    """The entries of the tasks' sparse gradients in a step, by parameter.

    The gradients of ``nn.Embedding(sparse=True)`` are sparse, with the rows that a batch looks up.
    The weighted sum of the tasks' gradients has the rows of all tasks.
    """

    def __init__(self) -> None:
        self._masks: dict[int, Tensor] = {}
        self._dense: set[int] = set()

    def clear(self) -> None:
        """Remove all entries."""
        self._masks, self._dense = {}, set()

    def note(self, parameter: Tensor, gradient: Tensor) -> None:
        """Record the entries of a gradient."""
        if not gradient.is_sparse:
            self._dense.add(id(parameter))
            return
        shape = gradient.shape[: gradient.sparse_dim()]
        mask = self._masks.get(id(parameter))
        if mask is None:
            mask = torch.zeros(shape, dtype=torch.bool, device=gradient.device)
            self._masks[id(parameter)] = mask
        if mask.shape == shape:
            mask[tuple(gradient._indices())] = True
        else:
            self._dense.add(id(parameter))

    def gradient_of(self, part: Tensor, parameter: Tensor) -> Tensor:
        """Return a parameter's gradient from its columns ``[w]`` of a vector.

        It is sparse if all recorded gradients are. It then also has the entries that are nonzero
        for another reason: a weighting may add gradients of earlier steps.
        """
        dense = columns.gradient_of(columns.part_of(part, parameter), parameter)
        mask = self._masks.get(id(parameter))
        if mask is None or id(parameter) in self._dense:
            return dense
        held = mask | (dense != 0).reshape(*mask.shape, -1).any(dim=-1)
        indices = held.nonzero().T
        return torch.sparse_coo_tensor(
            indices,
            dense[tuple(indices)],
            dense.shape,
            check_invariants=False,
            is_coalesced=True,
        )
