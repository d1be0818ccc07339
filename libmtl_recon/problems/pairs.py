"""Pairs of overlapping images, assembled one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from libmtl_recon import Masked


@dataclass(frozen=True)
class Items:
    """Small images with their classes.

    Attributes:
        images: uint8 ``[N, h, w]``.
        labels: int64 ``[N]``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Items:
        """Return the items at these places."""
        chosen = torch.from_numpy(index)
        return Items(self.images[chosen], self.labels[chosen])


class Pairs(Dataset[Any]):
    """Images of two items, one at the top left and one at the bottom right.

    Where they overlap, the brighter pixel is used. Which items are paired, and where, is drawn
    once; the images are assembled on request, a whole batch at a time.

    Args:
        first: The items at the top left.
        second: The items at the bottom right.
        tasks: The names of the two items' labels.
        count: The number of pairs.
        canvas: Height and width of the images, in pixels.
        jitter: Largest number of pixels by which an item may be moved from its corner, downwards
            or upwards and sideways, each drawn independently.
        brightest: The value that becomes 1.
        missing: The share of labels that are removed, drawn independently per pair and task.
        seed: Seeds of the draw; the same seeds give the same pairs.

    Example:
        >>> items = Items(torch.full((3, 2, 2), 9, dtype=torch.uint8), torch.arange(3))
        >>> pairs = Pairs(items, items, ("a", "b"), count=4, canvas=3, brightest=9)
        >>> images, labels = pairs[[0, 2]]
        >>> images.shape, sorted(labels)
        (torch.Size([2, 1, 3, 3]), ['a', 'b'])
    """

    def __init__(
        self,
        first: Items,
        second: Items,
        tasks: tuple[str, str],
        *,
        count: int,
        canvas: int,
        jitter: int = 0,
        brightest: int = 255,
        missing: float = 0.0,
        seed: Sequence[int] = (0,),
    ) -> None:
        self.items = dict(zip(tasks, (first, second), strict=True))
        self.canvas, self.brightest = canvas, brightest
        rng = np.random.default_rng(list(seed))
        self.chosen = {
            task: torch.from_numpy(rng.integers(len(items), size=count))
            for task, items in self.items.items()
        }
        away = {task: torch.from_numpy(rng.integers(jitter + 1, size=(count, 2))) for task in tasks}
        height, width = second.images.shape[1:]
        far = torch.tensor([canvas - height, canvas - width])
        self.corners = {tasks[0]: away[tasks[0]], tasks[1]: far - away[tasks[1]]}
        # Drawn last, so that the images are the same however many labels are missing.
        self.present = (
            {task: torch.from_numpy(rng.random(count) >= missing) for task in tasks}
            if missing
            else None
        )

    def __len__(self) -> int:
        return len(next(iter(self.chosen.values())))

    def __getitem__(self, index: Sequence[int]) -> tuple[Tensor, dict[str, Tensor | Masked]]:
        """Return the pairs at these places.

        Returns:
            float32 images ``[B, 1, canvas, canvas]`` from 0 to 1, and each task's int64 ``[B]``,
            in a :class:`Masked` if labels are missing.
        """
        places = torch.as_tensor(index)
        images = torch.zeros(len(places), self.canvas, self.canvas, dtype=torch.uint8)
        labels: dict[str, Tensor | Masked] = {}
        for task, items in self.items.items():
            chosen = self.chosen[task][places]
            labels[task] = self._labels(task, items.labels[chosen], places)
            patch = items.images[chosen]
            top, left = self.corners[task][places].unbind(1)
            rows = top[:, None] + torch.arange(patch.shape[1])
            columns = left[:, None] + torch.arange(patch.shape[2])
            area = torch.arange(len(places))[:, None, None], rows[:, :, None], columns[:, None, :]
            images[area] = torch.maximum(images[area], patch)
        return images.unsqueeze(1).float() / self.brightest, labels

    def _labels(self, task: str, labels: Tensor, places: Tensor) -> Tensor | Masked:
        if self.present is None:
            return labels
        present = self.present[task][places]
        return Masked(labels.where(present, 0), present)


def make_loader(pairs: Pairs, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """Return a loader of whole batches: image by image would take longer than the training."""
    order = RandomSampler(pairs) if shuffle else SequentialSampler(pairs)
    return DataLoader(
        pairs, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None
    )
