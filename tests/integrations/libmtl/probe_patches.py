"""Asks, of one LibMTL after another kind of import, whether each patched thing is right.

Run by `test_each_patch.py`: `probe_patches.py ours-first|libmtl-first` prints
{patch: what is wrong}.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

if sys.argv[1] == "libmtl-first":
    # What torchvision used to have, so that LibMTL can be imported without us.
    import torch.hub

    stub = types.ModuleType("torchvision.models.utils")
    stub.load_state_dict_from_url = torch.hub.load_state_dict_from_url  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub
else:
    import libmtl_recon

# isort: split
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.weighting import AbsWeighting

# isort: split
import libmtl_recon  # noqa: F401

TASKS = ["a", "b", "c"]


class Plain(nn.Module):
    """What LibMTL takes for a ResNet: its widths, and nothing that costs."""

    feature_dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(), nn.Identity()
        inside = 64
        for number, width in enumerate((64, 128, 256, 512), 1):
            stride = 2 if number == 2 else 1
            one, two = nn.Conv2d(inside, width, 1, stride), nn.Conv2d(width, width, 1)
            stage = nn.Sequential(one, two)
            setattr(self, f"layer{number}", stage)
            inside = width

    def forward(self, x: torch.Tensor) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet_network, self.own = Plain(), nn.Conv2d(512, 512, 1)

    def forward(self, x: torch.Tensor) -> Any:
        found = self.resnet_network(x)
        return [self.own(one) for one in found] if isinstance(found, list) else self.own(found)


class Sum(AbsWeighting):
    """Adds the tasks' gradients up, by LibMTL's own plumbing: the gradient of the sum."""

    def backward(self, losses: torch.Tensor, **_: Any) -> None:
        ones = torch.ones(len(losses))
        grads = self._get_grads(losses)
        if self.rep_grad:
            self._backward_new_grads(ones, per_grads=grads[0])
        else:
            self._backward_new_grads(ones, grads=grads)


def gradients(
    weighting: Any, architecture: str, encoder: Any, rep_grad: bool = False, **weight_args: Any
) -> dict[str, torch.Tensor]:
    """Every parameter's gradient after one step."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            task_dict={
                task: {
                    "metrics": ["Acc"],
                    "metrics_fn": AccMetric(),
                    "loss_fn": CELoss(),
                    "weight": [1],
                }
                for task in TASKS
            },
            weighting=weighting,
            architecture=vars(architectures)[architecture],
            encoder_class=encoder,
            decoders=nn.ModuleDict(
                {
                    task: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 2))
                    for task in TASKS
                }
            ),
            rep_grad=rep_grad,
            multi_input=False,
            optim_param={"optim": "sgd", "lr": 0.0},
            scheduler_param=None,
            weight_args=weight_args,
            arch_args={},
        )
        batch = torch.randn(4, 3, 4, 4)
        labels = {task: torch.arange(4) % (2 + i) % 2 for i, task in enumerate(TASKS)}
        trainer.train([(batch, labels)], [(batch, labels)], 1)
    return {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


def differing(ours: dict[str, torch.Tensor], sum_of_losses: dict[str, torch.Tensor]) -> list[str]:
    """The parameters whose gradient is not that of the sum of the losses."""
    largest = max(float(g.abs().max()) for g in sum_of_losses.values())
    return [
        name
        for name, wanted in sum_of_losses.items()
        if name not in ours or float((ours[name] - wanted).abs().max()) > 1e-5 * largest
    ]


def representations() -> list[str]:
    found = gradients(Sum, "Cross_stitch", Plain, rep_grad=True)
    return differing(found, gradients(weightings.EW, "Cross_stitch", Plain))


def mtan() -> list[str]:
    wrong = []
    for encoder in (Plain, Wrapper):
        wanted = gradients(weightings.EW, "MTAN", encoder)
        wrong += differing(gradients(Sum, "MTAN", encoder), wanted)
    return wrong


def dselect_k() -> list[str]:
    arguments = {"img_size": (3, 2, 2), "num_experts": [4], "num_nonzeros": 2, "kgamma": 1.0}
    made = architectures.DSelect_k(
        TASKS, Plain, nn.ModuleDict(), False, False, torch.device("cpu"), **arguments
    )
    wanted = [list(code) for code in itertools.product((False, True), repeat=2)]
    found = made._binary_codes[0].tolist()
    return [] if found == wanted else [str(found)]


class Fake(types.SimpleNamespace):
    """Stands in for a model."""

    __hash__ = object.__hash__


def gls() -> list[str]:
    wrong = []
    for size in (1e-9, 1e8):
        losses = (size * torch.arange(1.0, 6.0)).requires_grad_()
        fake = types.SimpleNamespace(task_num=5, device="cpu")
        returned = torch.as_tensor(weightings.GLS.backward(fake, losses))
        exact = losses.detach().double().requires_grad_()
        exact.log().mean().exp().backward()
        for found in (losses.grad, returned):
            if not torch.allclose(found.double(), exact.grad, rtol=1e-5):
                wrong.append(f"{found.tolist()} for losses of {size}")
    return wrong


def gradnorm() -> list[str]:
    found = gradients(weightings.GradNorm, "HPS", Plain, rep_grad=True, alpha=1.5)
    return differing(found, gradients(weightings.EW, "HPS", Plain))


def gradvac() -> list[str]:
    # Two gradients that agree: the targets must move towards their cosine.
    model = Fake(
        rep_grad=False,
        task_num=2,
        device="cpu",
        _compute_grad_dim=lambda: None,
        _compute_grad=lambda *_, **__: torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
        _reset_grad=lambda _: None,
    )
    weightings.GradVac.backward(model, torch.ones(2), beta=0.5)
    found = model.rho_T.flatten().tolist()
    right = [abs(a - b) < 1e-6 for a, b in zip(found, [0, 0.3, 0.3, 0], strict=True)]
    return [] if all(right) else [str(found)]


def mgda() -> list[str]:
    # Among random gradients like these, LibMTL's solver misses, or never ends, about once in 80.
    torch.manual_seed(280)
    grads = torch.randn(5, 8) * torch.arange(1.0, 6.0)[:, None] + 0.3
    products = grads @ grads.T
    weights = weightings.MGDA()._find_min_norm_element(grads)
    least = float((products @ weights).min())
    found = float(weights @ products @ weights)
    return [] if found - least < 1e-5 * float(products.max()) else ["not of least norm"]


def rlw() -> list[str]:
    losses = torch.ones(3, requires_grad=True)
    fake = types.SimpleNamespace(task_num=3, device="cpu")
    weight = weightings.RLW.backward(fake, losses, dist="constrained_Bernoulli")
    return [] if sorted(weight.tolist()) == [0, 0, 1] else [str(weight)]


def optimizers() -> list[str]:
    wrong = []
    for flags, wanted in (
        ("--optim adagrad", ({"optim": "adagrad", "lr": 0.5, "weight_decay": 0.1}, None)),
        ("--optim rmsprop", ({"optim": "rmsprop", "lr": 0.5, "weight_decay": 0.1}, None)),
        ("--scheduler cos --step_size 7", (None, {"scheduler": "cos", "T_max": 7})),
        ("--scheduler exp --gamma 0.9", (None, {"scheduler": "exp", "gamma": 0.9})),
    ):
        given = ["--lr", "0.5", "--weight_decay", "0.1", *flags.split()]
        with contextlib.redirect_stdout(io.StringIO()):
            _, *found = prepare_args(LibMTL_args.parse_args(given))
        wrong += [
            f"{flags}: {one}"
            for one, want in zip(found, wanted, strict=True)
            if want is not None and one != want
        ]
    return wrong


PROBES: dict[str, Callable[[], list[str]]] = {
    "task-representations": representations,
    "mtan-zero-grad": mtan,
    "dselect-k-codes": dselect_k,
    "gls-logarithms": gls,
    "gradnorm-first-epoch": gradnorm,
    "gradvac-targets": gradvac,
    "mgda-solver": mgda,
    "rlw-constrained-bernoulli": rlw,
    "optimizers-schedulers": optimizers,
}


def ask(probe: Callable[[], list[str]]) -> list[str]:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001  # whatever it is, the test says what it should be
        return [f"{type(error).__name__}: {error}"]


if __name__ == "__main__":
    print(json.dumps({name: ask(probe) for name, probe in PROBES.items()}))
