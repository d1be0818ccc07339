"""Trainings in one process and on several ranks, side by side, and how far they are apart."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CHILD = Path(__file__).with_name("train_on_ranks.py")
REPOSITORY = Path(__file__).parents[3]
PATIENCE = 900


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def run_on_ranks(
    words: Sequence[str | Path],
    ranks: int,
    *,
    python: Sequence[str] = (sys.executable,),
    libmtl: str = "",
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Run a Python command line on each of several ranks, as torchrun does, or in one process."""
    port, processes = free_port(), []
    path = [libmtl, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    common = {
        **os.environ,
        "LIBMTL_RECON_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        **(environment or {}),
    }
    for rank in range(ranks):
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [*python, *map(str, words)],
                env=common | (own if ranks > 1 else {}),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        found.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return found


# What was trained, by the names of cases; what it failed by, where it has.
Trained = dict[str, dict[str, torch.Tensor] | str]


def trained(folder: Path, cases: Sequence[str], ranks: int, **how: Any) -> Trained:
    """Return the results of the cases, by name."""
    path = folder / f"{ranks}.pt"
    done = run_on_ranks([CHILD, path, *cases], ranks, **how)
    for rank, one in enumerate(done):
        assert one.returncode == 0, f"rank {rank} of {ranks}: {one.stderr}"
    found: Trained = torch.load(path, weights_only=True)
    return found


def refused(folder: Path, cases: Sequence[str], ranks: int, **how: Any) -> list[dict[str, str]]:
    """Return the error of each rank, by the names of the cases."""
    path = folder / f"{ranks}.pt"
    done = run_on_ranks([CHILD, path, *cases], ranks, **how)
    assert [one.returncode for one in done] == [0] * ranks, done[-1].stderr
    return [json.loads(Path(f"{path}.{r}").read_text(encoding="utf-8")) for r in range(ranks)]


def distance(found: Any, wanted: Any) -> tuple[float, str]:
    """Return the largest difference, absolute or relative to the largest entry, and its place."""
    if isinstance(found, str) or isinstance(wanted, str):
        return float("inf"), str(found if isinstance(found, str) else wanted)
    if found.keys() != wanted.keys():
        return float("inf"), str(set(found) ^ set(wanted))
    worst, where = 0.0, ""
    for name, value in wanted.items():
        own = found[name]
        if own.shape != value.shape:
            return float("inf"), f"{name}: {list(own.shape)} and {list(value.shape)}"
        a, b = _real(own), _real(value)
        if not a.numel():
            continue
        off = float((a - b).abs().max() / b.abs().max().clamp_min(1.0))
        if off > worst:
            worst, where = off, name
    return worst, where


def _real(values: torch.Tensor) -> torch.Tensor:
    values = torch.view_as_real(values) if values.is_complex() else values
    return values.double().nan_to_num(-9)
