"""Counting conflicts in any training loop."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.conflicts.probe_arguments import (
    check_provenance,
    check_tasks,
    losses_in_order,
    refuse_not_finite,
)
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.reached_layers import ReachedLayers
from libmtl_recon.conflicts.schedule import FEWEST_STEPS, StabilityCheck, UntilStable
from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.summed import SummedLosses

# How often a device other than the CPU is waited for, to see that all losses were finite.
_CHECK_EVERY = 50


class ConflictProbe:
    """Counts how often the gradients of tasks point apart, layer by layer, in any training loop.

    :meth:`backward` takes the place of ``sum(losses).backward()``. Each call is one step: of each
    layer that at least two tasks reach, and of all these layers together, it counts the cosine of
    each pair of task gradients.

    Layers are those of ``network``, by its modules' names, as
    :func:`~libmtl_recon.split_layers` knows them. A layer counts if two tasks have had a gradient
    in it, in the same step or in different ones, and if none of its parameters belongs to one task
    alone; so heads inside the network need no naming. In the steps in which a layer is frozen, not
    reached by a task, or the task is absent, its cosines are counted as undefined.

    Args:
        network: Any module: the network, or the part of it whose layers may be split. Not changed.
        tasks: The T tasks' names, at least two.
        shared: The parameters of the network that the tasks share, whole layers; None: they are
            found in the graph of the losses.

    Raises:
        UsageError: ``network`` is no network, or wrapped for distributed training; ``tasks`` are
            not at least two different names; or ``shared`` are no parameters of the network, or
            only a part of a layer's.

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
        # Graphs in which nothing is saved by products: it is not looked for again.
        self._by_rows: set[tuple[int, ...]] = set()
        self._passed_over = torch.zeros((), dtype=torch.int64)

    @property
    def steps(self) -> int:
        """How many steps were counted: calls of :meth:`backward`."""
        return 0 if self._counter is None else self._counter.steps

    def backward(
        self,
        losses: Mapping[str, Tensor | None] | Sequence[Tensor | None],
        *,
        retain_graph: bool = False,
    ) -> None:
        """Count one step, and add to ``.grad`` what ``sum(losses).backward()`` adds.

        It makes one backward pass per loss in the place of the one of their sum. The gradient of a
        parameter that one task reaches is the same to the last bit; of others it is the same up to
        rounding, since the tasks' gradients are summed at the parameter and not on the way to it.
        Where it is cheaper, the passes need not make the gradients of all weights, and an ordinary
        pass of the sum follows; it also follows where a module or a parameter has a backward hook,
        or the graph has a custom ``autograd.Function``. Then all gradients are the same to the
        last bit. Hooks of where gradients arrive (``register_post_accumulate_grad_hook``) see the
        sum, once; others see each pass.

        A common factor of all losses, such as that of a ``GradScaler``, does not change cosines.
        A step whose gradients overflow, as the first ones of a scaler do, is counted as undefined.

        Args:
            losses: One scalar per task, with its graph: a dict by task, or a list in the order of
                the tasks. A task that the dict does not have, or whose loss is None, is absent in
                this step.
            retain_graph: Keep the graph, as for :meth:`torch.Tensor.backward`.

        Raises:
            UsageError: A task is unknown, there is no loss at all or another number than tasks, or
                a loss is no real scalar or has no graph. Nothing was done then.
            ReconError: A loss was not finite (on the CPU, before anything is done; elsewhere in
                one of the last 50 steps), no loss reaches the network, the network has other
                layers than before, or there is a reentrant checkpoint.
        """
        given = losses_in_order(losses, self.tasks)
        present = [place for place, loss in enumerate(given) if loss is not None]
        there = [loss for loss in given if loss is not None]
        self._watch(there, present)
        graph = SummedLosses(there)
        layers = self._layers.reached(graph.tasks, present)
        shape = (graph.nodes, *present)
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
        """What was counted so far, of the layers that at least two tasks have reached.

        Args:
            provenance: What is known of where it comes from, such as ``{"dataset": "MNIST",
                "seed": 0}``; must be representable in JSON. Date, device, versions, the network's
                class and the probe's own mark (``run``) are added.

        Raises:
            ReconError: Nothing was counted, no layer was reached by two tasks, or losses or
                gradients were not finite.
            UsageError: ``provenance`` is no such mapping.
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
        """Whether there were steps enough: whether others would choose the same K worst layers.

        The answer is true where more steps would hardly change the choice, and prints as a
        sentence that says how sure it is::

            if probe.steps % 50 == 0 and probe.stable(K=12):
                break

        Args:
            K: How many layers are to be chosen, or a range of such numbers; None asks for the
                whole ranking.
            S: The severity, a multiple of 0.005 with -1 < S ≤ 0.

        Returns:
            False below 200 steps, whatever the numbers in it say.

        Raises:
            UsageError: S or K breaks its rule.
            ReconError: As for :meth:`profile`, except that nothing need be counted yet.
        """
        asked = UntilStable.usual(S, K)
        self._layers.check_count("K", K)
        if self.steps < FEWEST_STEPS:
            return asked.too_early(self.steps)
        return asked.check(self.profile())

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far, for a checkpoint of the training.

        Returns:
            Plain values and tensors, which ``torch.load`` reads with ``weights_only=True``.
        """
        return {
            "tasks": list(self.tasks),
            "run": self._run,
            "passed_over": int(self._passed_over),
            "layers": self._layers.state_dict(),
            "counts": None if self._counter is None else self._counter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned: in the same training, after a pause.

        Args:
            state: That of a probe of the same network and tasks.

        Raises:
            ReconError: It is that of other tasks or of a network with other layers.
        """
        if list(state["tasks"]) != list(self.tasks):
            raise ReconError(
                f"The state is of a ConflictProbe for the tasks {state['tasks']}, but this probe "
                f"is for {list(self.tasks)}. Create it with the same tasks in the same order."
            )
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
        """Note which losses are finite; of those on the CPU no others are taken."""
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
        # Kept from the first bad step only: its update spoils all the tasks in the next.
        self._finite = torch.where(self._finite.all(), now, self._finite)

    def _check(self) -> None:
        """Stop if a loss was not finite so far; waits for the device."""
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
        # A GradScaler makes no update by gradients that overflow, and begins with a scale so large
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
            "versions": {"libmtl-recon": version("libmtl-recon"), "torch": torch.__version__},
        }
        return known | check_provenance(given)
