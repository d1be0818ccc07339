"""Trains small problems, in one process or as one of several ranks, and writes what came of it.

Run by `ranks_problem.py`: the file to write, then the names of cases. Torchrun's variables say
whether there are several ranks; rank 0 writes.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from missing_problem import AbsoluteError
from small_problem import make_trainer

# Of a fork PYTHONPATH is not asked.
sys.path.insert(1, str(Path(__file__).parents[3]))

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting
import numpy as np
import torch
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from LibMTL.trainer import Trainer
from LibMTL.weighting.abstract_weighting import AbsWeighting
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from benchmarks.compatibility.cells import SPLIT
from benchmarks.compatibility.networks import NarrowNumpy, SmallResNet, make_decoder
from libmtl_recon.integrations.libmtl import prepared_arguments
from libmtl_recon.integrations.libmtl.data_parallel import group
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.hooks import Measurement, TrainerHook, trainer_hooks
from libmtl_recon.integrations.libmtl.loaders import Loader
from libmtl_recon.integrations.libmtl.scoring import ScoringHook

RANK = int(os.environ.get("RANK", "0"))
SAMPLES, BATCH, EPOCHS = 16, 5, 3  # twelve steps; the last of four batches has one sample
TASKS = ("t0", "t1", "t2")
IMAGE = (3, 32, 32)
NAN = float("nan")
Found = dict[str, Any]


class SquaredError(AbsLoss):  # type: ignore[misc]
    """A mean over the values that are there, as over valid pixels."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        valid = gt > -9
        return ((pred - gt).square() * valid).sum() / valid.sum()


class FlatError(AbsLoss):  # type: ignore[misc]
    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return (pred - gt.flatten()).square().mean()


class DrawingError(SquaredError):
    """Leaves values out at random."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return super().compute_loss(pred, torch.where(torch.rand_like(gt) < 0.3, -10, gt))


class DrawingAbsoluteError(AbsoluteError):
    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        super().update_fun(pred * random.random() * np.random.rand(), gt * torch.rand_like(gt))


class FlatAbsoluteError(AbsoluteError):
    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        super().update_fun(pred.view(gt.shape), gt)


class Rows(Dataset[Any]):
    """Regressions of rows or of images."""

    def __init__(
        self,
        task: str | None,
        changed: Callable[[dict[str, Tensor]], None],
        shape: tuple[int, ...] = (6,),
    ) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(SAMPLES, *shape, generator=generator).to(torch.get_default_dtype())
        flat = self.x.flatten(1)
        self.y = {t: torch.sin(flat[:, i : i + 2] * (i + 1)) for i, t in enumerate(TASKS)}
        changed(self.y)
        self.task = task

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        labels = {task: y[index] for task, y in self.y.items()}
        return self.x[index], labels if self.task is None else labels[self.task]


class Stream(IterableDataset[Any]):
    """The same without indices, in an order of its own."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        for index in torch.randperm(SAMPLES).tolist():
            yield self.rows[index]

    def __len__(self) -> int:
        return SAMPLES


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        return torch.tanh(self.three(torch.tanh(self.two(x))))


class WideEncoder(nn.Module):
    """Layers by products and by rows, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 200), nn.Linear(200, 200)
        self.conv = nn.Conv1d(50, 40, 3, padding=1, stride=2)
        self.last = nn.Linear(80, 7)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        x = torch.tanh(self.two(torch.tanh(self.two(x))))
        x = torch.tanh(self.conv(x.unflatten(1, (50, 4)))).flatten(1)
        return torch.tanh(self.last(x) * self.scale)


class NormEncoder(nn.Module):
    """Batch norms, in front of which no bias stands: its gradient would be nothing but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Conv1d(1, 4, 3, bias=False), nn.BatchNorm1d(4)
        self.two, self.second = nn.Conv1d(4, 4, 3, bias=False), nn.BatchNorm1d(4, momentum=None)
        self.last = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.one(x[:, None])))
        x = torch.tanh(self.second(self.two(x)))
        return torch.tanh(self.last(x.flatten(1)))


