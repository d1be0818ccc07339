"""What several ranks tell one another, each case run on all ranks; run by `test_ranks.py`.

The command line has the file to write and the number of ranks, which are forks that meet in a file.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from libmtl_recon.gradients import exchange, ranks
from libmtl_recon.gradients.calls import noted
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.gradients.recording import Record

BUCKET = 64  # numbers in a message, in place of 4 million
Case = Callable[[Ranks], Any]


def drawn(rank: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a rank's tensor of small whole numbers, whose sums are exact in any dtype."""
    generator = torch.Generator().manual_seed(100 * rank + len(shape))
    found = torch.randint(-8, 9, shape, generator=generator)
    if dtype.is_complex:
        other = torch.randint(-8, 9, shape, generator=generator)
        return torch.complex(found.double(), other.double()).to(dtype)
    return found.to(dtype)


def fine(rank: int) -> Tensor:
    """Numbers whose sum needs more digits than bfloat16 has."""
    return torch.full((2, 4), 256.0 if rank == 0 else 1.0, dtype=torch.bfloat16)


def uneven(rank: int) -> list[Tensor]:
    """Tensors of several dtypes, as many rows as the rank's number."""
    return [
        drawn(rank, rank, 3),
        drawn(rank, 5, dtype=torch.int16),
        drawn(rank, rank + 1, 2, 2, dtype=torch.bool),
        drawn(rank, 3, rank, dtype=torch.complex64).conj(),
        drawn(rank, 2, 7, dtype=torch.bfloat16).T,
    ]


def gradients(rank: int) -> list[Tensor]:
    """Gradients as they come: of other layouts, dtypes and sizes, some larger than a message."""
    return [
        drawn(rank, 3),
        drawn(rank, 2 * BUCKET + 5),
        drawn(rank, 9, 11).T,
        drawn(rank, BUCKET + 1, dtype=torch.float32),
        drawn(rank, 4, 3, dtype=torch.bfloat16),
        fine(rank),
        drawn(rank, 4, dtype=torch.complex64).conj(),
        drawn(rank, 3, 5, dtype=torch.complex128),
        drawn(rank, 2, 3, 4, 4).to(memory_format=torch.channels_last),
        drawn(rank, 0),
        torch.tensor(float(rank)),
    ]


def long_and_short(rank: int) -> list[Tensor]:
    """Return more tensors on rank 0 than a header can hold the shapes of."""
    return [torch.zeros(1) for _ in range(40 if rank == 0 else 2)]


def _average(group: Ranks) -> Any:
    own = gradients(group.rank)
    group.average(own)
    return own


def _deliver(group: Ranks) -> Any:
    own = uneven(group.rank)
    return group.deliver(own, [0, 1, 0, 1, 1], group.shapes_of(own))


def _own_columns(width: int, dtype: torch.dtype) -> Case:
    def case(group: Ranks) -> Any:
        sums, columns = group.own_columns(drawn(group.rank, 3, width, dtype=dtype))
        return sums, columns.start, columns.stop

    return case


def _share(group: Ranks) -> Any:
    own = drawn(group.rank, 4, 3).T
    group.share(own)
    return own


def _traffic(group: Ranks) -> Any:
    group.traffic.clear()
    for purpose, send in {
        "sum": lambda: group.add_up(drawn(group.rank, 12)),
        "largest": lambda: group.largest(drawn(group.rank, 12)),
        "mean": lambda: group.average([drawn(group.rank, 12)]),
        "gather": lambda: group.gather(drawn(group.rank, 12)),
        "columns": lambda: group.own_columns(drawn(group.rank, 5, 7, dtype=torch.float32)),
        "share": lambda: group.share(drawn(group.rank, 12)),
        "first": lambda: group.from_first(b"x" * 100),
        "deliver": lambda: group.deliver(
            [drawn(group.rank, 12), drawn(group.rank, 3, dtype=torch.int16)],
            [0, 1],
            [[torch.Size([12]), torch.Size([3])]] * group.size,
        ),
        "exchange": lambda: group.exchange(
            [drawn(group.rank, 1 + to) for to in range(group.size)],
            [1 + group.rank] * group.size,
        ),
    }.items():
        with group.sending(purpose):
            send()
    return dict(group.traffic)


class Net(nn.Module):
    """Layers of which some go by products and some by rows, and one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(3, 8)
        self.wide = nn.Linear(8, 300)
        self.narrow = nn.Linear(300, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))
        self.double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double() / 4

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.tanh(self.first(x))
        for _ in range(2):
            x = torch.tanh(self.narrow(torch.tanh(self.wide(x))))
        return [head(x) for head in self.heads]


class Cut(nn.Module):
    """Layers whose passes are cut in other places for three samples than for two."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        widths = (3, 4, 100, 4, 200, 100)
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.norms = nn.ModuleList([nn.LayerNorm(100), nn.LayerNorm(200)])
        self.heads = nn.ModuleList(nn.Linear(100, 1) for _ in range(3))
        self.double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double() / 4

    def forward(self, x: Tensor) -> list[Tensor]:
        for place, layer in enumerate(self.layers):
            x = layer(x)
            x = torch.tanh(self.norms[place // 2](x) if place % 2 else x)
        return [head(x) for head in self.heads]


def samples(ranks: int) -> Tensor:
    """A whole batch ``[N, 3]``, of which each rank has three but the last, which has two."""
    count = 3 * ranks - 1
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1)).double()


