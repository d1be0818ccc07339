"""The cost of RotoGrad, compared with the authors' program and with the step of a ResNet18.

The overhead is the time of a step beyond that of a plain step of the same network, which sums its
losses. In the first table the network is minimal, an encoder and T heads of one linear layer, with
a representation of 512 channels and a batch of 32; in the second it is a ResNet18 on images of
64x64. A step is the forward pass, the backward pass, and the optimisers' steps: SGD for the
network, Adam for the rotations. All ways are timed in turn, in the CPU time of one thread; the
tables have medians, and ratios are of the same round.

    python benchmarks/rotograd.py [--package FOLDER ...]

FOLDER contains the authors' program, installed by `pip install --no-deps --target FOLDER
rotograd==0.1.6.0 geotorch==0.3.0`; it runs with its own cache (`rotograd.cached`), which is faster.
Without it, only ours is timed.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from libmtl_recon import RotoGrad
from libmtl_recon.weighting.leader import Leader

BATCH, WIDTH, CLASSES = 32, 512, 10
EVERY = 10
Step = Callable[[], None]


def make_heads(tasks: int) -> nn.ModuleDict:
    return nn.ModuleDict({f"t{t}": nn.Linear(WIDTH, CLASSES) for t in range(tasks)})


def make_labels(tasks: int) -> dict[str, Tensor]:
    return {f"t{t}": torch.randint(CLASSES, (BATCH,)) for t in range(tasks)}


def plain_step(encoder: nn.Module, tasks: int, x: Tensor) -> Step:
    heads, labels = make_heads(tasks), make_labels(tasks)
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=1e-3)

    def step() -> None:
        z = encoder(x)
        losses = [nn.functional.cross_entropy(h(z), labels[t]) for t, h in heads.items()]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step


def our_step(encoder: nn.Module, tasks: int, x: Tensor, **settings: Any) -> Step:
    heads, labels = make_heads(tasks), make_labels(tasks)
    rotograd, leader = RotoGrad(list(heads), WIDTH, **settings), Leader()
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=1e-3)

    def step() -> None:
        z = encoder(x)
        losses = {
            t: nn.functional.cross_entropy(h(rotograd.rotate(z, t)), labels[t])
            for t, h in heads.items()
        }
        optimizer.zero_grad()
        rotograd.backward(losses)
        leader.step(rotograd.named_parameters(), 5e-4)
        optimizer.step()

    return step


def their_step(program: Any, encoder: nn.Module, tasks: int, x: Tensor) -> Step:
    heads, labels = list(make_heads(tasks).values()), list(make_labels(tasks).values())
    own = [p for head in heads for p in head.parameters()]
    model = program.RotoGrad(encoder, heads, WIDTH)
    ids = {id(p) for p in own}
    optimizer = torch.optim.SGD([*encoder.parameters(), *own], lr=1e-3)
    leader = torch.optim.Adam([p for p in model.parameters() if id(p) not in ids], lr=5e-4)

    def step() -> None:
        with program.cached():
            predictions = model(x)
            pairs = zip(predictions, labels, strict=True)
            losses = [nn.functional.cross_entropy(p, wanted) for p, wanted in pairs]
            optimizer.zero_grad()
            leader.zero_grad()
            model.backward(losses)
            optimizer.step()
            leader.step()

    return step


def seconds(step: Step, times: int = 1) -> float:
    begin = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - begin) / times


def overheads(ways: dict[str, tuple[Step, int]], rounds: int) -> dict[str, list[float]]:
    """Return the overheads in seconds per step of each way, by round; the plain way's full time."""
    for step, _ in ways.values():
        seconds(step, 2)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (step, times) in ways.items():
            found[name].append(seconds(step, times))
    plain = found["plain"]
    for name, own in found.items():
        if name != "plain":
            found[name] = [o - p for o, p in zip(own, plain, strict=True)]
    return found


