"""Count a network's shared parameters, and those of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.arguments import checked_module
from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific
from libmtl_recon.texts import printable

_BYTES = 4  # of a float32
_MEGA = 2**20


def megabytes(parameters: float) -> float:
    """Return the size of parameters in float32, in MB of 2^20 bytes, as the papers print it."""
    return parameters * _BYTES / _MEGA


@dataclass(frozen=True)
class Owner:
    """The owner of a parameter, and its part of the network.

    Attributes:
        task: The name of the task; None for shared parameters, and for those of a weighting.
        part: The part of the network that it belongs to.
        weighting: Whether a weighting learns it in addition to the network.
    """

    task: str | None = None
    part: str = ""
    weighting: bool = False


@dataclass(frozen=True)
class Row:
    """The parameters of one owner.

    Attributes:
        name: ``shared``, a task's name, ``weighting`` or ``total``.
        parts: The number of parameters in each part of the network, by the part's name.
    """

    name: str
    parts: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """The number of real numbers in the parameters; a complex number counts as two."""
        return sum(self.parts.values())

    @property
    def megabytes(self) -> float:
        """Their size in float32, in MB of 2^20 bytes, independently of their dtype."""
        return megabytes(self.parameters)


@dataclass(frozen=True)
class Summary:
    """The size of a network, as in the papers' tables; it prints as such a table.

    Attributes:
        shared: The parameters that all tasks share.
        tasks: The parameters of each task, in the order of the tasks; empty if there are none.
        weighting: The parameters that a weighting learns; None if there are none.
        unsplit: The number of parameters of the network before its split.
    """

    shared: Row
    tasks: tuple[Row, ...]
    weighting: Row | None
    unsplit: int

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, the total last, which excludes the weighting, as in the papers' tables."""
        more = () if self.weighting is None else (self.weighting,)
        return (self.shared, *self.tasks, *more, self.total)

    @property
    def total(self) -> Row:
        """The network's parameters in total, without the weighting's."""
        parts: dict[str, int] = {}
        for row in (self.shared, *self.tasks):
            for part, count in row.parts.items():
                parts[part] = parts.get(part, 0) + count
        return Row("total", parts)

    @property
    def growth(self) -> float:
        """The total relative to the network before its split; 1 for an empty one."""
        return self.total.parameters / self.unsplit if self.unsplit else 1.0

    def __str__(self) -> str:
        parts = list(dict.fromkeys(part for row in self.rows for part in row.parts))
        head = ["", *(parts if len(parts) > 1 else []), "parameters", "MB"]
        lines = [head]
        for row in self.rows:
            counts = [row.parts.get(part, 0) for part in parts] if len(parts) > 1 else []
            cells = [f"{count:,}" for count in [*counts, row.parameters]]
            lines.append([printable(row.name), *cells, f"{row.megabytes:,.2f}"])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        unsplit = f"{self.unsplit:,} parameters, {megabytes(self.unsplit):,.2f} MB"
        texts.append(f"{self.growth:.2f} × the network before its split ({unsplit})")
        return "\n".join(texts)


def summary(network: nn.Module) -> Summary:
    """Count the parameters that all tasks of a network share, and those of each task.

    A parameter that several modules hold counts once; buffers, such as a norm's statistics, do
    not count. Frozen parameters do.

    Args:
        network: A network, split by :func:`~libmtl_recon.split_layers` or not, or its container.

    Raises:
        UsageError: The argument is not a network.
        ReconError: The network is lazy and has not seen an input.

    Example:
        >>> from libmtl_recon import split_layers
        >>> network = split_layers(
        ...     nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), ["1"], ["left", "right"]
        ... )
        >>> print(summary(network))
                parameters    MB
        shared          40  0.00
        left            18  0.00
        right           18  0.00
        total           76  0.00
        1.31 × the network before its split (58 parameters, 0.00 MB)
    """
    network = checked_module(network, "network")
    copies = copies_of(network)
    return counted(network, copies.values(), lambda _, p: Owner(copies.get(id(p))))


def copies_of(network: nn.Module) -> dict[int, str]:
    """Return the task of each parameter of the split layers, by the parameter's identity."""
    return {
        id(parameter): task
        for _, task, values in _task_values(network)
        for parameter in values.parameters(recurse=False)
    }


def counted(
    network: nn.Module,
    tasks: Iterable[str],
    owner_of: Callable[[str, nn.Parameter], Owner],
) -> Summary:
    """Return the summary of a network whose parameters' owners are known.

    Args:
        network: The network.
        tasks: The tasks that own parameters, in order.
        owner_of: A function that returns the owner of a parameter, given its name.

    Raises:
        ReconError: The network is lazy, and has not seen an input.
    """
    shared: dict[str, int] = {}
    weighting: dict[str, int] = {}
    own: dict[str, dict[str, int]] = {task: {} for task in tasks}
    # Of the copies in a layer one was there before.
    added = copies_of(network).keys() - {
        id(parameter)
        for place, _, values in _task_values(network)
        if place == 0
        for parameter in values.parameters(recurse=False)
    }
    unsplit = 0
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise ReconError(
                f"The shape of {name} is not known before the first input. Run the network once."
            )
        owner = owner_of(name, parameter)
        counts = shared if owner.task is None else own[owner.task]
        counts = weighting if owner.weighting else counts
        size = parameter.numel() * (2 if parameter.is_complex() else 1)
        counts[owner.part] = counts.get(owner.part, 0) + size
        if id(parameter) not in added and not owner.weighting:
            unsplit += size
    return Summary(
        Row("shared", shared),
        tuple(Row(task, parts) for task, parts in own.items()),
        Row("weighting", weighting) if weighting else None,
        unsplit,
    )


def _task_values(network: nn.Module) -> Iterator[tuple[int, str, nn.Module]]:
    """Return each task's position, name and values, for each split layer."""
    for module in network.modules():
        if isinstance(module, TaskSpecific):
            tasks = module._modules[CHILD]
            for place, (task, values) in enumerate(tasks.named_children()):  # type: ignore[union-attr]  # is always there
                yield place, task, values