class CheckpointedEncoder(NormEncoder):
    """Batch norms in what is computed again in each backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class ElsewhereNormEncoder(nn.Module):
    """Two batch norms of one width, of which the data chooses one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = nn.Conv1d(1, 4, 3, bias=False), nn.Linear(16, 7)
        self.norms = nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(4)])

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norms[int(x[0, 0] > 0)]
        return torch.tanh(self.last(torch.tanh(norm(self.one(x[:, None]))).flatten(1)))


class OwnSyncEncoder(NormEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.SyncBatchNorm(4)


class AveragingEncoder(Encoder):
    """Keeps a mean of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(dim=0), 0.1)
        return super().forward(x - self.mean)


class OfRankEncoder(Encoder):
    """Begins otherwise on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.one.weight.data += RANK


class SparseEncoder(Encoder):
    """With a table, of which each rank's samples reach some rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 12, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        found = self.table(((x[:, 0] + 3) * 3).long().clamp(0, 19))
        return torch.tanh(self.three(torch.tanh(self.two(torch.tanh(self.one(x)) + found))))


class ComplexEncoder(Encoder):
    """With complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(12, 12, dtype=torch.complex128) / 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(x)).to(torch.complex128) @ self.turn
        return torch.tanh(self.three(torch.tanh(self.two(hidden.abs()))))


class ChoosingEncoder(Encoder):
    """A layer that some samples go through; parts of a batch without them do not call it."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0.8
        x = torch.tanh(self.one(x))
        if bool(chosen.any()):
            x = x.index_put((chosen,), torch.tanh(self.two(x[chosen])))
        return torch.tanh(self.three(x))


class DropoutEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=self.training)


class FlatDecoder(nn.Linear):
    """Predictions with a row for each of a sample's numbers."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).flatten()


class OfNoSample(nn.Linear):
    """A prediction that has nothing to do with samples."""

    def forward(self, z: Tensor) -> Tensor:
        return self.weight


class Measured(TrainerHook):
    on_every_rank = True

    def __init__(self) -> None:
        self.values: list[float] = []

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        self.values += measurement.losses.values()
        for metrics in measurement.metrics.values():
            self.values += metrics.values()


def nothing(_: dict[str, Tensor]) -> None:
    pass


