"""The cost of a split: the step of a split ResNet18 compared with its lower bound.

Once the tasks' activations differ they stay different, so all layers after the first split must
run once per task. With T tasks a step cannot cost less than prefix + T·rest, where `prefix` is the
part before the split (or parallel to it: a skip connection around it) and `rest` is the remainder
of the network. The bound is measured: T single-task networks give T·all, the prefix runs alone, and
rest = all - prefix. It does not include the sum of the gradients of shared parameters; `by hand`,
if the first layer is split, does: T plain networks with the same tensors, except for that layer's.

A step is the forward pass, T losses, and one backward pass of their sum, without an optimiser,
which has less work for a split network than for T networks. All are timed in turn, in the CPU time
of one thread (on a GPU: in seconds); ratios are of times of the same round, and the table has their
median.

    python benchmarks/recon.py
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from libmtl_recon import split_layers

_STEM = ("conv1", "bn1", "relu", "maxpool")


@dataclass(frozen=True)
class Place:
    """A place where the network is split.

    Attributes:
        layer: The layer that becomes task-specific.
        before: The modules that run before it, in the order of their calls.
        beside: The module that runs in parallel, on the same input, if there is one.
    """

    title: str
    layer: str
    before: tuple[str, ...]
    beside: str | None = None


PLACES = {
    "first": Place("first layer", "conv1", ()),
    "middle": Place(
        "middle", "layer3.0.conv1", (*_STEM, "layer1", "layer2"), "layer3.0.downsample"
    ),
    "last": Place(
        "last block", "layer4.1.conv1", (*_STEM, "layer1", "layer2", "layer3", "layer4.0")
    ),
}


class Prefix(nn.Module):
    """The part of a ResNet18 before a split and parallel to it."""

    def __init__(self, network: nn.Module, place: Place) -> None:
        super().__init__()
        self.before = nn.Sequential(*(network.get_submodule(name) for name in place.before))
        self.beside = network.get_submodule(place.beside) if place.beside else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the activations that are the input of the tasks' branches."""
        x = self.before(x)
        return (x,) if self.beside is None else (x, self.beside(x))


@dataclass(frozen=True)
class Round:
    """Seconds per step of each way; 0 if there is none."""

    singles: float
    split: float
    prefix: float
    tied: float

    def bound(self, tasks: int) -> float:
        """Return the least cost of T tasks, without the sum of gradients."""
        return self.prefix + self.singles - tasks * self.prefix


def _tied(plain: nn.Module, layer: str, tasks: int) -> list[nn.Module]:
    networks = [copy.deepcopy(plain) for _ in range(tasks)]
    for name, module in networks[0].named_modules():
        if name != layer:
            for network in networks[1:]:
                network.get_submodule(name)._parameters.update(module._parameters)
    return networks


class Timer:
    """Timer of a step, in CPU time, which other programs affect less, or on a GPU."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(self, step: Callable[[], None]) -> float:
        """Return the seconds of a step."""
        if self.device.type == "cpu":
            start = time.process_time()
            step()
            return time.process_time() - start
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        step()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


class Bench:
    """The networks for one place and number of tasks, with one step of each.

    Args:
        place: The place of the split.
        tasks: The number of tasks.
        options: The options of the command line.
    """

    def __init__(self, place: Place, tasks: int, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        plain = torchvision.models.resnet18(num_classes=10).to(options.device)
        names = [f"task{task}" for task in range(tasks)]
        self.singles = [copy.deepcopy(plain) for _ in range(tasks)]
        self.split = split_layers(copy.deepcopy(plain), [place.layer], names)
        self.tied = [] if place.before else _tied(plain, place.layer, tasks)
        self.prefix = Prefix(plain, place) if place.before else None
        self.x = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
        self.labels = torch.randint(10, (tasks, options.batch), device=options.device)
        if self.prefix is not None:
            with torch.no_grad():
                self.gradients = [torch.randn_like(out) for out in self.prefix(self.x)]

    def step_singles(self) -> None:
        """Run T single-task networks, one after the other."""
        for network, labels in zip(self.singles, self.labels, strict=True):
            nn.functional.cross_entropy(network(self.x), labels).backward()

    def step_tied(self) -> None:
        """Run T plain networks with the same tensors, except for the split layer's."""
        self._back_from([network(self.x) for network in self.tied])

    def step_split(self) -> None:
        """Run the split network."""
        self._back_from(self.split(self.x).parts)

    def step_prefix(self) -> None:
        """Run only the part that the tasks share."""
        if self.prefix is not None:
            torch.autograd.backward(self.prefix(self.x), self.gradients)

    def _back_from(self, outputs: Sequence[Tensor]) -> None:
        losses = map(nn.functional.cross_entropy, outputs, self.labels)
        torch.stack(list(losses)).sum().backward()

    def round(self, timer: Timer) -> Round:
        """Return the time of each way."""
        times = []
        for step, networks in (
            (self.step_singles, self.singles),
            (self.step_split, [self.split]),
            (self.step_prefix, [self.prefix] if self.prefix else []),
            (self.step_tied, self.tied),
        ):
            for network in networks:
                network.zero_grad()
            times.append(timer(step) if networks else 0.0)
        return Round(*times)


def measure(place: Place, tasks: int, options: argparse.Namespace) -> str:
    bench, timer = Bench(place, tasks, options), Timer(options.device)
    bench.round(timer)
    rounds = [bench.round(timer) for _ in range(options.rounds)]
    ratios = sorted(each.split / each.bound(tasks) for each in rounds)

    def median(way: Callable[[Round], float]) -> float:
        return statistics.median(map(way, rounds))

    by_hand = "" if place.before else f"{median(lambda r: r.tied / r.bound(tasks)):.3f}"
    cells = [
        f"{place.title} (`{place.layer}`)",
        str(tasks),
        f"{1e3 * median(lambda r: r.singles):.0f}",
        f"{median(lambda r: r.bound(tasks) / r.singles):.2f}",
        f"{1e3 * median(lambda r: r.bound(tasks)):.0f}",
        f"{1e3 * median(lambda r: r.split):.0f}",
        f"**{statistics.median(ratios):.3f}**",
        f"{ratios[0]:.2f}–{ratios[-1]:.2f}",
        by_hand,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 3, 10])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="pixels of the images' sides")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {options.device}, one thread, ms per step of "
        f"{options.batch} images of {options.size} pixels, median of {options.rounds} rounds\n"
    )
    print("| split at | T | T single | of it | bound | split | split/bound | rounds | by hand |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in options.places:
        for tasks in options.tasks:
            print(measure(PLACES[name], tasks, options), flush=True)


if __name__ == "__main__":
    main()
