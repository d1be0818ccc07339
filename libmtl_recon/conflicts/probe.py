"""Count conflicts between task gradients in any training loop."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon._version import __version__
from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.conflicts.probe_arguments import (
    check_provenance,
    check_tasks,
    losses_in_order,
    refuse_not_finite,
)
from libmtl_recon.conflicts.probe_state import checked_probe_state
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.reached_layers import ReachedLayers
from libmtl_recon.conflicts.schedule import FEWEST_STEPS, StabilityCheck, UntilStable
from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.graph_errors import explained
from libmtl_recon.gradients.summed import SummedLosses

# The number of steps between two checks, on other devices than the CPU, that losses were finite.
_CHECK_EVERY = 50


class ConflictProbe:
    """Counter of the conflicts between task gradients, layer by layer, for any training loop.

    :meth:`backward` replaces ``sum(losses).backward()``. Each call is one step. It counts the
    cosine of each pair of task gradients, for each layer in which at least two tasks have a
    gradient, and for all these layers together.

    Layers are the modules of ``network`` with parameters of their own, by name, as in
    :func:`~libmtl_recon.split_layers`. A layer is counted if at least two tasks have had a gradient
    in it, in the same step or in different steps, and if each of its parameters is used by more
    than one task; therefore heads inside the network need not be named. If a layer is frozen in a
    step, or if a task is absent or its loss does not depend on the layer, the cosine is counted as
    undefined.

    Args:
        network: Any module: the network, or the part of it whose layers may be split. It is not
            changed.
        tasks: The T tasks' names, at least two.
        shared: The parameters of the network that the tasks share: for each layer, all of its
            parameters. If None, they are found in the graph of the losses.

    Raises:
        UsageError: ``network`` is not a module, or is wrapped for distributed training; ``tasks``
            are not at least two different names, or not as :func:`~libmtl_recon.split_layers` takes
            them; or ``shared`` are not parameters of the network,
            or only some of a layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from libmtl_recon import ConflictProbe
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> probe = ConflictProbe(network, ["left", "right"])
        >>> for _ in range(3):
        ...     left, right = network(torch.randn(5, 4)).square().mean(dim=0)
        ...     probe.backward({"left": left, "right": right})
        >>> probe.steps, probe.profile().layer_names
        (3, ('0', '2'))
    """

    def __init__(
        self,
        network: nn.Module,
        tasks: Sequence[str],
        *,
        shared: Iterable[nn.Parameter] | None = None,
    ) -> None:
        self.tasks = check_tasks(tasks)
        self._layers = ReachedLayers(network, len(self.tasks), shared)
        self._counter: ConflictCounter | None = None
        self._run = uuid.uuid4().hex[:16]
        self._finite: Tensor | None = None
        # Graphs for which products save nothing; they are not considered again.
        self._by_rows: set[tuple[int, ...]] = set()
        self._passed_over = torch.zeros((), dtype=torch.int64)

    @property
    def steps(self) -> int:
        """The number of steps counted, which are calls of :meth:`backward`."""
        return 0 if self._counter is None else self._counter.steps

    def backward(
        self,
        losses: Mapping[str, Tensor | None] | Sequence[Tensor | None],
        *,
        retain_graph: bool = False,
    ) -> None:
        """Count one step, and add the gradients of ``sum(losses).backward()`` to ``.grad``.

        One backward pass per loss replaces the pass of their sum. The gradient of a parameter that
        one task reaches is bitwise equal to that of the sum; other gradients are equal up to
        rounding, since the tasks' gradients are summed at the parameter and not on the way to it.
        Where it is cheaper, the passes do not compute the gradients of all weights, and an ordinary
        pass of the sum follows. That pass also follows if a module or a parameter has a backward
        hook, or the graph has a custom ``autograd.Function``. All gradients are then bitwise equal
        to those of the sum. Hooks on accumulation (``register_post_accumulate_grad_hook``) are
        called once, with the sum; other hooks are called in each pass.

        A common factor of all losses, such as the scale of a ``GradScaler``, does not change the
        cosines. A step whose gradients overflow, such as the first steps of a scaler, is counted as
        undefined.

        Args:
            losses: One scalar per task, with its graph: a dict by task, or a list in the order of
                the tasks. A task that is not in the dict, or whose loss is None, is absent in this
                step.
            retain_graph: Keep the graph, as for :meth:`torch.Tensor.backward`.

        Raises:
            UsageError: A task is unknown, there is no loss, the list has another length, a loss is
                not a real scalar or has no graph, or two tasks have the same tensor. The step has
                then no effect.
            ReconError: A loss was not finite (on the CPU, checked before the step has an effect; on
                other devices, in one of the last 50 steps), no loss reaches the network, the
                network has other layers than before, the graph was freed, or there is a reentrant
                checkpoint.
        """
        given = losses_in_order(losses, self.tasks)
        present = [place for place, loss in enumerate(given) if loss is not None]
        there = [loss for loss in given if loss is not None]
        self._watch(there, present)
        graph = SummedLosses(there)
        layers = self._layers.reached(graph.tasks, present)
        shape = (graph.nodes, *present)
        with explained("probe.backward", "Pass retain_graph=True if another pass follows."):
            gramians = graph.backward(
                layers,
                modules=self._layers.modules,
                linear=self._layers.linear,
                products=shape not in self._by_rows,
                retain_graph=retain_graph,
            )
        if graph.by_rows:
            self._by_rows.add(shape)
        with torch.no_grad():
            self._count(gramians, present)
        if self.steps % _CHECK_EVERY == 0:
            self._check()

    def profile(self, provenance: Mapping[str, Any] | None = None) -> ConflictProfile:
        """Return the profile of the steps so far, for the layers that at least two tasks reached.

        Args:
            provenance: The origin of the profile, such as ``{"dataset": "MNIST", "seed": 0}``; it
                must be representable in JSON. Date, device, versions, the network's class and the
                probe's own identifier (``run``) are added.

        Raises:
            ReconError: No step was counted, no layer was reached by two tasks, or losses or
                gradients were not finite.
            UsageError: ``provenance`` is not such a mapping.
        """
        more = self._provenance(provenance)
        self._check()
        counter = self._counter
        if counter is None:
            raise ReconError(
                "There is no profile yet, because no step has been counted. Call "
                "probe.backward(losses) in the training loop first."
            )
        passed_over = int(self._passed_over)
        if passed_over == counter.steps:
            raise ReconError(
                f"In all {counter.steps} steps a gradient was not finite (NaN or inf), so there is "
                "no profile. Lower the learning rate, or start with a smaller loss scale."
            )
        if passed_over:
            more["steps_not_finite"] = passed_over
        rows, layers = self._layers.shared()
        whole = counter.profile({})
        return ConflictProfile(
            layers,
            self.tasks,
            whole.counts[:, rows],
            whole.undefined[:, rows],
            whole.block_steps,
            more,
            whole.whole,
        )

    def stable(self, K: int | range | None = 12, *, S: float = -0.1) -> StabilityCheck:
        """Check whether enough steps were counted for a stable choice of the K worst layers.

        The result is true if other steps would choose nearly the same layers, and prints as a
        sentence with the agreement::

            if probe.steps % 50 == 0 and probe.stable(K=12):
                break

        Args:
            K: The number of layers to choose, or a range of such numbers; None for the whole
                ranking.
            S: The severity, a multiple of 0.005 with -1 < S ≤ 0.

        Returns:
            A check that is false below 200 steps, whatever its agreement.

        Raises:
            UsageError: S or K is invalid. K may be at most the number of layers that two tasks
                share, which is known after the first steps in which all tasks were present.
            ReconError: As for :meth:`profile`, but not if no step was counted yet.
        """
        asked = UntilStable.usual(S, K)
        self._layers.check_count("K", K)
        if self.steps < FEWEST_STEPS:
            return asked.too_early(self.steps)
        return asked.check(self.profile())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the probe, for a checkpoint of the training.

        Returns:
            Plain values and tensors, which ``torch.load`` can read with ``weights_only=True``.
        """
        return {
            "tasks": list(self.tasks),
            "run": self._run,
            "passed_over": int(self._passed_over),
            "layers": self._layers.state_dict(),
            "counts": None if self._counter is None else self._counter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned, to continue the same training.

        Args:
            state: The state of a probe of the same network and tasks.

        Raises:
            UsageError: It is not such a state, or is damaged. The probe is then unchanged.
            ReconError: It is the state for other tasks or for a network with other layers.
        """
        state = checked_probe_state(state, self.tasks, self._layers.names, self._layers.sizes)
        self._layers.load_state_dict(state["layers"])
        self._run, self._counter, self._finite = state["run"], None, None
        if state["counts"] is not None:
            self._begin(state["passed_over"]).load_state_dict(state["counts"])

    def _begin(self, passed_over: int = 0) -> ConflictCounter:
        layers = self._layers
        self._counter = ConflictCounter(layers.layers, self.tasks, layers.device)
        self._passed_over = torch.tensor(passed_over, device=self._counter.device)
        return self._counter

    def _watch(self, losses: Sequence[Tensor], present: Sequence[int]) -> None:
        """Record which losses are finite; on the CPU, refuse losses that are not."""
        if all(loss.device.type == "cpu" for loss in losses):
            finite = [bool(loss.isfinite()) for loss in losses]
            refuse_not_finite(
                [self.tasks[at] for at, fine in zip(present, finite, strict=True) if not fine]
            )
            return
        device = next(loss.device for loss in losses if loss.device.type != "cpu")
        if self._finite is None:
            self._finite = torch.ones(len(self.tasks), dtype=torch.bool, device=device)
        found = torch.stack([loss.detach().isfinite().to(self._finite.device) for loss in losses])
        now = self._finite.clone()
        now[list(present)] = found.reshape(-1)
        # Only the first bad step is recorded: its update makes all tasks bad in the next.
        self._finite = torch.where(self._finite.all(), now, self._finite)

    def _check(self) -> None:
        """Check that all losses were finite so far; this synchronises with the device."""
        if self._finite is not None:
            finite = self._finite.tolist()
            refuse_not_finite(
                [task for task, fine in zip(self.tasks, finite, strict=True) if not fine]
            )

    def _count(self, gramians: Tensor, present: Sequence[int]) -> None:
        counter = self._counter or self._begin()
        gramians = gramians.to(counter.device)
        fine = gramians.diagonal(dim1=1, dim2=2).isfinite().all()
        self._passed_over += ~fine
        # A GradScaler skips the update of gradients that overflow, and starts with a scale so large
        # that they do.
        gramians = torch.where(fine, gramians, 0.0)
        counter.record_gramians(gramians, present, self._layers.note(gramians, present))

    def _provenance(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        known = {
            "run": self._run,
            "weighting": "sum of the losses",
            "encoder": self._layers.network,
            "device": str(self._layers.device),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"libmtl-recon": __version__, "torch": torch.__version__},
        }
        return known | check_provenance(given)
