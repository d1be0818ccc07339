"""Runnable LibMTL scripts on real data, written as a user of LibMTL writes them."""

from __future__ import annotations

from pathlib import Path

BUILT_IN = {
    "multidigits": "two overlapping handwritten digits an image; embedded data, seconds on a CPU",
    "census_income": "income, marital status and education from a census form; UCI's public files",
    "multi_fashion_mnist": "a MNIST digit and a Fashion-MNIST article an image, ResNet18",
}


def path_of(problem: str) -> Path:
    """The script of a built-in problem."""
    return Path(__file__).parent / f"{problem}.py"
