"""Damaged checkpoints: whatever reads them says so in a sentence, and never takes other numbers."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import collections
import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import LibMTL
import pytest
import torch
from fuzz.damage import OF_BYTES, OTHER_THINGS, damaged_values
from fuzz.in_time import time_limit
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn

from libmtl_recon import ReconError
from libmtl_recon.integrations.libmtl.architectures.starting import load_split, load_start
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.loading import load_strictly
from libmtl_recon.splitting.checkpoint import load_optimizer, read_checkpoint

TASKS = ("a", "b")
LONGEST = 1500
SECONDS = 20


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.norm(self.one(x))))


def trained(arch: str, weighting: str = "EW") -> LibMTL.Trainer:
    """A trainer after a step of its optimiser."""
    torch.manual_seed(0)
    by_name = detect(LibMTL).by_name
    one = {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
    arch_args = {"recon_k": 2, "recon_s": -0.1, "recon_layers": "one,norm"}
    trainer = LibMTL.Trainer(
        task_dict=dict.fromkeys(TASKS, one),
        weighting=weighting if by_name else vars(LibMTL.weighting)[weighting],
        architecture=arch if by_name else vars(LibMTL.architecture)[arch],
        encoder_class=Encoder,
        decoders=nn.ModuleDict({task: nn.Linear(6, 2) for task in TASKS}),
        rep_grad=False,
        multi_input=False,
        optim_param={"optim": "adam", "lr": 1e-2},
        scheduler_param=None,
        weight_args={},
        arch_args=arch_args if arch == "Recon" else {},
        **({"save_path": None, "load_path": None} if detect(LibMTL).saves_models else {}),
    )
    sum(p.square().sum() for p in trainer.model(torch.randn(4, 5)).values()).backward()
    trainer.optimizer.step()
    return trainer


class Readers:
    """All that reads checkpoints, over small models, and good checkpoints for them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.pt"
        self.split, self.plain = trained("Recon"), trained("HPS", "UW")
        plain, whole = self.plain.model.state_dict(), self.split.model.state_dict()
        both = {"model": dict(plain), "optimizer": self.plain.optimizer.state_dict()}
        self.good = [dict(plain), plain, dict(self.plain.model.encoder.state_dict()), whole, both]
        self.files = [_bytes(value) for value in self.good]
        self.files += [_bytes(plain, zipped=False), _bytes(both, zipped=False)]

    def __iter__(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        yield "--recon_from", self._start
        yield "extract", lambda: load_split(self.split.model, self._read())
        yield "extract HPS", lambda: load_split(self.plain.model, self._read())
        yield "--load_path", lambda: load_strictly(self.plain.model, self.file)
        yield "--load_path Recon", lambda: load_strictly(self.split.model, self.file)

    def _read(self) -> Any:
        return read_checkpoint("CHECKPOINT", self.file)

    def _start(self) -> None:
        checkpoint = self._read()
        load_start(self.split.model, checkpoint)
        if checkpoint.optimizer is not None:
            load_optimizer(self.split.model, self.split.optimizer, checkpoint)


def _bytes(value: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def draw(readers: Readers, rng: random.Random) -> tuple[str, bytes]:
    """The kind of a damage, and the damaged file."""
    kind = rng.random()
    if kind < 0.45:
        damage = rng.choice(OF_BYTES)
        return damage.__name__, damage(bytearray(rng.choice(readers.files)), rng)
    if kind < 0.6:
        return "other", rng.choice(OTHER_THINGS)(rng)
    return "values", _bytes(damaged_values(rng.choice(readers.good), rng))


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 40), pytest.param(2, 1500, marks=pytest.mark.slow)]
)
def test_a_damaged_checkpoint_is_a_sentence(seed: int, count: int, tmp_path: Path) -> None:
    readers, rng = Readers(tmp_path), random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(count):
        kind, data = draw(readers, rng)
        readers.file.write_bytes(data)
        for name, read in readers:
            where = f"file {number} of seed {seed} ({kind}) read for {name}"
            try:
                with time_limit(SECONDS, "a checkpoint"), contextlib.redirect_stdout(io.StringIO()):
                    read()
                outcomes["read"] += 1
            except ReconError as error:
                said = str(error)
                assert said.endswith((".", ")")), where
                assert "checkpoint" in said or "network" in said or str(readers.file) in said, where
                assert len(said) < LONGEST, f"{where}: {said}"
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    assert outcomes.total() == 5 * count
    assert outcomes["refused"] > 3 * count, "what is damaged fits hardly ever"


@pytest.mark.parametrize(
    ("seed", "count"), [(3, 25), pytest.param(4, 1000, marks=pytest.mark.slow)]
)
def test_no_other_numbers_are_taken(seed: int, count: int, tmp_path: Path) -> None:
    """Torch does not compare the check sums of what it reads."""
    rng = random.Random(seed)
    good = {f"layer{n}.weight": torch.randn(20, 20) for n in range(3)}
    file, data = tmp_path / "checkpoint.pt", _bytes(good)
    refused = 0
    for _ in range(count):
        file.write_bytes(rng.choice(OF_BYTES[:8])(bytearray(data), rng))
        try:
            found = read_checkpoint("CHECKPOINT", file).model
        except ReconError:
            refused += 1
            continue
        assert found.keys() == good.keys()
        assert all(torch.equal(found[key], value) for key, value in good.items())
    assert refused > 0.7 * count
