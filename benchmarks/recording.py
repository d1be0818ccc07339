"""What the Gramian and the update cost outside LibMTL: stored rows, products, T bare passes.

    python benchmarks/recording.py
    python benchmarks/recording.py --network vit --batch 8 --size 128 --tasks 2 10 --rounds 5

Each way takes its turn in a process of its own, after the same forward pass: T bare backward passes
(each gradient looked at once and forgotten), and `recording` with the ways `stored`, `ghost` and
`auto`, with the update of all parameters. Times are the CPU time of one thread (on a GPU: seconds)
from the losses to the update; ratios are of the same round, and their median counts. The memory is
the highest use of the process above that of the bare passes, in units of the matrix [T, d].
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from libmtl_recon.gradients import recording

WAYS = ("bare", "stored", "ghost", "auto")
NETWORKS = ("resnet18", "resnet50", "vit", "mlp")
_CLASSES = 10


def make_network(name: str, size: int) -> tuple[nn.Module, int]:
    """A network without its head, and the width of its representation."""
    if name == "mlp":
        width = 256
        layers = [nn.Linear(3 * size * size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers), width
    if name == "vit":
        network: Any = torchvision.models.VisionTransformer(
            image_size=size,
            patch_size=16,
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=1536,
        )
        network.heads = nn.Identity()
        return network, 384
    network = getattr(torchvision.models, name)(weights=None)
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, width


def work(connection: Connection, way: str, setting: argparse.Namespace, tasks: int) -> None:
    """Take a step whenever asked to; tell how long each took, and the highest use of memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(setting.device)
    network, width = make_network(setting.network, setting.size)
    network.to(device)
    heads = nn.ModuleList(nn.Linear(width, _CLASSES) for _ in range(tasks)).to(device)
    x = torch.randn(setting.batch, 3, setting.size, setting.size, device=device)
    labels = torch.randint(0, _CLASSES, (tasks, setting.batch), device=device)
    shared = list(network.parameters())

    def losses() -> list[Tensor]:
        z = network(x)
        return [cross_entropy(head(z), y) for head, y in zip(heads, labels, strict=True)]

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    while connection.recv() == "step":
        for parameter in [*shared, *heads.parameters()]:
            parameter.grad = None
        if way == "bare":
            found = losses()
            start = clock()
            for loss in found:
                for gradient in torch.autograd.grad(loss, shared, retain_graph=True):
                    gradient.max()
        else:
            with recording(network, way=way) as record:
                found = losses()
            start = clock()
            record.gramian(found)
            record.backward(torch.ones(tasks))
        connection.send(clock() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    connection.send((peak, 4 * tasks * sum(p.numel() for p in shared)))


def measure(setting: argparse.Namespace, tasks: int) -> list[str]:
    """One line of the table."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for way in WAYS:
        pipes[way], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, way, setting, tasks)))
        processes[-1].start()
    rounds: list[dict[str, float]] = []
    for index in range(setting.rounds + 1):
        took = {}
        for way, pipe in pipes.items():
            pipe.send("step")
            took[way] = pipe.recv()
        if index:  # the first is for warming up
            rounds.append(took)
    memory = {}
    for way, pipe in pipes.items():
        pipe.send("end")
        memory[way] = pipe.recv()
    for process in processes:
        process.join()
    least, matrix = memory["bare"]
    line = [setting.network, str(setting.batch), str(setting.size), str(tasks)]
    line.append(f"{1000 * statistics.median(took['bare'] for took in rounds):.0f}")
    for way in WAYS[1:]:
        ratios = sorted(took[way] / took["bare"] for took in rounds)
        line.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
    line += [f"{(memory[way][0] - least) / matrix:.2f}" for way in WAYS[1:]]
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--batch", type=int, default=32, help="samples (default: 32)")
    parser.add_argument("--size", type=int, default=32, help="an image's side (default: 32)")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 10], help="(default: 2 10)")
    parser.add_argument("--rounds", type=int, default=3, help="after the first (default: 3)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    setting = parser.parse_args(arguments)
    labels = ["network", "batch", "size", "T", "bare ms"]
    labels += [f"{way} / bare" for way in WAYS[1:]] + [f"memory {way}" for way in WAYS[1:]]
    print(f"| {' | '.join(labels)} |")
    print(f"|{'|'.join(['---'] + ['---:'] * (len(labels) - 1))}|")
    for tasks in setting.tasks:
        print(f"| {' | '.join(measure(setting, tasks))} |", flush=True)


if __name__ == "__main__":
    main()