def some_missing(labels: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(5)
    for y in labels.values():
        y[torch.rand(SAMPLES, generator=generator) < 0.4] = NAN


def one_task_seldom(labels: dict[str, Tensor]) -> None:
    labels["t1"][1:] = NAN


def some_invalid(labels: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(6)
    for y in labels.values():
        y[torch.rand(y.shape, generator=generator) < 0.3] = -10


def train(
    weighting: str,
    *,
    changed: Callable[[dict[str, Tensor]], None] = nothing,
    workers: int = 0,
    stream: bool = False,
    shape: tuple[int, ...] = (6,),
    scored: bool = False,
    seed: int = 0,
    training: dict[str, str] | None = None,
    data: Callable[[], Any] | None = None,
    loss: type[AbsLoss] = SquaredError,
    metric: type[AbsMetric] = AbsoluteError,
    decoder: type[nn.Linear] = nn.Linear,
    trainer_after: Callable[[Any], None] = nothing,  # type: ignore[assignment]
    **changes: Any,
) -> Found:
    prepared_arguments.forget()
    prepared_arguments.keep_training({"recon_gradients": "auto", **(training or {})})
    torch.manual_seed(seed)
    task = {"metrics": ["Err"], "weight": [0]}
    about = {t: task | {"metrics_fn": metric(), "loss_fn": loss()} for t in TASKS}
    measured, scoring = Measured(), ScoringHook()
    with trainer_hooks(measured, *([scoring] if scored else [])):
        given: dict[str, Any] = {
            "task_dict": about,
            "encoder_class": Encoder,
            "decoders": nn.ModuleDict({t: decoder(7, 2) for t in TASKS}),
        }
        trainer = make_trainer(weighting, **{**given, **changes})
        for make in (torch.manual_seed, random.seed, np.random.seed):
            make(seed)
        trainer_after(trainer)
        multi = trainer.multi_input

        def loader(task: str | None, shuffle: bool) -> Any:
            rows = Rows(task, changed, shape)
            if stream:
                return DataLoader(Stream(rows), batch_size=BATCH)
            return DataLoader(
                rows, BATCH, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0
            )

        def loaders(shuffle: bool) -> Any:
            if multi:
                return {task: loader(task, shuffle) for task in TASKS}
            return loader(None, shuffle)

        trainer.train(loaders(True) if data is None else data(), loaders(False), EPOCHS)
    found = {f"state {k}": v.clone() for k, v in trainer.model.state_dict().items()}
    found["weights"] = torch.as_tensor(np.array(trainer.batch_weight))
    found["measured"] = torch.tensor(measured.values)
    # Also of ranks that write nothing, whose schedulers may go by it.
    found["measured apart"] = spread(found["measured"])
    best = trainer.meter.best_result
    found["best"] = torch.tensor([best["epoch"], best["improvement"]], dtype=torch.float64)
    if scored:
        profile = scoring.profile()
        assert profile is not None
        found["counts"] = torch.from_numpy(np.asarray(profile.counts, dtype=np.float64))
        found["missed"] = torch.tensor([float(scoring.missed)])
    return found


def architecture(name: str) -> Any:
    return name if detect(LibMTL).by_name else vars(architectures)[name]


def recon(base: str | None = None, bn: str = "per_task", **layers: int) -> dict[str, Any]:
    path = Path(sys.argv[1]).with_name(f"layers-{os.getpid()}.json")
    path.write_text(json.dumps(layers), encoding="utf-8")
    arguments: dict[str, Any] = {"recon_layers": str(path), "recon_k": len(layers), "recon_bn": bn}
    if base is not None:
        arguments["recon_base"] = base
    return {"architecture": architecture("Recon"), "arch_args": arguments}


def mmoe() -> dict[str, Any]:
    arguments = {"img_size": [6], "num_experts": [2]}
    return {"architecture": architecture("MMoE"), "arch_args": arguments}


def over(base: str, *, split: bool) -> dict[str, Any]:
    """A small residual network under one of LibMTL's architectures, plain or split by Recon."""
    torch.manual_seed(0)  # of the decoders
    sys.modules["LibMTL.architecture.MTAN"].np = NarrowNumpy()  # type: ignore[attr-defined]
    arguments: dict[str, Any] = {"img_size": IMAGE, "num_nonzeros": 2, "kgamma": 1.0}
    arguments["num_experts"] = [3] if base == "DSelect_k" else [2, 1, 1, 1]
    found = {"architecture": architecture(base), "arch_args": arguments}
    if split:
        found = recon(base, **dict.fromkeys(SPLIT[base], 9))
        found["arch_args"] |= arguments
    torch.manual_seed(0)  # for the decoders, also where this is the first case
    return {
        **found,
        "shape": IMAGE,
        "encoder_class": SmallResNet,
        "decoders": nn.ModuleDict({t: make_decoder() for t in TASKS}),
        # A longer step makes a hundred times as much of a rounding, as in one process it does of
        # a batch in another order.
        "optim_param": {"optim": "adam", "lr": 1e-3},
        "trainer_after": without_noise,
    }


def every_second(trainer: Any) -> None:
    """Add two batches up before each step of the optimiser."""
    optimizer, calls = trainer.optimizer, {"zero": 0, "step": 0}

    def only_then(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> None:
            calls[name] += 1
            if calls[name] % 2 == (name == "zero"):
                function(*args, **kwargs)

        return called

    optimizer.zero_grad = only_then("zero", optimizer.zero_grad)
    optimizer.step = only_then("step", optimizer.step)


def changed_on_one_rank(trainer: Any) -> None:
    """Have rank 1 change a parameter after each step."""
    step = trainer.optimizer.step

    def then(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        with torch.no_grad():
            trainer.model.encoder.one.weight.mul_(1 + 1e-4 * RANK)

    trainer.optimizer.step = then


def spread(own: Tensor) -> Tensor:
    """Return the largest difference between the ranks' numbers."""
    ranks = group.ranks()
    everyone = torch.stack([own] if ranks is None else ranks.gather(own)).nan_to_num(-9)
    return (everyone - everyone[0]).abs().max()


def apart(trainer: Any) -> Tensor:
    """Return the largest difference between the ranks' states."""
    return spread(torch.cat([v.double().flatten() for v in trainer.model.state_dict().values()]))


def begun_otherwise() -> Found:
    """Ranks that begin otherwise, when their models are built and again before they train."""
    seen = []

    def look(trainer: Any) -> None:
        seen.append(apart(trainer))
        trainer.model.encoder.two.weight.data += RANK

    found = train("EW", encoder_class=OfRankEncoder, trainer_after=look)
    return found | {"apart": seen[0]}


def norms_apart() -> Found:
    """Batch norms that were not synchronised, after an evaluation."""
    trainers: list[Any] = []
    training = {"recon_sync_bn": "off"}
    train("EW", encoder_class=NormEncoder, training=training, trainer_after=trainers.append)
    return {"apart": apart(trainers[0])}


def without_noise(trainer: Any) -> None:
    """Freeze biases before batch norms, whose gradients are nothing but rounding."""
    for module in trainer.model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.requires_grad_(False)


def rotograd(mode: str) -> dict[str, Any]:
    return {
        "weight_args": {
            "rotograd_size": None,
            "rotograd_mode": mode,
            "rotograd_map": "cayley",
            "rotograd_burn_in": 3,
            "rotograd_every": 1,
            "rotograd_alpha": 1.5,
            "rotograd_lr": 5e-3,
            "rotograd_decay": 0.99,
        }
    }


class OfLosses(AbsWeighting):  # type: ignore[misc]
    """A script's own, which knows the losses alone."""

    def backward(self, losses: Tensor, **_: Any) -> Any:
        weights = torch.softmax(losses.detach(), dim=0)
        (weights * losses).sum().backward()
        return weights.numpy()


class OfGradients(AbsWeighting):  # type: ignore[misc]
    """A script's own, by LibMTL's functions."""

    def backward(self, losses: Tensor, **_: Any) -> Any:
        rows = self._get_grads(losses, mode="backward")
        weights = torch.softmax(-rows.norm(dim=1), dim=0)
        self._backward_new_grads(weights, grads=rows)
        return weights.numpy()


class ByItself(AbsWeighting):  # type: ignore[misc]
    """A script's own, which differentiates by itself."""

    allow_unused = False

    def backward(self, losses: Tensor, **_: Any) -> None:
        shared = list(self.get_share_params())
        weights = torch.zeros(len(losses))
        for place, loss in enumerate(losses):
            found = torch.autograd.grad(
                loss, shared, retain_graph=True, allow_unused=self.allow_unused
            )
            weights[place] = sum(float(g.norm()) for g in found if g is not None)
        for loss, weight in zip(losses, weights.tolist(), strict=True):
            for parameter, gradient in zip(
                shared,
                torch.autograd.grad(
                    loss, shared, retain_graph=True, allow_unused=self.allow_unused
                ),
                strict=True,
            ):
                if gradient is not None:
                    parameter.grad = gradient * weight


class ByItselfInSilence(ByItself):
    allow_unused = True


OWN = (OfLosses, OfGradients, ByItself, ByItselfInSilence)
for _one in OWN:
    setattr(LibMTL.weighting, _one.__name__, _one)


class OwnLosses(Trainer):  # type: ignore[misc]
    def _compute_loss(self, preds: Any, gts: Any, task_name: str | None = None) -> Tensor:
        return torch.stack([(preds[t] - gts[t]).square().mean() for t in self.task_name])


class MoreLosses(Trainer):  # type: ignore[misc]
    """Adds to LibMTL's losses what depends on parameters alone."""

    def _compute_loss(self, preds: Any, gts: Any, task_name: str | None = None) -> Tensor:
        losses: Tensor = super()._compute_loss(preds, gts, task_name)
        return losses + 0.1 * sum(p.square().sum() for p in self.model.get_share_params())


class OwnLoaders(Trainer):  # type: ignore[misc]
    def _prepare_dataloaders(self, dataloaders: Any) -> Any:
        loader = Loader(dataloaders)
        return [loader, iter(loader)], len(loader)


class Changed(Trainer):  # type: ignore[misc]
    """Makes other tensors of what was loaded."""

    def _process_data(self, loader: Any) -> Any:
        data, labels = super()._process_data(loader)
        return data * 2, labels


def distributed_sampler() -> Any:
    rows = Rows(None, nothing)
    sampler = DistributedSampler(rows, num_replicas=2, rank=0)
    return DataLoader(rows, BATCH, sampler=sampler)


def padded() -> Any:
    def pad(samples: Any) -> Any:
        width = max(int(abs(x[0]) * 10) + 1 for x, _ in samples)
        x = torch.stack([x for x, _ in samples])
        labels = {t: torch.stack([y[t] for _, y in samples]) for t in TASKS}
        return x, {t: y.repeat(1, width) for t, y in labels.items()}

    return DataLoader(Rows(None, nothing), BATCH, collate_fn=pad)


def of_four() -> Any:
    return DataLoader(Rows(None, nothing), 4, shuffle=True)


def sets_of_indices() -> Any:
    class Sets:
        def __iter__(self) -> Any:
            yield {0, 1, 2}

        def __len__(self) -> int:
            return 1

    return DataLoader(Rows(None, nothing), batch_sampler=Sets())


def in_bfloat16() -> Found:
    torch.set_default_dtype(torch.float32)
    try:
        return train("GradOPS", training={"recon_amp": "bf16"})
    finally:
        torch.set_default_dtype(torch.float64)


def dtypes_of_norms() -> Found:
    """The sizes of the numbers that a batch norm returns for bfloat16 ones, by bf16."""
    found: list[int] = []

    def note(trainer: Any) -> None:
        trainer.model.encoder.first.register_forward_hook(
            lambda _, given, returned: found.extend((given[0].itemsize, returned.itemsize))
        )

    torch.set_default_dtype(torch.float32)
    try:
        train("EW", encoder_class=NormEncoder, training={"recon_amp": "bf16"}, trainer_after=note)
    finally:
        torch.set_default_dtype(torch.float64)
    return {"sizes": torch.tensor(found)}


def own_process_group() -> Found:
    """Create a process group before this package has created its own."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    return train("EW")


BASES = ("MTAN", "MMoE", "CGC", "PLE", "DSelect_k")


def dropout_differs() -> Found:
    """Return what each rank draws in its first pass; equal numbers would be equal dropout."""
    drawn: list[Tensor] = []

    def note(trainer: Any) -> None:
        # Of torch's generator rank 0 alone has drawn the order of samples meanwhile.
        trainer.model.encoder.register_forward_pre_hook(
            lambda *_: drawn.append(
                torch.tensor([random.random(), np.random.rand(), torch.rand(1)])
            )
        )

    train("EW", encoder_class=DropoutEncoder, trainer_after=note)
    ranks = group.ranks()
    everyone = [drawn[0]] if ranks is None else ranks.gather(drawn[0])
    columns = torch.stack(everyone).T.tolist()
    return {"different": torch.tensor(min(len(set(of_generator)) for of_generator in columns))}


OF_BOTH = ("EW", "UW", "DWA", "GLS", "RLW", "GradNorm", "MGDA", "PCGrad", "GradVac", "IMTL")
OF_MAIN = ("FAMO", "MoDo", "Nash_MTL", "UPGrad", "Aligned_MTL", "FairGrad", "STCH", "MoCo")
PLAIN = (*OF_BOTH, "CAGrad", "GradOPS", *OF_MAIN, "DB_MTL", "ExcessMTL", "SDMGrad")
MODES = ("full", "rotate", "scale", "gradnorm")
GRAMIANS = ("GradOPS", "PCGrad", "MGDA", "CAGrad")
CASES: dict[str, Callable[[], Found]] = {
    **{name: lambda name=name: train(name) for name in PLAIN},
    **{f"RotoGrad {mode}": lambda mode=mode: train("RotoGrad", **rotograd(mode)) for mode in MODES},
    **{
        f"{name}, {way}": lambda name=name, way=way: train(
            name, encoder_class=WideEncoder, training={"recon_gradients": way}
        )
        for name in GRAMIANS
        for way in ("auto", "ghost", "stored")
    },
    **{
        f"{name}, missing labels": lambda name=name: train(name, changed=some_missing)
        for name in ("EW", "GradOPS", "UW", "GradVac", "MGDA")
    },
    "RotoGrad full, missing labels": lambda: train(
        "RotoGrad", changed=some_missing, **rotograd("full")
    ),
    **{
        f"{name}, one task seldom": lambda name=name: train(name, changed=one_task_seldom)
        for name in ("EW", "GradOPS")
    },
    **{
        f"{name}, valid pixels": lambda name=name: train(name, changed=some_invalid)
        for name in ("EW", "GradOPS")
    },
    **{
        f"{name}, multi_input": lambda name=name: train(name, multi_input=True)
        for name in ("EW", "GradOPS", "PCGrad", "GradNorm")
    },
    **{
        f"RotoGrad {mode}, multi_input": lambda mode=mode: train(
            "RotoGrad", multi_input=True, **rotograd(mode)
        )
        for mode in ("full", "gradnorm")
    },
    **{
        f"{name}, rep_grad": lambda name=name: train(name, rep_grad=True)
        for name in ("MGDA", "GradNorm", "IMTL")
    },
    **{
        f"{name}, Recon": lambda name=name: train(name, **recon(two=9, three=8))
        for name in ("EW", "GradOPS", "PCGrad")
    },
    "RotoGrad full, Recon": lambda: train("RotoGrad", **rotograd("full"), **recon(two=9)),
    "GradOPS, MMoE of rows": lambda: train("GradOPS", **mmoe()),
    **{
        f"PCGrad, {base}": lambda base=base: train("PCGrad", **over(base, split=False))
        for base in (*BASES, "Cross_stitch", "LTB")
    },
    **{
        f"PCGrad, Recon over {base}": lambda base=base: train("PCGrad", **over(base, split=True))
        for base in BASES
    },
    **{
        f"{name}, chosen layers": lambda name=name: train(name, encoder_class=ChoosingEncoder)
        for name in ("EW", "GradOPS")
    },
    "EW, workers": lambda: train("EW", workers=2),
    "GradOPS, stream": lambda: train("GradOPS", stream=True),
    **{
        f"{name}, batch norm": lambda name=name: train(name, encoder_class=NormEncoder)
        for name in ("EW", "GradOPS")
    },
    **{
        f"{name}, batch norm, checkpointed": lambda name=name: train(
            name, encoder_class=CheckpointedEncoder, data=of_four
        )
        for name in ("EW", "GradOPS")
    },
    "GradOPS, batch norm, ghost": lambda: train(
        "GradOPS", encoder_class=NormEncoder, training={"recon_gradients": "ghost"}
    ),
    "PCGrad, batch norm, Recon": lambda: train(
        "PCGrad", encoder_class=NormEncoder, **recon(one=9, first=8)
    ),
    "GradOPS, batch norm, checkpoint": lambda: train("GradOPS", encoder_class=CheckpointedEncoder),
    "dtypes of batch norms": dtypes_of_norms,
    "begun otherwise": begun_otherwise,
    "norms apart": norms_apart,
    "EW, drawn": lambda: train("EW", loss=DrawingError, metric=DrawingAbsoluteError),
    "RotoGrad gradnorm, flat": lambda: train(
        "RotoGrad",
        loss=FlatError,
        metric=FlatAbsoluteError,
        decoder=FlatDecoder,
        **rotograd("gradnorm"),
    ),
    "EW, batch norm, multi_input": lambda: train("EW", encoder_class=NormEncoder, multi_input=True),
    **{
        f"{name}, other seeds": lambda name=name: train(name, seed=7 * RANK)
        for name in ("RLW", "PCGrad")
    },
    **{
        f"{name}, scored": lambda name=name: train(name, scored=True)
        for name in ("EW", "GradOPS", "PCGrad", "MGDA", "MoCo")
    },
    "GradOPS, scored, ghost": lambda: train(
        "GradOPS", scored=True, encoder_class=WideEncoder, training={"recon_gradients": "ghost"}
    ),
    "GradOPS, scored, stored": lambda: train(
        "GradOPS", scored=True, training={"recon_gradients": "stored"}
    ),
    "EW, scored, wide": lambda: train("EW", scored=True, encoder_class=WideEncoder),
    "EW, scored, missing labels": lambda: train("EW", scored=True, changed=some_missing),
    "MGDA, scored, rep_grad": lambda: train("MGDA", scored=True, rep_grad=True),
    "RotoGrad full, scored": lambda: train("RotoGrad", scored=True, **rotograd("full")),
    "OfLosses": lambda: train("OfLosses"),
    "OfGradients": lambda: train("OfGradients"),
    "GradOPS, more losses": lambda: train("GradOPS", trainer_class=MoreLosses),
    "EW, changed data": lambda: train("EW", trainer_class=Changed),
    **{
        f"{name}, accumulated": lambda name=name: train(name, trainer_after=every_second)
        for name in ("EW", "GradOPS", "MGDA")
    },
    **{
        f"{name}, sparse": lambda name=name: train(
            name, encoder_class=SparseEncoder, optim_param={"optim": "sgd", "lr": 0.1}
        )
        for name in ("EW", "GradOPS", "PCGrad")
    },
    **{
        f"{name}, complex": lambda name=name: train(name, encoder_class=ComplexEncoder)
        for name in ("EW", "GradOPS")
    },
    "GradOPS, scheduler": lambda: train(
        "GradOPS", scheduler_param={"scheduler": "step", "step_size": 1, "gamma": 0.5}
    ),
    "PCGrad, batch norm, mixed": lambda: train(
        "PCGrad", encoder_class=NormEncoder, **recon(bn="mixed", one=9)
    ),
    "dropout": dropout_differs,
}
# Close to one process, and no closer.
ROUGH: dict[str, Callable[[], Found]] = {
    "GradOPS, bf16": in_bfloat16,
    "PCGrad, batch norm, Recon, off": lambda: train(
        "PCGrad",
        encoder_class=NormEncoder,
        training={"recon_sync_bn": "off"},
        **recon(one=9, first=8),
    ),
    "EW, batch norm, off": lambda: train(
        "EW", encoder_class=NormEncoder, training={"recon_sync_bn": "off"}
    ),
}
# What several ranks refuse.
REFUSED: dict[str, Callable[[], Found]] = {
    "by itself": lambda: train("ByItself"),
    "by itself, in silence": lambda: train("ByItselfInSilence"),
    "own of representations": lambda: train("OfGradients", rep_grad=True),
    "GradDrop": lambda: train("GradDrop", rep_grad=True),
    "own losses": lambda: train("GradOPS", trainer_class=OwnLosses),
    "own loaders": lambda: train("EW", trainer_class=OwnLoaders),
    "changed data and batch norm": lambda: train(
        "EW", trainer_class=Changed, encoder_class=NormEncoder
    ),
    "other batch norms": lambda: train("EW", encoder_class=ElsewhereNormEncoder),
    "batch norms by PyTorch": lambda: train("EW", encoder_class=OwnSyncEncoder),
    "own buffer": lambda: train("EW", encoder_class=AveragingEncoder),
    "changed on one rank": lambda: train("EW", trainer_after=changed_on_one_rank),
    "of no sample": lambda: train("EW", loss=FlatError, decoder=OfNoSample),
    "distributed sampler": lambda: train("EW", data=distributed_sampler),
    "padded": lambda: train("EW", data=padded),
    "sets of indices": lambda: train("EW", data=sets_of_indices),
    "own process group": own_process_group,
}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    path, *names = sys.argv[1:]
    if names == ["all"]:
        unknown = {name for name in PLAIN if not hasattr(LibMTL.weighting, name)}
        unknown |= {name for name in ("LTB",) if not hasattr(architectures, name)}
        names = [name for name in CASES if unknown.isdisjoint(name.split(", "))]
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = (CASES | ROUGH | REFUSED)[name]()
        except Exception as error:  # told by the test
            if "RANKS_DEBUG" in os.environ:
                raise
            found[name] = f"{type(error).__name__}: {error}"
    if RANK == 0:
        torch.save(found, path)
    errors = {name: text for name, text in found.items() if isinstance(text, str)}
    Path(f"{path}.{RANK}").write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":
    main()
