"""The loss of the skip connection in the Recon authors' residual block, and its effect.

    python benchmarks/skip_connection.py --checkout Recon          # a clone of moukamisama/Recon
    python benchmarks/skip_connection.py --output runs/recon       # what recon_study.py has ranked

In the authors' `BasicBlock` the loop that adds the skip connection runs over the block's inputs,
of which there is only one if nothing before the block is split. If a split begins inside a block,
the skip connection therefore only reaches task 1.

The first command splits each layer of a ResNet18 alone, in their program and in ours, with the same
parameters in float64, and compares the outputs. The second trains networks of the Recon study whose
layers are chosen at random, with the first seeds whose split begins inside a block, in three ways:
with the skip connection for both tasks; for task 1 only; and with running statistics of batch norms
that all tasks update, which is the other difference of their program. It continues where it was
stopped.
"""

from __future__ import annotations

import libmtl_recon  # first, so that LibMTL can be imported with current torch versions

# isort: split
import argparse
import contextlib
import itertools
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from recon_study_jobs import Job
from recon_study_results import SHOWN, K, S, Training, read_trainings
from recon_study_training import train
from torch import Tensor
from torchvision.models.resnet import BasicBlock

from libmtl_recon import ConflictProfile, split_layers
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.multi_fashion_mnist import FEATURES, PAIRS, ResNet18
from libmtl_recon.profiles.selection import select_layers
from libmtl_recon.splitting.task_tensor import TaskTensor

TASKS = tuple(PAIRS[Job.pair])
WAYS = {
    "ours": "both tasks",
    "skip": "task 1 alone",
    "mixed": "both tasks; mixed running statistics",
}
SELECTS = ("random", "random_params")


class Difference(NamedTuple):
    """The largest difference of the outputs ``[B, 100]`` of the two programs, per task."""

    layer: str
    tasks: tuple[float, ...]


def compare(checkout: Path) -> list[Difference]:
    """Split each layer of a ResNet18 alone, and compare the outputs with the authors' program."""
    sys.path.insert(0, str(checkout))
    from archs import resnet_recon_arch as authors  # type: ignore[import-not-found]

    torch.manual_seed(0)
    images = torch.randn(4, 1, 36, 36, dtype=torch.float64)
    plain = ResNet18().double()
    plain(images)  # running statistics other than the initial ones
    found = []
    for layer in [name for name, module in plain.named_modules() if module._parameters]:
        with tempfile.TemporaryDirectory() as folder:
            chosen = Path(folder, "layers.json")
            chosen.write_text(json.dumps({layer: 1}), "utf-8")
            theirs = authors.resnet18_recon(
                num_classes=FEATURES,
                tasks=list(TASKS),
                branch_type="branched",
                topK=1,
                conflict_scores_file=str(chosen),
            )
        theirs.double().load_state_dict(
            {
                key: plain.state_dict()[re.sub(r"\.m_list\.\d", "", key)]
                for key in theirs.state_dict()
            }
        )
        ours = ResNet18().double()
        ours.load_state_dict(plain.state_dict())
        split = split_layers(ours, [layer], TASKS)
        with torch.no_grad():
            pairs = zip(split.eval()(images).parts, theirs.eval()(images), strict=True)
            far = tuple(float((one - other).abs().max()) for one, other in pairs)
        found.append(Difference(layer, far))
    return found


def print_differences(found: Sequence[Difference]) -> None:
    """Print one line per layer."""
    print("| layer split alone | " + " | ".join(TASKS) + " |\n|---|" + "---:|" * len(TASKS))
    for layer, tasks in found:
        print(f"| `{layer}` | " + " | ".join(f"{value:.2g}" for value in tasks) + " |")
    lost = sum(tasks[1] > 1e-9 for _, tasks in found)
    print(f"\nTask 2 differs for {lost} of {len(found)} layers, task 1 for", end=" ")
    print(f"{sum(tasks[0] > 1e-9 for _, tasks in found)}.")


@contextlib.contextmanager
def skip_for_task_1() -> Iterator[None]:
    """Add, inside the ``with`` block, a shared input of a residual block to task 1 only."""
    right = BasicBlock.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        identity = x if self.downsample is None else self.downsample(x)
        if isinstance(out, TaskTensor) and not isinstance(identity, TaskTensor):
            first, *others = out.parts
            out = TaskTensor([first + identity, *others], out.task)
        else:
            out = out + identity
        result: Tensor = self.relu(out)
        return result

    BasicBlock.forward = forward
    try:
        yield
    finally:
        BasicBlock.forward = right