def flops_per_second(size: int = 1024) -> float:
    matrix = torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: torch.mm(matrix, matrix), 3) for _ in range(5))


def limits(tasks: int, speed: float) -> tuple[float, float]:
    """Return lower bounds of the seconds of a step of T tasks, with and without an update.

    Without an update, z is rotated, and its gradient is rotated back: 4 B m² operations. With an
    update, the gradients are rotated back for the comparison and multiplied to an m x m matrix,
    4 B m² more, and the Cayley transform is computed (an LU decomposition and a solve, 8/3 m³) and
    differentiated (a solve and a product, 4 m³); to each, the product with the base adds 2 m³.
    """
    rest = 4 * BATCH * WIDTH**2
    update = 4 * BATCH * WIDTH**2 + (8 / 3 + 4 + 4) * WIDTH**3
    return tasks * (rest + update) / speed, tasks * rest / speed


def beside_the_program(program: Any, rounds: int, speed: float) -> None:
    header = ["T", "authors'", "ours", "ratio", f"ours, every {EVERY}", "ratio", "limit"]
    print(f"Overhead of a step, ms: {WIDTH} channels, batch {BATCH}\n")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for tasks in (2, 5, 10):
        x = torch.randn(BATCH, WIDTH)
        ways: dict[str, tuple[Step, int]] = {
            "plain": (plain_step(nn.Linear(WIDTH, WIDTH), tasks, x), EVERY),
            "ours": (our_step(nn.Linear(WIDTH, WIDTH), tasks, x), 2),
            "rarely": (our_step(nn.Linear(WIDTH, WIDTH), tasks, x, every=EVERY), EVERY),
        }
        if program is not None:
            ways["theirs"] = (their_step(program, nn.Linear(WIDTH, WIDTH), tasks, x), 1)
        found = overheads(ways, rounds)
        medians = {name: 1e3 * statistics.median(times) for name, times in found.items()}
        cells = [str(tasks), "–", f"{medians['ours']:.0f}", "–", f"{medians['rarely']:.1f}", "–"]
        if program is not None:
            cells[1] = f"{medians['theirs']:.0f}"
            for place, name in ((3, "ours"), (5, "rarely")):
                pairs = zip(found["theirs"], found[name], strict=True)
                cells[place] = f"{statistics.median(a / b for a, b in pairs):.1f}"
        cells.append(f"{1e3 * limits(tasks, speed)[0]:.1f}")
        print("| " + " | ".join(cells) + " |", flush=True)


def beside_a_resnet(rounds: int) -> None:
    print(
        f"\nA ResNet18's step at 64x64, batch {BATCH}, RotoGrad's rotations updated every {EVERY}"
    )
    print("\n| T | plain, ms | overhead, ms | % | every step, % |\n|---|---|---|---|---|")
    for tasks in (2, 5, 10):
        network = torchvision.models.resnet18(num_classes=1)
        network.fc = nn.Identity()
        x = torch.randn(BATCH, 3, 64, 64)
        found = overheads(
            {
                "plain": (plain_step(network, tasks, x), EVERY),
                "rarely": (our_step(network, tasks, x, every=EVERY), EVERY),
                "always": (our_step(network, tasks, x), 2),
            },
            rounds,
        )
        plain = statistics.median(found["plain"])
        shares = {
            name: 100 * statistics.median(o / p for o, p in zip(own, found["plain"], strict=True))
            for name, own in found.items()
        }
        print(
            f"| {tasks} | {1e3 * plain:.0f} | {1e3 * statistics.median(found['rarely']):.1f} | "
            f"{shares['rarely']:.1f} | {shares['always']:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sys.path[:0] = given.package
    program = importlib.import_module("rotograd") if given.package else None
    speed = flops_per_second()
    print(f"{speed / 1e9:.0f} GFLOP/s in float32, torch {torch.__version__}", flush=True)
    beside_the_program(program, given.rounds, speed)
    beside_a_resnet(given.rounds)


if __name__ == "__main__":
    main()
