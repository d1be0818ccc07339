"""Make calls that are not torch functions run once per task for task tensors.

PyTorch has no hook for these: ``torch.autograd.Function.apply``, the recomputation of a
non-reentrant ``torch.utils.checkpoint``, and the wrapping and unwrapping of tensors by the
transforms of ``torch.func``. They are replaced while a split network's ``forward`` runs, and
restored afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch._functorch.eager_transforms
import torch._functorch.vmap
import torch.utils.checkpoint
from torch.autograd import Function

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.checkpoint_compat import GENERATORS, recomputing_alike
from libmtl_recon.splitting.custom_functions import applying_per_task
from libmtl_recon.splitting.differentiating import inside
from libmtl_recon.splitting.transforms import BORDERS, crossing_per_task

_ABSENT = object()


class _Replacement:
    """An attribute that is temporarily replaced.

    Args:
        owner: A module or a class.
        name: The name of the attribute.
        wrap: A function that returns the temporary value, given the original one.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        self.owner, self.name, self.wrap = owner, name, wrap
        self.before = self.wrapped = self.ours = _ABSENT

    def make(self) -> None:
        """Replace the attribute."""
        self.before = vars(self.owner).get(self.name, _ABSENT)
        now = _inherited(self.owner, self.name) if self.before is _ABSENT else self.before
        if now is not self.wrapped:  # else as the last time
            self.wrapped, self.ours = now, self.wrap(now)
        setattr(self.owner, self.name, self.ours)

    def undo(self) -> None:
        """Restore the attribute."""
        if vars(self.owner).get(self.name) is not self.ours:
            return  # somebody else put theirs around ours, which does nothing to plain tensors
        if self.before is _ABSENT:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


class _Replacements:
    """The replacements in force, and the number of ``with`` blocks that use them."""

    def __init__(self) -> None:
        self.lock, self.blocks = Lock(), 0
        self.made: tuple[_Replacement, ...] = ()

    def enter(self) -> None:
        with self.lock:
            if not self.blocks:
                self.made = self.made or tuple(_replacements())
                for replacement in self.made:
                    replacement.make()
            self.blocks += 1
        inside.depth += 1

    def leave(self) -> None:
        inside.depth -= 1
        with self.lock:
            self.blocks -= 1
            if not self.blocks:
                for replacement in reversed(self.made):
                    replacement.undo()


_all = _Replacements()


@contextmanager
def per_task_calls() -> Iterator[None]:
    """Make calls that are not torch functions accept task tensors inside the ``with`` block.

    These are custom autograd functions (``torch.autograd.Function``), ``torch.utils.checkpoint``
    and the transforms of ``torch.func`` (``vmap``, ``grad``, ``jvp`` ...). A split network opens
    such a block around its own ``forward``, and :func:`~libmtl_recon.only_task` around its block.
    Open one yourself to apply such functions to the output of a split network, or to transform a
    split network as a whole.

    The functions are replaced in all threads; for plain tensors, they behave as before.

    Raises:
        ReconError: The installed PyTorch implements checkpoints in an unknown way.

    Example:
        >>> import torch
        >>> from libmtl_recon.splitting import per_task_calls, split_layers
        >>> network = split_layers(torch.nn.Linear(2, 3), ["(root)"], ["left", "right"])
        >>> with per_task_calls():
        ...     torch.vmap(network)(torch.ones(4, 2))["left"].shape
        torch.Size([4, 3])
    """
    _all.enter()
    try:
        yield
    finally:
        _all.leave()


def begin_per_task_calls(*_: Any) -> None:
    """Begin the effect of :func:`per_task_calls`; end it with :func:`end_per_task_calls`."""
    _all.enter()


def end_per_task_calls(*_: Any) -> None:
    """End the effect of :func:`begin_per_task_calls`."""
    _all.leave()


def _replacements() -> Iterator[_Replacement]:
    yield _Replacement(Function, "apply", lambda apply: classmethod(applying_per_task(apply)))
    generator = next((name for name in GENERATORS if hasattr(torch.utils.checkpoint, name)), None)
    if generator is None:
        raise ReconError(
            f"PyTorch {torch.__version__} implements torch.utils.checkpoint differently from the "
            "supported versions, so a split network might recompute another task than in the "
            "forward pass. Install an earlier version of PyTorch."
        )
    alike = functools.partial(recomputing_alike, block=per_task_calls)
    yield _Replacement(torch.utils.checkpoint, generator, alike)
    for module, names in BORDERS:
        for name in names:
            yield _Replacement(module, name, crossing_per_task)


def _inherited(owner: Any, name: str) -> Any:
    return next(vars(parent)[name] for parent in owner.__mro__ if name in vars(parent))
