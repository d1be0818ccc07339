"""Losses and metrics of the whole batch, on every rank.

All ranks' predictions and labels are concatenated, and each rank computes the losses of all of
them. Its own predictions keep their graphs. Their gradient is multiplied by the number of ranks, so
that the mean over the ranks is the gradient of one process, also where weights, averages or missing
labels make a loss not a sum over samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.batch_norm import count_norms
from libmtl_recon.integrations.libmtl.data_parallel.fillers import was_known
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.data_parallel.randomness import drawing_as_first


class _Known:
    """The last concatenated values, so that the meter need not compute them again."""

    def __init__(self, most: int) -> None:
        self._found: deque[tuple[list[ref[Tensor]], Any]] = deque(maxlen=most)

    def find(self, preds: Any, gts: Any) -> Any:
        leaves = tree_leaves((preds, gts))
        for own, whole in self._found:
            if len(own) == len(leaves) and all(
                one() is leaf for one, leaf in zip(own, leaves, strict=True)
            ):
                return whole
        return None

    def add(self, preds: Any, gts: Any, whole: Any) -> None:
        # Neither holds the step's graph.
        own = [ref(leaf) for leaf in tree_leaves((preds, gts))]
        self._found.append((own, tree_map(Tensor.detach, whole)))


_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()
# Models whose losses of the whole batch were computed since their last `backward`.
_computed: WeakSet[Any] = WeakSet()
# Trainers whose loaders give this rank's part of each batch.
_sliced: WeakSet[Any] = WeakSet()
# Number of samples in each model's last batch.
_samples: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def of_whole_batch(
    proceed: Callable[..., Any], trainer: Any, /, preds: Any, gts: Any, task_name: str | None = None
) -> Any:
    """Pass the predictions and labels of all ranks to ``_compute_loss``."""
    group = ranks()
    if group is None:
        return proceed(trainer, preds, gts, task_name)
    known = _known.get(trainer.meter)
    if known is None:
        known = _known[trainer.meter] = _Known(trainer.task_num)
    if trainer not in _sliced:
        raise ReconError(
            "LibMTL's Trainer._prepare_dataloaders was not called for the data loaders of this "
            "training, so that each rank has whole batches, and different ones. Call it in the "
            "script's own Trainer, as LibMTL's train and test do, or train in one process."
        )
    _refuse_unknown_filler(trainer.model, gts)
    whole = together(preds, gts, group)
    known.add(preds, gts, whole)
    if torch.is_grad_enabled():
        _computed.add(trainer.model)
        # By the labels: a prediction may have a row per pixel.
        _samples[trainer.model] = max(map(len, tree_leaves(whole[1])), default=0)
    with drawing_as_first(group, trainer.device):
        return proceed(trainer, *whole, task_name)


def note_sliced(trainer: Any) -> None:
    """Record that a Trainer's data loaders give this rank's part of each batch."""
    _sliced.add(trainer)


def _refuse_unknown_filler(model: Any, gts: Any) -> None:
    """Refuse to train batch norms with a filler's sample in the batch."""
    labels = tree_leaves(gts)
    empty = bool(labels) and all(isinstance(one, Tensor) and len(one) == 0 for one in labels)
    known = was_known()
    if empty and not known and torch.is_grad_enabled() and model.training and count_norms(model):
        raise ReconError(
            "A batch has fewer samples than there are ranks, and the substitute sample of a rank "
            "without samples did not reach the model as it was loaded (the script's Trainer makes "
            "another tensor of it), so that batch norms would count it. Use drop_last=True, or a "
            "batch size that leaves a last batch with a sample for each rank."
        )


def samples_of(model: Any) -> int | None:
    """Return the number of samples in a model's last batch on all ranks; None in one process."""
    return _samples.get(model)


def refuse_other_losses(model: Any) -> None:
    """Refuse a ``backward`` of losses that cover only this rank's part of a batch.

    Raises:
        ReconError: No losses of the whole batch were computed since the last one.
    """
    if model not in _computed:
        raise ReconError(
            "The losses of this step do not come from LibMTL's Trainer._compute_loss, so that "
            "each rank has those of its own part of the batch only, and the weights would be "
            "wrong. Call super()._compute_loss(preds, gts) in the script's own Trainer, or train "
            "in one process."
        )
    _computed.discard(model)


