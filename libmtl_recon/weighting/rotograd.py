"""RotoGrad: learned rotations that align the tasks' gradients, and one common magnitude.

Sources: Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022;
for the mode ``gradnorm`` the first version, "RotoGrad: Dynamic Gradient Homogenization for
Multitask Learning", with the authors' program of that version (rotograd 0.1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.weighting.checking import check_task, check_tasks, named_losses
from libmtl_recon.weighting.following import Following
from libmtl_recon.weighting.rotation import Rotation, rotate
from libmtl_recon.weighting.rotograd_compared import Compared, compare
from libmtl_recon.weighting.rotograd_cuts import Cuts
from libmtl_recon.weighting.rotograd_formulas import (
    gradnorm_gradient,
    gradnorm_weights,
    scaling_weights,
    training_rates,
)
from libmtl_recon.weighting.rotograd_history import History, Seen
from libmtl_recon.weighting.rotograd_settings import RotoGradSettings, check_channels


class RotoGrad(Following):
    """Rotations between a shared representation and its heads, with their backward pass.

    Head k gets r = Rₖ z instead of the representation z. In :meth:`backward`, the heads get the
    gradients of their own losses. With gₖ the gradient of loss k with respect to z over the whole
    batch, the layers before z get the gradient of the mode:

    * ``full``: C Σ gₖ/‖gₖ‖ (ICLR 2022, section 4.1; :func:`scaling_weights`);
    * ``rotate``: Σ gₖ;
    * ``scale``: as ``full``, without rotations;
    * ``gradnorm``: Σ wₖ gₖ with the learned weights of GradNorm, applied to the representation.

    The rotations get the gradient of L_rot,k = -Σₙ ⟨Rₖᵀ g̃ₙₖ, vₙ⟩ (section 4.2), where g̃ₙₖ is the
    gradient of loss k with respect to the n-th row of r, and vₙ the mean of the tasks' gₙₖ/‖gₖ‖. In
    ``gradnorm`` vₙ is the mean of rₖ gₙₖ/‖gₖ‖ times the norm of the mean gradient, and the loss is
    the squared distance of Rₖ vₙ and g̃ₙₖ, averaged over the batch, which has the same direction.
    Use a separate optimiser over ``parameters()``, which learns more slowly than that of the
    network: its learning rate must decrease faster than the network's.

    All state except that of the optimiser is in ``state_dict()``; a module that has not been used
    yet creates the rotations of the state that is loaded.

    Args:
        tasks: The tasks' names.
        size: The number of rotated channels; None: all channels of the first representation. For a
            representation ``[B, d]`` or ``[B, L, d]`` the channels are the last axis; for
            ``[B, C, H, W]`` they are the second axis, with one rotation for all pixels.
        mode: ``full``, ``rotate``, ``scale`` or ``gradnorm``; see above.
        map: The parametrisation of the rotations: ``cayley`` or ``matrix_exp``.
        burn_in: The first norms and losses are recorded at the first step, and again at this step.
        every: The number of steps between two gradients of the rotations.
        alpha: The exponent of GradNorm, for ``gradnorm``.
        objective: ``package`` multiplies L_rot as the authors' program 0.1.6 does: by twice the
            norm of the mean gradient, and for shapes other than ``[B, d]`` by 1/B.

    Raises:
        UsageError: An argument is invalid.

    Example:
        >>> import torch
        >>> encoder = torch.nn.Linear(4, 8)
        >>> heads = torch.nn.ModuleDict({task: torch.nn.Linear(8, 1) for task in ("left", "up")})
        >>> rotograd = RotoGrad(["left", "up"], size=8)
        >>> optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], lr=1e-2)
        >>> leader = torch.optim.Adam(rotograd.parameters(), lr=1e-3)
        >>> slowly = torch.optim.lr_scheduler.ExponentialLR(leader, gamma=0.999)
        >>> for _ in range(3):
        ...     x = torch.randn(16, 4)
        ...     wanted = {"left": x[:, :1], "up": x[:, 1:2]}
        ...     z = encoder(x)
        ...     losses = {
        ...         task: (head(rotograd.rotate(z, task)) - wanted[task]).square().mean()
        ...         for task, head in heads.items()
        ...     }
        ...     optimizer.zero_grad()
        ...     leader.zero_grad()
        ...     weights = rotograd.backward(losses)
        ...     optimizer.step()
        ...     leader.step()
        ...     slowly.step()
        >>> weights.shape, rotograd.steps
        (torch.Size([2]), 3)
    """

    def __init__(self, tasks: Sequence[str], size: int | None = None, **settings: Any) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)
        self.settings = RotoGradSettings(size=size, **settings)
        self.cuts = Cuts()
        self.history = History(len(self.tasks))
        self.rotations = nn.ModuleDict()
        self.log_weights = nn.ParameterDict()
        if self.settings.mode == "gradnorm":
            self._make_log_weights()
        if size is not None and self.settings.mode != "scale":
            self._make_rotations(size, (size, 2), self.history.first_norms)

    @property
    def steps(self) -> int:
        """The number of steps."""
        return int(self.history.steps)

    def rotation(self, task: str) -> Tensor | None:
        """Return the rotation ``[m, m]`` of a task; None denotes the identity.

        Raises:
            UsageError: There is no such task.
        """
        check_task(task, self.tasks)
        return self._of(task).matrix() if task in self.rotations else None

    def rotate(self, representation: Tensor, task: str) -> Tensor:
        """Return the rotated input of a task's head. Call it once per task and step.

        In training the graph is cut here; :meth:`backward` continues behind the cut.

        Args:
            representation: z: ``[B, d]``, ``[B, L, d]`` or ``[B, C, ...]``, of any floating dtype.
            task: The head's task.

        Returns:
            R z, in the shape and dtype of z. It is computed in at least float32.

        Raises:
            UsageError: There is no such task, or z has fewer channels than are rotated.
        """
        matrix = self.rotation(task)
        check_channels(len(matrix) if matrix is not None else self.settings.size, representation)
        dtype = torch.promote_types(representation.dtype, torch.float32)
        with torch.autocast(representation.device.type, enabled=False):
            source = representation.to(dtype)
            if matrix is not None:
                source = rotate(source, matrix.to(dtype))
        if self.training and torch.is_grad_enabled():
            source = self.cuts.add(task, source)
        return source.to(representation.dtype)

    def backward(
        self,
        losses: Mapping[str, Tensor],
        *,
        same_rows: bool = True,
        ranks: Ranks | None = None,
        samples: int | None = None,
    ) -> Tensor:
        """Compute all gradients: of the heads, of the layers before z, and of the rotations.

        The heads' graphs are traversed once, from the sum of the losses, and the encoder's graph
        once, from the representations.

        Args:
            losses: One scalar per task, for the tasks that have labels in this step. The state of
                the other tasks, and of tasks whose gradient is zero, does not change.
            same_rows: Whether the n-th row of every task's representation belongs to the same
                sample. If not (each task has its own inputs), or if the shapes differ, the
                gradients are summed over their rows before they are compared.
            ranks: The ranks of data-parallel training, each with a part of the samples: the losses
                are those of all ranks, and the gradients of this rank's part are W times as long,
                for W ranks.
            samples: The number of samples of all ranks.

        Returns:
            ``[P]``, float64, on the CPU: the factor of each task's gradient.

        Raises:
            ReconError: A gradient is not finite, a head did not get the result of :meth:`rotate`,
                or, in ``gradnorm``, a loss is negative.
            UsageError: The losses are not one scalar per task, by name, or the rotations do not
                match the settings.
        """
        losses = named_losses(losses, self.tasks)
        self._refuse_others()
        names = list(losses)
        cuts = [self.cuts.of(task) for task in names]
        try:
            roots = [loss for loss in losses.values() if loss.requires_grad]
            if roots:
                torch.autograd.backward(roots)
            gradients = [cut.gradient() for cut in cuts]
            own = gradients if ranks is None else [g / ranks.size for g in gradients]
            seen = self.history.look(
                names,
                [self.tasks.index(name) for name in names],
                list(losses.values()),
                own,
                self.settings.burn_in,
                ranks,
            )
            weights = self._weigh(
                names,
                own,
                seen,
                partial(compare, same_rows=same_rows, ranks=ranks, samples=samples),
            )
            used = [k for k, cut in enumerate(cuts) if cut.source.requires_grad and weights[k] != 0]
            if used:
                torch.autograd.backward(
                    [cuts[k].source for k in used],
                    [gradients[k] * float(weights[k]) for k in used],
                )
        finally:
            self.cuts.clear()
        self.history.steps += 1
        return weights

    def _weigh(
        self,
        names: list[str],
        gradients: list[Tensor],
        seen: Seen,
        compare: Callable[..., Compared],
    ) -> Tensor:
        """Return the factors ``[P]`` of the gradients; set the learned parameters' gradients."""
        mode = self.settings.mode
        moving = seen.norms > 0
        weights = scaling_weights(seen.norms, seen.first_norms)
        if mode in ("rotate", "gradnorm"):
            weights = moving.double()
        turning = mode != "scale" and seen.step % self.settings.every == 0
        # A single gradient has nothing to align with, and Adam would turn the rounding error of its
        # pull into a full step.
        turning = turning and int(moving.sum()) > 1
        if not bool(moving.any()) or not (turning or mode == "gradnorm"):
            return weights
        # A task whose gradient is zero is treated as absent.
        there = moving.nonzero().flatten().tolist()
        own = [names[k] for k in there]
        if not self.rotations:
            first = gradients[there[0]]
            channels = check_channels(self.settings.size, first)
            self._make_rotations(self.settings.size or channels, (channels, first.ndim), first)
        compared = compare(
            [gradients[k] for k in there],
            [self.rotation(task) for task in own],
        )
        rates = [1.0] * len(own)
        if mode == "gradnorm":
            _refuse_negative(own, seen.losses[there])
            paces = training_rates(
                seen.losses[there], seen.first_losses[there], self.settings.alpha
            )
            weights[there] = self._learn_weights(own, compared, paces)
            rates = paces.tolist()
        if turning:
            flat = gradients[there[0]].ndim == 2
            self._pull(own, compared, rates, flat=flat)
        return weights

    def _learn_weights(self, names: list[str], compared: Compared, rates: Tensor) -> Tensor:
        """Return the weights of GradNorm ``[P]``, and set their parameters' gradient."""
        if not self.log_weights:
            self._make_log_weights()
        parameters = [self.log_weights[task] for task in names]
        weights = gradnorm_weights(torch.stack([p.detach() for p in parameters]).cpu().double())
        found = [*compared.norms(), compared.mean_norm(weights.tolist())]
        *norms, common = torch.stack(found).cpu().double()
        gradients = gradnorm_gradient(weights, torch.stack(norms), common, rates)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            _add_gradient(parameter, gradient)
        return weights

    def _pull(
        self, names: list[str], compared: Compared, rates: list[float], *, flat: bool
    ) -> None:
        """Set the rotations' gradients."""
        target = compared.target(len(self._of(names[0]).parameter), rates)
        gradnorm = self.settings.mode == "gradnorm"
        if gradnorm or self.settings.objective == "package":
            samples = compared.samples if gradnorm or not flat else 1
            target *= 2.0 / samples * compared.mean_norm([1.0] * len(names))
        for name, gradient in zip(names, compared.pulls(target), strict=True):
            self._of(name).pull(gradient)

    def _make_rotations(self, size: int, shape: tuple[int, int], like: Tensor) -> None:
        for task in self.tasks:
            self.rotations[task] = Rotation(
                size, self.settings.map, representation=shape, device=like.device, dtype=like.dtype
            )

    def _make_log_weights(self) -> None:
        like = self.history.first_norms
        for task in self.tasks:
            self.log_weights[task] = nn.Parameter(like.new_zeros(()))

    def _of(self, task: str) -> Rotation:
        return self.rotations[task]  # type: ignore[return-value]  # it only contains rotations

    def _refuse_others(self) -> None:
        """Check that the rotations of a checkpoint match the settings."""
        if not self.rotations:
            return
        rotation, settings = self._of(self.tasks[0]), self.settings
        size = len(rotation.parameter)
        for parameter, found, wanted in (
            ("size", size, settings.size or size),
            ("map", rotation.map, settings.map),
            ("mode", "full", "scale" if settings.mode == "scale" else "full"),
        ):
            if found != wanted:
                raise UsageError(
                    parameter,
                    f"must be {found}, as for the rotations that were loaded",
                    wanted,
                    "Use the settings with which they were trained.",
                )

    def follow(self, source: RotoGrad) -> None:
        """Create the rotations and the GradNorm weights of the module that was copied."""
        here = self.history.steps.device
        if source.rotations and not self.rotations:
            for task in self.tasks:
                known = source._of(task)
                self.rotations[task] = Rotation(
                    len(known.parameter), known.map, device=here, dtype=known.parameter.dtype
                ).train(self.training)
                self._of(task).representation.copy_(known.representation)
        if source.log_weights and not self.log_weights:
            self._make_log_weights()

    def make_room(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
        """Create the parameters of a state that this module lacks, before the state is loaded.

        Args:
            state_dict: The state that will be loaded.
            prefix: The prefix of this module's names in it.

        Raises:
            ReconError: The state has other tasks.
        """
        start, end = f"{prefix}rotations.", ".parametrizations.weight.original"
        found = {
            name.removeprefix(start).removesuffix(end): value
            for name, value in state_dict.items()
            if name.startswith(start) and name.endswith(end)
        }
        if found and set(found) != set(self.tasks):
            raise ReconError(
                f"The checkpoint has rotations for the tasks {', '.join(sorted(found))}, but the "
                f"model's tasks are {', '.join(sorted(self.tasks))}. Use the same names for the "
                "tasks."
            )
        if found and not self.rotations:
            for task in self.tasks:
                cayley = bool(state_dict[f"{start}{task}.cayley"])
                self.rotations[task] = Rotation(
                    len(found[task]),
                    "cayley" if cayley else "matrix_exp",
                    device=self.history.steps.device,
                    dtype=found[task].dtype,
                )
        learned = any(name.startswith(f"{prefix}log_weights.") for name in state_dict)
        if learned and not self.log_weights:
            self._make_log_weights()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _refuse_negative(names: list[str], losses: Tensor) -> None:
    negative = [name for name, loss in zip(names, losses, strict=True) if loss < 0]
    if negative:
        raise ReconError(
            f"The loss of task {', '.join(map(repr, negative))} is negative, and RotoGrad's mode "
            "gradnorm compares each loss with its first value. Use the mode full."
        )


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    gradient = gradient.to(parameter)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
