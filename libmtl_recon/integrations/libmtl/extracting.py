"""Take one task's network out of a trained model, once its script has built it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl.architectures.extract import extract_task
from libmtl_recon.integrations.libmtl.architectures.starting import load_split
from libmtl_recon.integrations.libmtl.hooks import TrainerHook
from libmtl_recon.splitting.checkpoint import Checkpoint
from libmtl_recon.splitting.pytree import leaves
from libmtl_recon.texts import did_you_mean


class ExtractingHook(TrainerHook):
    """Loads a checkpoint into the first model that is built, and takes a task's network out of it.

    The run ends with ``StopRun`` at the first batch, without training on it: the network is
    compared with the model on that batch.

    Args:
        task: The task's name.
        checkpoint: Checkpoint of the trained model.
    """

    def __init__(self, task: str, checkpoint: Checkpoint) -> None:
        self.network: nn.Module | None = None
        self.inputs: Any = None
        self.attached = False
        self._task = task
        self._checkpoint = checkpoint

    def built(self, trainer: Any) -> None:
        """Load the checkpoint, and wait for the first batch.

        Raises:
            UsageError: The script has no such task.
            ReconError: The checkpoint does not fit the model.
        """
        if self.attached:
            return
        self.attached = True
        model, names = trainer.model, list(trainer.task_name)
        if self._task not in names:
            raise UsageError(
                "--task",
                "must be one of the script's tasks",
                self._task,
                f"{did_you_mean(self._task, names)}They are: {', '.join(names)}.",
            )
        load_split(model, self._checkpoint)
        model.eval()
        network = extract_task(model, self._task)
        model.register_forward_pre_hook(lambda _, args: self._compare(model, network, args))

    def _compare(self, model: Any, network: nn.Module, args: tuple[Any, ...]) -> None:
        from libmtl_recon.integrations.libmtl.hooks import StopRun

        inputs, *task = args
        if task not in ([], [None], [self._task]):
            return  # with `multi_input`, another task's batch
        model.eval()
        with torch.no_grad():
            # Not the model's own method, which may compute in another precision.
            expected = type(model).forward(model, *args)[self._task]
            found = network(inputs)
            found = found if isinstance(network, nn.Sequential) else found[self._task]
        if not _close(found, expected):
            raise ReconError(
                f"The network of task {self._task} does not have the same outputs as the model, "
                "so nothing was written. Its architecture computes something that its encoder and "
                "decoder alone do not."
            )
        self.network, self.inputs = network, inputs
        raise StopRun


def export_program(network: nn.Module, inputs: Any, file: str | Path) -> None:
    """Write a network as a program of ``torch.export``, for batches of any size.

    Args:
        network: On any device; the program is for the CPU.
        inputs: One batch.
        file: The file, usually with the ending ``.pt2``.

    Raises:
        ReconError: The network cannot be exported, or the file cannot be written.
    """
    batch = torch.export.Dim("batch")
    # A batch of one would be treated as a fixed size.
    inputs = tree_map(_two_or_more, inputs)
    sizes = tree_map(lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, inputs)
    try:
        program = torch.export.export(network.cpu(), (inputs,), dynamic_shapes=(sizes,))
    except Exception as error:  # whatever the network's code raises
        raise _not_exported(error) from error
    try:
        torch.export.save(program, file)
    except (OSError, RuntimeError) as error:
        raise ReconError(f"Cannot write {file}: {str(error).rstrip('.')}.") from error
    except Exception as error:  # saving checks the program once more
        raise _not_exported(error) from error


def _not_exported(error: Exception) -> ReconError:
    said = str(error).strip() or type(error).__name__
    return ReconError(
        "torch.export cannot export this network for batches of any size (sizes of the first "
        f"dimension of its inputs): {said.splitlines()[0]}"
    )


def _two_or_more(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    return torch.cat([leaf, leaf]) if len(leaf) == 1 else leaf


def _close(found: Any, expected: Any) -> bool:
    """Return whether two predictions are equal up to the rounding of a merged rotation."""
    return all(map(_equal, leaves(found), leaves(expected)))


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(other, Tensor) or not other.numel():
        return True
    one, other = one.double(), other.double()
    size = float(other.abs().nan_to_num(0.0, 0.0).max())
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size, equal_nan=True)
