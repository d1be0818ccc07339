"""GradOPS as a LibMTL weighting."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from LibMTL.weighting.abstract_weighting import AbsWeighting
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.gradients import quick_gramian
from libmtl_recon.integrations.libmtl.data_parallel.environment import is_first
from libmtl_recon.integrations.libmtl.step.step import assign_grad, present_tasks, task_rows
from libmtl_recon.integrations.libmtl.step.task_gradients import shared_gradients
from libmtl_recon.weighting.checking import check_losses
from libmtl_recon.weighting.gradops import GradOPSStep, check_static, gradops_step
from libmtl_recon.weighting.gradops_log import CSVLog
from libmtl_recon.weighting.gradops_tensorboard import TensorBoardLog

# Not attributes of the models, which scripts copy and save: open files can be neither.
_logs: weakref.WeakKeyDictionary[Any, _Logs] = weakref.WeakKeyDictionary()


class GradOPS(AbsWeighting):  # type: ignore[misc]  # LibMTL is untyped
    """``--weighting GradOPS``: Algorithm 1 of the GradOPS paper on the shared parameters.

    ``--gradops_alpha`` is the exponent α of Eq. 5, ``--gradops_weights`` the static weights of
    Appendix C.3. Decoders, and layers that Recon made task-specific, are updated by their own
    task's gradient.
    """

    takes_missing_labels = True

    @staticmethod
    def check_arguments(tasks: Sequence[str], weight_args: Mapping[str, Any]) -> None:
        """Check the arguments that depend on the tasks, before a Trainer builds anything.

        Raises:
            UsageError: The static weights are not one per task.
        """
        static = weight_args.get("gradops_weights")
        if static is not None:
            alpha = weight_args.get("gradops_alpha", 0.0)
            with naming(alpha="--gradops_alpha"):
                check_static("--gradops_weights", static, len(tasks), alpha)

    def init_param(self) -> None:
        """Refuse what GradOPS is not defined for, before the first step."""
        # In a step in which a task has no label, `task_name` holds the others only.
        self._all_tasks = tuple(self.task_name)
        if self.rep_grad:
            raise UsageError(
                "--rep_grad",
                "cannot be combined with --weighting GradOPS, which projects the gradients of the "
                "shared parameters, not of the representation",
                True,
                "Leave --rep_grad out.",
            )
        if not any(p.requires_grad for p in self.get_share_params()):
            raise ReconError(
                "--weighting GradOPS needs shared parameters that train, and this network has "
                "none: every layer is task-specific or frozen. Lower --recon_k, unfreeze a "
                "layer, or use --weighting EW."
            )

    def backward(self, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
        """Compute one step's gradients, with the GradOPS update on the shared parameters.

        Args:
            losses: ``[P]``, with their graph: one per task that is present.
            **kwargs: Those of ``gradops_alpha`` (default 0), ``gradops_stationary``,
                ``gradops_weights``, ``gradops_log`` and ``gradops_tensorboard`` that were given.

        Returns:
            The weights ``[P]`` of the original gradients.

        Raises:
            ReconError: A task's gradient is not finite.
            UsageError: The losses are not one per task.
        """
        check_losses(losses, self.task_name)
        gradients = shared_gradients(self, losses, quick_gramian)
        self._refuse_non_finite(gradients.matrix)
        step = gradops_step(
            gradients.matrix,
            kwargs.get("gradops_alpha", 0.0),
            self._static(kwargs),
            kwargs.get("gradops_stationary", "stop"),
        )
        gradients.hand_out(step.weights)
        if ("gradops_log" in kwargs or "gradops_tensorboard" in kwargs) and is_first():
            self._log(step, kwargs)
        return np.asarray(step.weights)

    def _static(self, kwargs: Mapping[str, Any]) -> list[float] | None:
        """Return this step's static weights; over all tasks, present or not, their mean is 1."""
        given = kwargs.get("gradops_weights")
        if given is None:
            return None
        mean = sum(given) / len(given)
        return [given[place] / mean for place in present_tasks(self)]

    def _log(self, step: GradOPSStep, kwargs: Mapping[str, Any]) -> None:
        logs = _logs.get(self)
        if logs is None:
            logs = _logs[self] = _Logs(self._all_tasks, kwargs)
            weakref.finalize(self, logs.close)
        logs.write(getattr(self, "epoch", None), step, present_tasks(self))

    def _compute_grad(self, losses: Tensor, mode: str, rep_grad: bool = False) -> Tensor:
        # LibMTL's name and layout, so that code that reads per-task gradients there reads ours.
        return task_rows(self, losses)

    def _reset_grad(self, new_grads: Tensor) -> None:
        # Not LibMTL's own, which expects what its own `_compute_grad` has left.
        assign_grad(self, new_grads)

    def _refuse_non_finite(self, matrix: Tensor) -> None:
        broken = ~torch.isfinite(matrix.diagonal())
        if bool(broken.any()):
            names = [name for name, bad in zip(self.task_name, broken, strict=True) if bad]
            raise ReconError(
                f"The gradient of task {', '.join(map(repr, names))} is not finite (NaN or inf), "
                "so training stops here. Look at this task's loss and labels, or lower --lr."
            )


class _Logs:
    """Logs that one model writes, from its first step on."""

    def __init__(self, tasks: Sequence[str], kwargs: Mapping[str, Any]) -> None:
        self._steps = 0
        self._open: list[CSVLog | TensorBoardLog] = []
        if "gradops_log" in kwargs:
            alpha = None if "gradops_weights" in kwargs else kwargs.get("gradops_alpha", 0.0)
            with naming(file="--gradops_log"):
                self._open.append(CSVLog(kwargs["gradops_log"], tasks, alpha))
        if "gradops_tensorboard" in kwargs:
            with naming(folder="--gradops_tensorboard"):
                self._open.append(TensorBoardLog(kwargs["gradops_tensorboard"], tasks))

    def write(self, epoch: int | None, step: GradOPSStep, present: Sequence[int]) -> None:
        self._steps += 1
        for log in self._open:
            with naming(file="--gradops_log"):
                log.write(self._steps, epoch, step, present)

    def close(self) -> None:
        for log in self._open:
            log.close()
