"""A plain PyTorch loop: count the conflicts of two tasks, split the worst layers, train again.

Each image shows two overlapping handwritten digits, with one task per digit. The digits are those
that come with scikit-learn, so nothing is downloaded.

    python examples/plain_loop.py --out conflicts.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import libmtl_recon

TASKS = ("first", "second")
BATCH = 50


class Network(nn.Module):
    """A small convolutional network with one head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16 * 5 * 5, 24)
        self.heads = nn.ModuleDict({task: nn.Linear(24, 10) for task in TASKS})

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of the heads."""
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return torch.relu(self.linear(x.flatten(1)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.features(x)
        return {task: head(z) for task, head in self.heads.items()}


def load_images(seed: int = 0, size: int = 1500) -> tuple[Tensor, dict[str, Tensor]]:
    """Return images ``[size, 1, 11, 11]`` of two digits, and the label of each digit."""
    digits = load_digits()
    first, second = np.random.default_rng(seed).integers(len(digits.images), size=(2, size))
    images = np.zeros((size, 1, 11, 11))
    images[:, 0, :8, :8] = digits.images[first] / 16
    images[:, 0, 3:, 3:] += digits.images[second] / 16
    labels = {
        task: torch.from_numpy(digits.target[of])
        for task, of in zip(TASKS, (first, second), strict=True)
    }
    return torch.tensor(images.clip(0, 1), dtype=torch.get_default_dtype()), labels


def batches(
    images: Tensor, labels: dict[str, Tensor]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Iterate over the batches of one epoch."""
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        yield images[part], {task: label[part] for task, label in labels.items()}


def train(
    network: nn.Module, epochs: int, probe: libmtl_recon.ConflictProbe | None = None
) -> dict[str, float]:
    """Train, count conflicts if there is a probe, and return the accuracies on other images."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    images, labels = load_images()
    network.train()
    for _ in range(epochs):
        for x, y in batches(images, labels):
            outputs = network(x)
            losses = {task: nn.functional.cross_entropy(outputs[task], y[task]) for task in TASKS}
            optimizer.zero_grad()
            if probe is None:
                sum(losses.values()).backward()
            else:
                probe.backward(losses)
            optimizer.step()
    network.eval()
    images, labels = load_images(seed=1)
    with torch.no_grad():
        outputs = network(images)
    return {
        task: float((outputs[task].argmax(dim=1) == labels[task]).float().mean()) for task in TASKS
    }


def main(words: list[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--out", help="draw the profile in this .png, .svg or .pdf file")
    options = parser.parse_args(words)

    torch.manual_seed(0)
    network = Network()
    probe = libmtl_recon.ConflictProbe(network, TASKS)
    shared = train(network, options.epochs, probe)

    profile = probe.profile({"dataset": "two digits", "seed": 0})
    print(f"{profile.steps} steps. Share of steps with a cosine below -0.1, worst layers first:")
    for name, score in sorted(profile.scores(-0.1).items(), key=lambda one: -one[1]):
        print(f"  {name:8} {score / profile.steps:6.1%}")
    print(probe.stable(K=2))
    print(f"Kept as profile {libmtl_recon.ProfileCache().save(profile)}.")
    if options.out:
        libmtl_recon.draw_profile(profile, options.out, S=-0.1, K=2)

    worst = profile.layers(S=-0.1, K=2)
    torch.manual_seed(0)
    network = Network()
    libmtl_recon.split_layers(network, worst, TASKS, per_task_output=True)
    split = train(network, options.epochs)
    print(f"Accuracy with all layers shared, and with {' and '.join(worst)} split:")
    for task in TASKS:
        print(f"  {task:8} {shared[task]:6.1%} {split[task]:6.1%}")


if __name__ == "__main__":
    main()
