"""Count cosines of task gradients while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.conflicts.file_format import check_size
from libmtl_recon.conflicts.grid import BINS, EDGES
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import cosines, exact_device, layer_gramians

MOST_BLOCKS = 20


class ConflictCounter:
    """Counter of the cosines of each pair of task gradients, per layer.

    The cosines of the gradient of all layers together are counted as well.

    All counts stay on the device until :meth:`profile` is called.

    Args:
        layers: The L layers.
        tasks: The T tasks' names, at least two.
        device: The device of the gradients.

    Raises:
        ReconError: There are fewer than two tasks, no layers, or more than a profile can hold.
    """

    def __init__(
        self, layers: Sequence[Layer], tasks: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        if len(tasks) < 2:
            raise ReconError(
                f"A conflict is between two tasks, and this run has {len(tasks)}: {list(tasks)}. "
                "Score a network that at least two tasks train together."
            )
        if not layers:
            raise ReconError(
                "This network has no trainable shared layer, so there is nothing to score."
            )
        try:
            check_size(len(layers), MOST_BLOCKS)
        except ValueError as error:
            raise ReconError(f"The profile of this network could not be kept: {error}.") from error
        self.layers = tuple(layers)
        self.tasks = tuple(tasks)
        self.steps = 0
        self._widths = [layer.parameters for layer in layers]
        self.device = exact_device(torch.device(device))
        self._edges = torch.from_numpy(EDGES[1:-1].copy()).to(self.device)
        self._block_length = 1
        # One more column than bins: the last counts undefined cosines. One more row than layers:
        # the last is for the gradient of all layers.
        self._blocks: list[Tensor] = []
        self._block_steps: list[int] = []
        self._broken = torch.zeros(len(layers), len(tasks), dtype=torch.bool, device=self.device)

    def record(self, gradients: Tensor, present: Sequence[int] | None = None) -> None:
        """Count one step.

        Args:
            gradients: ``[P, d]``, one row per task of the step; the columns are the layers'
                trainable parameters, flattened in order (each number of a complex one takes two
                columns, as in :func:`libmtl_recon.gradients.task_gradients`).
            present: The places of these tasks among all T; None if all are present. The cosines
                of an absent task, which has no label in the step, are undefined.

        Raises:
            UsageError: The number of rows or columns is wrong.
        """
        self._refuse_another_shape(gradients, present)
        self.record_gramians(layer_gramians(gradients, self._widths), present)

    def record_gramians(
        self,
        gramians: Tensor,
        present: Sequence[int] | None = None,
        counted: Tensor | None = None,
    ) -> None:
        """Count one step, given the inner products of its gradients.

        Args:
            gramians: ``[L, P, P]``, float64: the Gramians of the layers, in order; zeros for a
                layer that no task reaches.
            present: As for :meth:`record`.
            counted: ``[L]``, bool: the layers that are part of the gradient of all layers; None
                for all.
        """
        gramians = gramians.to(self.device)
        if present is not None and len(present) < len(self.tasks):
            gramians = self._among_all(gramians, present)
        # Only the first bad step is recorded: its update makes all tasks bad in the next.
        broken = ~torch.isfinite(gramians.diagonal(dim1=1, dim2=2))
        self._broken = torch.where(self._broken.any(), self._broken, broken)
        parts = gramians if counted is None else gramians * counted[:, None, None]
        cosine = cosines(torch.cat([gramians, parts.sum(dim=0, keepdim=True)]))
        # With `right` a cosine on an edge is counted in the bin above it: bins are [low, high).
        bins = torch.bucketize(cosine, self._edges, right=True)
        bins = torch.where(torch.isnan(cosine), BINS, bins)
        block = self._current_block()
        block.scatter_add_(1, bins, torch.ones_like(bins))
        self._block_steps[-1] += 1
        self.steps += 1

    def _refuse_another_shape(self, gradients: Tensor, present: Sequence[int] | None) -> None:
        rows = len(self.tasks) if present is None else len(present)
        width = sum(self._widths) // (2 if gradients.is_complex() else 1)
        if tuple(gradients.shape) == (rows, width):
            return
        raise UsageError(
            "gradients",
            f"must have {rows} rows, one per task, and {width} columns, one per element of the "
            "parameters of the counter's layers, which are the trainable parameters",
            list(gradients.shape),
            "Compute the gradients of these parameters alone, without frozen ones: "
            "task_gradients(losses, [p for p in net.parameters() if p.requires_grad]).",
        )

    def profile(self, provenance: Mapping[str, Any]) -> ConflictProfile:
        """Return the profile of the steps counted so far.

        Args:
            provenance: The origin of the profile; it must be representable in JSON.

        Raises:
            ReconError: A gradient was not finite; the message names the task and the layer.
        """
        self.check()
        counts = np.zeros((0, len(self.layers) + 1, BINS + 1), np.int64)
        if self._blocks:
            counts = torch.stack(self._blocks).cpu().numpy()
        return ConflictProfile(
            self.layers,
            self.tasks,
            counts[:, :-1, :BINS].copy(),
            counts[:, :-1, BINS].copy(),
            np.array(self._block_steps, np.int64),
            dict(provenance),
            counts[:, -1].copy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the counter, of tensors and integers."""
        return {
            "blocks": [block.to("cpu", copy=True) for block in self._blocks],
            "block_steps": list(self._block_steps),
            "block_length": self._block_length,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` of a counter for the same layers returned."""
        self._blocks = [block.to(self.device, copy=True) for block in state["blocks"]]
        self._block_steps = list(state["block_steps"])
        self._block_length = state["block_length"]
        self.steps = sum(self._block_steps)

    def _among_all(self, gramians: Tensor, present: Sequence[int]) -> Tensor:
        """Return Gramians ``[L, P, P]`` as ``[L, T, T]``, with zeros for absent tasks."""
        places = torch.tensor(list(present), dtype=torch.int64, device=gramians.device)
        everything = gramians.new_zeros(len(gramians), len(self.tasks), len(self.tasks))
        everything[:, places[:, None], places] = gramians
        return everything

    def _current_block(self) -> Tensor:
        if not self._blocks or self._block_steps[-1] >= self._block_length:
            if len(self._blocks) == MOST_BLOCKS:
                self._merge_blocks()
            shape = (len(self.layers) + 1, BINS + 1)
            self._blocks.append(torch.zeros(shape, dtype=torch.int64, device=self.device))
            self._block_steps.append(0)
        return self._blocks[-1]

    def _merge_blocks(self) -> None:
        """Merge pairs of blocks, so that long runs have longer blocks, but not more of them."""
        halves = range(0, MOST_BLOCKS, 2)
        self._blocks = [self._blocks[i] + self._blocks[i + 1] for i in halves]
        self._block_steps = [self._block_steps[i] + self._block_steps[i + 1] for i in halves]
        self._block_length *= 2

    @property
    def finite(self) -> Tensor:
        """Return whether all gradients were finite so far, a scalar on the device."""
        return ~self._broken.any()

    def check(self) -> None:
        """Check that all gradients were finite so far; this synchronises with the device.

        Raises:
            ReconError: One was not; the message names the task and the layer.
        """
        broken = self._broken.cpu().tolist()
        for layer, row in zip(self.layers, broken, strict=True):
            names = [repr(task) for task, bad in zip(self.tasks, row, strict=True) if bad]
            if names:
                raise ReconError(
                    f"The gradient of task {', '.join(names)} in layer {layer.title!r} was not "
                    "finite (NaN or inf) while scoring. Look at this task's loss and labels, or "
                    "lower the learning rate."
                )