def of_batch(
    network: nn.Module, x: Tensor, whole: int, way: str, group: Ranks | None
) -> dict[str, Any]:
    """The Gramian, the layers' and the update of part ``x`` of a batch of so many samples."""
    with noted(network) as calls:
        outputs = network(x)
    losses = [
        ((task + 1) * output).tanh().square().sum() * (group.size if group else 1) / whole
        for task, output in enumerate(outputs)
    ]
    record = Record(network, calls, None, way, ranks=group)
    total = record.gramian(losses)
    found = {"total": total, "layers": record.layer_gramians, "ways": [w.way for w in record.ways]}
    record.backward(torch.tensor([1.0, 2.0, 3.0]).double())
    updates = [parameter.grad for parameter in network.parameters()]
    if group is not None:
        group.average(updates)
    return {**found, "update": torch.cat([one.flatten() for one in updates])}


def _gramian(network: Callable[[], nn.Module], way: str) -> Case:
    def case(group: Ranks) -> Any:
        whole = samples(group.size)
        own = whole[group.share_of(len(whole))]
        return of_batch(network(), own, len(whole), way, group)

    return case


class Dropping(Net):
    """Leaves layers out, on one rank alone."""

    def __init__(self, drop: bool) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.tanh(self.first(x))
        if not self.drop:
            x = x + self.narrow(torch.tanh(self.wide(x)))
        return [head(x) for head in self.heads]


def _dropping(group: Ranks) -> Any:
    return of_batch(Dropping(group.rank == 0), samples(1), 2, "ghost", group)


def _gramian_of_mean(group: Ranks) -> Any:
    exchange._COLUMNS = 5
    return exchange.gramian_of_mean(drawn(group.rank, 3, 13, dtype=torch.float32), group)


def _add_up_gramians(group: Ranks) -> Any:
    layers = {name: drawn(group.rank, 2, 2) * factor for name, factor in (("a", 1), ("b", 2))}
    errors = drawn(group.rank, 2)
    exchange.add_up_gramians(layers, errors, group)
    return layers["a"], layers["b"], errors


NETWORKS: dict[str, Callable[[], nn.Module]] = {"net": Net, "cut": Cut}
WAYS = ("auto", "ghost")
COLUMNS = ((7, torch.float32), (1, torch.float64), (6, torch.bfloat16))
CASES: dict[str, Case] = {
    "gather_all": lambda group: group.gather_all(uneven(group.rank)),
    "gather_all of nothing": lambda group: group.gather_all([]),
    "gather_all of many": lambda group: group.gather_all(
        [drawn(group.rank, 1 + (place + group.rank) % 3) for place in range(40)]
    ),
    "other dtypes": lambda group: group.gather_all(
        [drawn(group.rank, 2, dtype=(torch.int64, torch.float64)[min(group.rank, 1)])]
    ),
    "other axes": lambda group: group.gather_all([torch.zeros([1] * (1 + group.rank))]),
    "other numbers": lambda group: group.gather_all(long_and_short(group.rank)),
    "deliver": _deliver,
    "share": _share,
    "average": _average,
    "from_first": lambda group: group.from_first({"a": [group.rank, None]}),
    **{f"columns {width} {dtype}": _own_columns(width, dtype) for width, dtype in COLUMNS},
    "fine columns": lambda group: group.own_columns(fine(group.rank))[0],
    "gramian_of_mean": _gramian_of_mean,
    "add_up_gramians": _add_up_gramians,
    "traffic": _traffic,
    **{f"{name} {way}": _gramian(make, way) for name, make in NETWORKS.items() for way in WAYS},
    "dropping": _dropping,
}


def _work(rank: int, size: int, out: Path) -> None:
    torch.set_num_threads(1)
    ranks._BUCKET = BUCKET
    meeting = out.with_suffix(".meeting")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    group, found = Ranks(), {}
    for name, case in CASES.items():
        try:
            found[name] = case(group)
        except Exception as error:  # noqa: BLE001  # told by the test
            found[name] = f"{type(error).__name__}: {error}"
    # A message's parts are views of its bytes, which torch would save as one.
    apart = tree_map(lambda x: x.resolve_conj().clone() if isinstance(x, Tensor) else x, found)
    torch.save(apart, out.with_suffix(f".{rank}"))
    dist.destroy_process_group()


def main(words: Sequence[str]) -> None:
    out, size = Path(words[0]), int(words[1])
    context = multiprocessing.get_context("fork")
    own = [context.Process(target=_work, args=(rank, size, out)) for rank in range(size)]
    for process in own:
        process.start()
    for process in own:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in own))


if __name__ == "__main__":
    main(sys.argv[1:])
