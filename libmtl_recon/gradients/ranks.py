"""The ranks of data-parallel training, and their communication.

A rank is one of W processes that train copies of one network, each on its part of a batch. All
ranks make the same calls in the same order.
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

# The number of elements in one message.
_BUCKET = 1 << 22
# The number of integers of a header with the shapes of a message's tensors; a longer header is sent
# in a second message.
_HEADER = 64
_TOO_LONG = -1
_HALVES = (torch.bfloat16, torch.float16)


class Ranks:
    """The W processes of torch's default process group.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes W.
        traffic: The bytes that this rank has sent, by purpose (see :meth:`sending`). A sum over all
            ranks of n bytes counts as 2 n (W - 1) / W, which a ring needs; a broadcast of rank 0
            counts as sent W - 1 times by rank 0, though others may pass it on.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.traffic: Counter[str] = Counter()
        self._purpose = "other"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that prints and writes files."""
        return self.rank == 0

    @contextmanager
    def sending(self, purpose: str) -> Iterator[None]:
        """Count, inside the ``with`` block, the bytes that are sent under the name of a purpose."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def share_of(self, length: int) -> slice:
        """Return this rank's part of a length; the first ranks have one more."""
        return shares(length, self.size)[self.rank]

    def from_first(self, value: Any = None) -> Any:
        """Return rank 0's value, on all ranks.

        Args:
            value: Any object that can be pickled; only that of rank 0 is used.
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
        """Replace a tensor's values by those of rank 0."""
        content = tensor.contiguous()
        dist.broadcast(content, src=0)
        if content is not tensor:
            tensor.copy_(content)
        if self.rank == 0:
            self._count((self.size - 1) * content.nbytes)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, and return it."""
        dist.all_reduce(tensor)
        self._count(2 * tensor.nbytes * (self.size - 1) // self.size)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its maximum over the ranks, and return it."""
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        self._count(2 * tensor.nbytes * (self.size - 1) // self.size)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace dense tensors, which all ranks have, by their means over the ranks.

        They are summed in at least float32.
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
            # A lazily conjugated gradient has no real view to write to.
            own = part_of(mean, tensor)
            tensor.copy_(torch.view_as_complex(own) if tensor.is_complex() else own)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, which have one shape and dtype."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous())
        self._count((self.size - 1) * tensor.nbytes)
        return found

    def gather_all(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return several tensors of each rank, whose shapes may differ between ranks.

        Args:
            tensors: The same number on each rank, on one device.

        Returns:
            For each rank, its tensors in the order given, without graphs.

        Raises:
            ReconError: The ranks differ in the number of tensors, in their axes or in a dtype.
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
        """Send each of several tensors to one rank.

        Args:
            tensors: The same number on each rank, of the same dtypes, on one device.
            to: For each tensor, the rank that receives it.
            shapes: Their shapes, as :meth:`shapes_of` returns them.

        Returns:
            For each tensor that this rank receives, those of all ranks, in order.
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
        """Return the shapes of each rank's tensors, by rank.

        Args:
            tensors: On each rank the same number, with as many axes, and of the same dtypes.

        Raises:
            ReconError: The ranks differ in these.
        """
        own = [tensor.shape for tensor in tensors]
        dtypes = zlib.crc32(str([tensor.dtype for tensor in tensors]).encode())
        numbers = [len(own), dtypes, *map(len, own), *(number for of in own for number in of)]
        if len(numbers) > _HEADER:
            numbers = [_TOO_LONG]
        header = torch.tensor([*numbers, *[0] * (_HEADER - len(numbers))])
        told = [one.tolist() for one in self.gather(header)]
        # Where the ranks' headers have different lengths, some may be too long.
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
        """Send each rank its part, and receive this rank's part from each.

        Args:
            parts: One vector for each rank, of one dtype and device.
            sizes: The number of elements that come from each rank.
        """
        given = torch.cat([part.reshape(-1) for part in parts])
        taken = given.new_empty(sum(sizes))
        dist.all_to_all_single(taken, given, list(sizes), [part.numel() for part in parts])
        self._count((given.numel() - parts[self.rank].numel()) * given.element_size())
        return list(taken.split(list(sizes)))

    def own_columns(self, rows: Tensor) -> tuple[Tensor, slice]:
        """Return the sum over the ranks of rows ``[T, d]``, for this rank's columns only.

        The rows are summed in at least float32.

        Args:
            rows: ``[T, d]``, real, on every rank.

        Returns:
            ``[T, d']``, and the slice of these columns.
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
    """Divide a length into one slice per rank."""
    small, more = divmod(length, size)
    stops = [0]
    for rank in range(size):
        stops.append(stops[-1] + small + (rank < more))
    return [slice(start, stop) for start, stop in pairwise(stops)]