def train_one(job: Job, settings: str, output: Path, way: str) -> None:
    """Run a training in a separate process."""
    if way == "mixed":
        settings = json.dumps({**json.loads(settings), "recon_bn": "mixed"})
    with skip_for_task_1() if way == "skip" else contextlib.nullcontext():
        train(job, settings, output)


def begins_inside(layers: Sequence[str], order: Sequence[str]) -> bool:
    """Return whether the first of the layers is inside a residual block whose input is shared."""
    first = min(layers, key=order.index)
    if not re.match(r"layer\d", first):
        return False
    # A downsampled skip connection is split with its own layers.
    block = first.rsplit(".", 2)[0] if "downsample" in first else first.rsplit(".", 1)[0]
    return not any(name.startswith(f"{block}.downsample") for name in layers)


def chosen_by(output: Path, job: Job) -> tuple[str, ...]:
    """Return the layers that a training splits."""
    profile = ConflictProfile.from_json((output / "profile.json").read_text("utf-8"))
    source = str(output / "profile.json")
    return select_layers(profile.architecture, K, S, source, select=job.select, seed=job.seed).names


def jobs_of(output: Path, seeds: int) -> list[Job]:
    """Return, for each random choice, the first seeds whose split begins inside a block."""
    profile = ConflictProfile.from_json((output / "profile.json").read_text("utf-8"))
    order = list(profile.layer_names)
    jobs = []
    for select in SELECTS:
        every = (Job(select=select, seed=seed) for seed in itertools.count())
        inside = (job for job in every if begins_inside(chosen_by(output, job), order))
        jobs += list(itertools.islice(inside, seeds))
    return jobs


def study(output: Path, seeds: int, workers: int) -> None:
    """Run the missing trainings, and print the table."""
    settings = (output / "settings.json").read_text("utf-8")
    profile = (output / "profile.json").read_text("utf-8")
    jobs, todo = jobs_of(output, seeds), []
    for way in WAYS:
        folder = output / "skip" / way
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        (folder / "profile.json").write_text(profile, "utf-8")
        todo += [(j, way) for j in jobs if not (folder / "runs" / f"{j.name}.json").is_file()]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for future in [
            pool.submit(train_one, job, settings, output / "skip" / way, way) for job, way in todo
        ]:
            future.result()
    print_accuracies({way: read_trainings(output / "skip" / way) for way in WAYS}, jobs, output)


def print_accuracies(
    results: Mapping[str, Sequence[Training]], jobs: Sequence[Job], output: Path
) -> None:
    """Print one line per choice and seed, with test accuracies in percent."""
    labels = [f"{way}: {task}" for way in WAYS.values() for task in TASKS]
    print("| choice | seed | first layer split | " + " | ".join(labels) + " |")
    print("|---|---:|---|" + "---:|" * len(labels))
    order = [name for name, module in ResNet18(1).named_modules() if module._parameters]
    for job in jobs:
        first = min(chosen_by(output, job), key=order.index)
        cells = []
        for trainings in results.values():
            (own,) = [t for t in trainings if (t.select, t.seed) == (job.select, job.seed)]
            cells += [f"{100 * own.accuracy[task]:.1f}" for task in TASKS]
        print(f"| {SHOWN[job.select]} | {job.seed} | `{first}` | " + " | ".join(cells) + " |")


def main() -> None:
    """Run the comparison, the trainings, or both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, help="a clone of the authors' program")
    parser.add_argument("--output", type=Path, help="the folder of recon_study.py")
    parser.add_argument("--seeds", type=whole(1), default=3)
    parser.add_argument("--workers", type=whole(1), default=2)
    options = parser.parse_args()
    if options.checkout is None and options.output is None:
        parser.error("at least one of --checkout and --output is required")
    if options.checkout is not None:
        print_differences(compare(options.checkout))
    if options.output is not None:
        study(options.output, options.seeds, options.workers)


if __name__ == "__main__":
    libmtl_recon.activate()
    main()