def measured_whole(
    proceed: Callable[..., None],
    meter: Any,
    /,
    preds: Any,
    gts: Any,
    task_name: str | None = None,
) -> None:
    """Pass the predictions and labels of all ranks to the meter."""
    group = ranks()
    if group is None:
        proceed(meter, preds, gts, task_name)
        return
    known = _known.get(meter)
    whole = None if known is None else known.find(preds, gts)
    if whole is None:
        whole = together(preds, gts, group)
    with drawing_as_first(group, _device_of(whole)):
        proceed(meter, *whole, task_name)


def together(preds: Any, gts: Any, group: Ranks) -> tuple[Any, Any]:
    """Concatenate the predictions and labels of all ranks, in the order of the batch.

    Args:
        preds: This rank's: tensors ``[N', ...]``, in any nesting. Those of a filler, which has no
            labels, are left out.
        gts: Its labels, in the same form.
        group: The ranks.

    Returns:
        The same with N samples.

    Raises:
        ReconError: They are not tensors, or the ranks' differ in more than their number of rows.
    """
    own_preds, of_preds = tree_flatten(preds)
    own_gts, of_gts = tree_flatten(gts)
    for leaf in (*own_preds, *own_gts):
        if not isinstance(leaf, Tensor) or not leaf.ndim:
            found = "a number" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ReconError(
                f"A prediction or label is {found}, and only tensors with one row per sample can "
                "be combined from several ranks. Train this script in one process, or return "
                "tensors."
            )
    if own_gts and all(len(leaf) == 0 for leaf in own_gts):
        own_preds = [leaf[:0] for leaf in own_preds]
    with group.sending("predictions"):
        everyone = group.gather_all([leaf.detach() for leaf in (*own_preds, *own_gts)])
    lengths = [[len(of_rank[place]) for of_rank in everyone] for place in range(len(everyone[0]))]
    if len(own_preds) == len(own_gts):
        for of_pred, of_gt in zip(
            lengths[: len(own_preds)], lengths[len(own_preds) :], strict=True
        ):
            _refuse_other_rows(of_pred, of_gt)
    joined = []
    for place, own in enumerate((*own_preds, *own_gts)):
        parts = [of_rank[place] for of_rank in everyone]
        parts[group.rank] = _magnified(own, group.size)
        if len({part.shape[1:] for part in parts}) > 1:
            raise ReconError(
                "The ranks' predictions, or labels, have different shapes "
                f"({', '.join(str(list(part.shape)) for part in parts)}), for example because a "
                "collate_fn pads to the longest of its samples. Pad all batches to one size."
            )
        joined.append(torch.cat(parts))
    whole = joined[: len(own_preds)], joined[len(own_preds) :]
    return tree_unflatten(whole[0], of_preds), tree_unflatten(whole[1], of_gts)


def _refuse_other_rows(of_predictions: list[int], of_labels: list[int]) -> None:
    """Refuse predictions whose number of rows per sample differs between ranks."""
    rows, samples = sum(of_predictions), sum(of_labels)
    pairs = zip(of_predictions, of_labels, strict=True)
    if any(own * samples != labels * rows for own, labels in pairs):
        raise ReconError(
            "A prediction does not have the samples along its first axis (the ranks have "
            f"{of_predictions} rows for {of_labels} samples), so that the ranks' parts cannot be "
            "combined. Return predictions [N, ...] from the network, or train in one process."
        )


def _magnified(own: Tensor, size: int) -> Tensor:
    """Return the same tensor with its gradient multiplied by a factor.

    Uses a hook of a tensor that nothing else refers to: a custom autograd function would have to
    be treated as possibly not linear.
    """
    if not own.requires_grad:
        return own
    view = own.view_as(own)
    view.register_hook(lambda gradient: gradient * size)
    return view


def _device_of(whole: tuple[Any, Any]) -> torch.device:
    for leaf in tree_flatten(whole)[0]:
        if isinstance(leaf, Tensor):
            return leaf.device
    return torch.device("cpu")
