"""Nash-MTL, of "Multi-Task Learning as a Bargaining Game" (ICML 2022), Section 3.1 and Algorithm 1.

The bargaining solution is the minimum of a smooth convex function of T numbers. It is computed by
Newton's method up to rounding, without a package for convex optimisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.states import checked_state, is_whole
from libmtl_recon.weighting.checked_gramian import check_gramian, of_gramian
from libmtl_recon.weighting.checking import (
    check_count,
    check_number,
    check_same_shape,
    is_vector,
)
from libmtl_recon.weighting.fair import fair_or_zero, fair_weights

_NO_LIMIT = "Leave it out for no limit."


def nash_mtl_weights(gramian: Any, *, max_norm: float | None = None) -> Tensor:
    """Return the weights of the task gradients whose combination is Nash-MTL's update.

    They are the w > 0 with M w = 1 / w (Claim 3.1): the smaller a task's weight, the larger its
    gain, and the update increases no loss. Its length is √T, whatever the gradients' lengths.

    Args:
        gramian: ``[T, T]``, M, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        max_norm: The length to which a longer update is shortened; the authors use 1. Default: no
            limit.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64): above 0,
        except for gradients of zero, which are left out and have weight 0. All weights are 0 where
        there is no bargaining solution, because some convex combination of the other gradients is
        zero, up to rounding, and no direction improves all tasks.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, or ``max_norm`` is not a
            number of at least 0.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 0.5]])
        >>> nash_mtl_weights(gradients @ gradients.T).round(decimals=4).tolist()
        [0.25, 2.0]
    """
    check_max_norm(max_norm)

    def solve(matrix: Tensor) -> Tensor:
        found = fair_or_zero(matrix, 1.0)
        return found if max_norm is None else shortened(found, matrix, max_norm)

    return of_gramian(gramian, solve)


class NashMTL:
    """Nash-MTL for a training loop, with the state of its Algorithm 1.

    Weights are computed in every ``update_weights_every``-th step and kept in between. If there is
    no bargaining solution, the weights of the last step are kept (initially ones), as in the
    authors' code.

    Args:
        update_weights_every: The number of steps between two computations of the weights.
        max_norm: The length to which a longer update is shortened, or None for no limit.

    Raises:
        UsageError: ``update_weights_every`` is not an integer of at least 1, or ``max_norm`` is not
            a number of at least 0.

    Example:
        >>> import torch
        >>> nash = NashMTL(update_weights_every=10, max_norm=None)
        >>> nash.weights(torch.diag(torch.tensor([16.0, 0.25]))).round(decimals=4).tolist()
        [0.25, 2.0]
    """

    def __init__(self, update_weights_every: int = 1, max_norm: float | None = 1.0) -> None:
        self.update_weights_every = check_count("update_weights_every", update_weights_every)
        self.max_norm = check_max_norm(max_norm)
        self.reset()

    @property
    def tasks(self) -> int | None:
        """The number of tasks of the state; None before the first step."""
        return None if self._last is None else len(self._last)

    def reset(self) -> None:
        """Forget all steps."""
        self._step = 0
        self._last: Tensor | None = None

    def weights(self, gramian: Any) -> Tensor:
        """Return the weights of this step, and count it.

        Args:
            gramian: ``[T, T]``, as for :func:`nash_mtl_weights`.

        Returns:
            ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64).

        Raises:
            UsageError: The Gramian is not a Gramian matrix of finite numbers, or the number of
                tasks differs from the last step's.
        """
        matrix = check_gramian(gramian)
        own = matrix.cpu()
        last = torch.ones_like(own[0]) if self._last is None else self._last
        check_same_shape(own, last.expand(len(last), -1))
        if self._step % self.update_weights_every == 0:
            found = fair_or_zero(own, 1.0)
            last = found if bool(found.any()) else last
        self._step, self._last = self._step + 1, last
        limited = last if self.max_norm is None else shortened(last, own, self.max_norm)
        return limited.to(matrix.device)

    def state_dict(self) -> dict[str, Any]:
        """Return a state for :meth:`load_state_dict`: the number of steps and the last weights."""
        return {"step": self._step, "weights": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned.

        Raises:
            UsageError: It is another, or damaged.
        """
        holds = {"step": is_whole, "weights": lambda one: one is None or is_vector(one)}
        found = checked_state("NashMTL", state, holds)
        # Weights are there from the first step on.
        checked_state("NashMTL", found, {"weights": lambda w: (w is None) == (found["step"] == 0)})
        weights = found["weights"]
        self._step = found["step"]
        self._last = None if weights is None else weights.detach().cpu().double().clone()


def shortened(weights: Tensor, matrix: Tensor, max_norm: float) -> Tensor:
    """Scale weights so that their combination of gradients is no longer than ``max_norm``.

    Args:
        weights: ``[T]``, float64.
        matrix: ``[T, T]``, float64: the gradients' Gramian.
        max_norm: The maximum length.
    """
    length = float((weights @ matrix @ weights).clamp_min(0.0).sqrt())
    return weights * (max_norm / length) if length > max_norm else weights


def check_max_norm(max_norm: float | None) -> float | None:
    """Check the maximum length of an update, and return it."""
    return None if max_norm is None else check_number("max_norm", max_norm, 0.0, way_out=_NO_LIMIT)


def bargained(gramian: NDArray[Any]) -> NDArray[np.float64] | None:
    """Compute the weights w > 0 with M w = 1 / w (Claim 3.1).

    Args:
        gramian: ``[T, T]``, M, of the task gradients.

    Returns:
        ``[T]``; None where there are no such weights, because some convex combination of the
        gradients is zero, or a gradient is zero or not finite.
    """
    return fair_weights(gramian, 1.0)
