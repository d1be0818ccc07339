"""The ranks of a data-parallel training, and what they tell one another.

A rank is one of W processes that train copies of one network, each on its part of a batch. All of
them make the same calls in the same order.
"""

from __future__ import annotations

import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import packing
from libmtl_recon.gradients.columns import part_of, width

# Numbers that are put into one message.
_BUCKET = 1 << 22
# Whole numbers that tell the shapes of a message's tensors; more are told in a second message.
_HEADER = 64
_TOO_LONG = -1
_HALVES = (torch.bfloat16, torch.float16)


class Ranks:
    """W processes, by torch's default process group.

    Attributes:
        rank: Which one this is, from 0.
        size: W.
        traffic: Bytes that this rank has sent, by what for (see :meth:`sending`). A sum over all
            ranks of n bytes counts as 2 n (W - 1) / W, which a ring needs; what rank 0 tells all
            others counts as sent W - 1 times by rank 0, though others may pass it on.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.traffic: Counter[str] = Counter()
        self._purpose = "other"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone prints and writes files."""
        return self.rank == 0

    @contextmanager
    def sending(self, purpose: str) -> Iterator[None]:
        """Inside the ``with`` block, count what is sent under a name."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def share_of(self, length: int) -> slice:
        """Which of so many neighbours are this rank's: the first ranks have one more."""
        return shares(length, self.size)[self.rank]

    def from_first(self, value: Any = None) -> Any:
        """Rank 0's value, on all ranks.

        Args:
            value: Anything that can be pickled; only rank 0's is looked at.
        """
        if self.rank == 0:
            packed = pickle.dumps(value)
            content = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        size = torch.tensor([len(packed) if self.rank == 0 else 0])
        dist.broadcast(size, src=0)
        if self.rank != 0:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        if self.rank == 0:
            self._count((self.size - 1) * (content.numel() + 8))
            return value
        return pickle.loads(content.numpy().tobytes())

    def share(self, tensor: Tensor) -> None:
        """Put rank 0's values in the place of a tensor's."""
        content = tensor.contiguous()
        dist.broadcast(content, src=0)
        if content is not tensor:
            tensor.copy_(content)
        if self.rank == 0:
            self._count((self.size - 1) * content.nbytes)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Put the sum over the ranks in the place of a tensor; returns it."""
        dist.all_reduce(tensor)
        self._count(2 * tensor.nbytes * (self.size - 1) // self.size)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Put the maximum over the ranks in the place of a tensor; returns it."""
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        self._count(2 * tensor.nbytes * (self.size - 1) // self.size)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the means over the ranks in the place of dense tensors, which all ranks have.

        They are added up in float32 at least.
        """
        waiting: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            own = tensor.detach()
            real = own.dtype.to_real()
            key = (torch.float32 if real in _HALVES else real, own.device)
            if own.is_contiguous() and own.dtype == key[0] and own.numel() >= _BUCKET:
                for part in own.view(-1).split(_BUCKET):
                    self.add_up(part).div_(self.size)
                continue
            waiting.setdefault(key, []).append(own)
            if sum(one.numel() for one in waiting[key]) >= _BUCKET:
                self._average_together(key[0], waiting.pop(key))
        for (dtype, _), parts in waiting.items():
            self._average_together(dtype, parts)

    def _average_together(self, dtype: torch.dtype, tensors: Sequence[Tensor]) -> None:
        bucket = torch.cat([packing.real(tensor).reshape(-1).to(dtype) for tensor in tensors])
        found = self.add_up(bucket).div_(self.size).split([width(tensor) for tensor in tensors])
        for tensor, mean in zip(tensors, found, strict=True):
            # Of a lazily conjugated gradient there is no real view to write to.
            own = part_of(mean, tensor)
            tensor.copy_(torch.view_as_complex(own) if tensor.is_complex() else own)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, which have one shape and dtype."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous())
        self._count((self.size - 1) * tensor.nbytes)
        return found

    def gather_all(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Several tensors of each rank, whose shapes may differ between ranks.

        Args:
            tensors: As many on each rank, on one device.

        Returns:
            By rank, in the order given; without graphs.

        Raises:
            ReconError: The ranks have another number of tensors, axes or another dtype.
        """
        if not tensors:
            return [[] for _ in range(self.size)]
        shapes = self.shapes_of(tensors)
        dtypes = [tensor.dtype for tensor in tensors]
        sizes = [sum(packing.room(s, d) for s, d in zip(of, dtypes, strict=True)) for of in shapes]
        own = torch.zeros(max(sizes), dtype=torch.uint8, device=tensors[0].device)
        packing.pack(own, tensors)
        return [
            packing.unpack(packed, of, dtypes)
            for packed, of in zip(self.gather(own), shapes, strict=True)
        ]

    def deliver(
        self, tensors: Sequence[Tensor], to: Sequence[int], shapes: Sequence[Sequence[torch.Size]]
    ) -> list[list[Tensor]]:
        """Give each of several tensors to one rank.

        Args:
            tensors: As many on each rank, of the same dtypes, on one device.
            to: For each, the rank that gets it.
            shapes: What :meth:`shapes_of` says of them.

        Returns:
            Of each tensor that this rank gets, those of all ranks, in order.
        """
        dtypes = [tensor.dtype for tensor in tensors]
        mine = [place for place, rank in enumerate(to) if rank == self.rank]
        parts = []
        for rank in range(self.size):
            own = [tensor for tensor, its in zip(tensors, to, strict=True) if its == rank]
            part = torch.zeros(
                sum(packing.room(one.shape, one.dtype) for one in own),
                dtype=torch.uint8,
                device=tensors[0].device,
            )
            packing.pack(part, own)
            parts.append(part)
        of_mine = [dtypes[place] for place in mine]
        of_ranks = [[of[place] for place in mine] for of in shapes]
        sizes = [sum(map(packing.room, of, of_mine)) for of in of_ranks]
        received = self.exchange(parts, sizes)
        found = [packing.unpack(*one, of_mine) for one in zip(received, of_ranks, strict=True)]
        return [list(one) for one in zip(*found, strict=True)]

    def shapes_of(self, tensors: Sequence[Tensor]) -> list[list[torch.Size]]:
        """The shapes of each rank's tensors, by rank.

        Args:
            tensors: As many on each rank, of as many axes, and of the same dtypes.

        Raises:
            ReconError: They are not.
        """
        own = [tensor.shape for tensor in tensors]
        dtypes = zlib.crc32(str([tensor.dtype for tensor in tensors]).encode())
        numbers = [len(own), dtypes, *map(len, own), *(number for of in own for number in of)]
        if len(numbers) > _HEADER:
            numbers = [_TOO_LONG]
        header = torch.tensor([*numbers, *[0] * (_HEADER - len(numbers))])
        told = [one.tolist() for one in self.gather(header)]
        # Where the ranks' are of other lengths, some may be too long.
        if any(one[0] == _TOO_LONG for one in told):
            content = (dtypes, [tuple(shape) for shape in own])
            everyone: list[Any] = [None] * self.size
            dist.all_gather_object(everyone, content)
            self._count((self.size - 1) * len(pickle.dumps(content)))
            of_ranks = [(its, [torch.Size(shape) for shape in of]) for its, of in everyone]
        else:
            of_ranks = [packing.read_header(one) for one in told]
        axes = [len(shape) for shape in own]
        for its, of in of_ranks:
            if its != dtypes or [len(shape) for shape in of] != axes:
                raise ReconError(
                    "The predictions or labels differ between the ranks of this training in their "
                    "number, their dtype or their number of axes. Make the network and the data "
                    "set return the same for every batch."
                )
        return [of for _, of in of_ranks]

    def exchange(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Give each rank its part, and get this rank's part of each.

        Args:
            parts: One vector for each rank, of one dtype and device.
            sizes: How many numbers come from each rank.
        """
        given = torch.cat([part.reshape(-1) for part in parts])
        taken = given.new_empty(sum(sizes))
        dist.all_to_all_single(taken, given, list(sizes), [part.numel() for part in parts])
        self._count((given.numel() - parts[self.rank].numel()) * given.element_size())
        return list(taken.split(list(sizes)))

    def own_columns(self, rows: Tensor) -> tuple[Tensor, slice]:
        """The sum over the ranks of rows ``[T, d]``, of this rank's columns alone.

        They are added up in float32 at least.

        Args:
            rows: ``[T, d]``, real, on every rank.

        Returns:
            ``[T, d']``, and which columns they are.
        """
        of_ranks = shares(rows.shape[1], self.size)
        own = of_ranks[self.rank]
        share = own.stop - own.start
        taken = self.exchange(
            [rows[:, of].contiguous() for of in of_ranks], [len(rows) * share] * self.size
        )
        total = taken[0].float() if rows.dtype in _HALVES else taken[0]
        for part in taken[1:]:
            total += part
        return total.view(len(rows), share), own

    def _count(self, sent: int) -> None:
        self.traffic[self._purpose] += sent


def shares(length: int, size: int) -> list[slice]:
    """So many neighbours, divided among so many ranks."""
    small, more = divmod(length, size)
    stops = [0]
    for rank in range(size):
        stops.append(stops[-1] + small + (rank < more))
    return [slice(start, stop) for start, stop in pairwise(stops)]
