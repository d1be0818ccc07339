"""A problem's script, run in this process, and the real data that one of them needs."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from LibMTL.config import LibMTL_args
from LibMTL.utils import set_random_seed
from platformdirs import user_cache_path

from libmtl_recon import Measurement, TrainerHook
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))


class Recorder(TrainerHook):
    """Keeps what a run built and measured."""

    def built(self, trainer) -> None:
        self.trainer = trainer
        self.measurements: list[Measurement] = []

    def measured(self, trainer, measurement: Measurement) -> None:
        self.measurements.append(measurement)

    def accuracies(self, mode: str) -> dict[str, float]:
        """After the last epoch."""
        last = [m for m in self.measurements if m.mode == mode][-1]
        return {task: metrics["Acc"] for task, metrics in last.metrics.items()}


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Reads a command line as a script does; LibMTL's parser, which scripts change, is a copy."""

    def read(script: ModuleType, *flags: str):
        monkeypatch.setattr(script, "LibMTL_args", copy.deepcopy(LibMTL_args))
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *flags])
        return script.parse_args()

    return read


@pytest.fixture
def run(parse: Callable) -> Callable[..., Recorder]:
    """Runs a script's training to its end."""

    def train(script: ModuleType, *flags: str) -> Recorder:
        params = parse(script, *flags)
        set_random_seed(params.seed)
        recorder = Recorder()
        with trainer_hooks(recorder):
            script.main(params)
        return recorder

    return train


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with MNIST and Fashion-MNIST."""
    given = os.environ.get("LIBMTL_RECON_DATA")
    folder = Path(given) if given else user_cache_path("libmtl-recon") / "data"
    missing = [
        name
        for name in ("MNIST", "FashionMNIST")
        if not (folder / name / "raw" / "train-images-idx3-ubyte").is_file()
    ]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not in {folder}; set LIBMTL_RECON_DATA to a folder that has "
            "them"
        )
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(folder))
    return folder
