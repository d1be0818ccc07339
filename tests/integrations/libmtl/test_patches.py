"""LibMTL's PyPI release trains on today's PyTorch, and each patch does what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from small_problem import Encoder, batches, make_trainer

# isort: split
import LibMTL
import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.device import choose_device
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.patches import PATCHES, wanted_patches

OFFERED = [
    *(
        "EW",
        "UW",
        "DWA",
        "GLS",
        "RLW",
        "GradNorm",
        "MGDA",
        "PCGrad",
        "GradVac",
        "CAGrad",
        "GradDrop",
    ),
    *("IMTL", "GradOPS", "RotoGrad"),
]

pypi_only = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="LibMTL's main branch does not have this defect"
)


@pypi_only
@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("weighting", OFFERED)
def test_every_weighting_moves_every_parameter(weighting: str, tasks: int) -> None:
    trainer = make_trainer(weighting, tasks)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(tasks), batches(tasks), epochs=2)
    assert np.isfinite(trainer.model.train_loss_buffer).all()
    after = dict(trainer.model.named_parameters())  # RotoGrad's has more
    still = [name for name, value in before.items() if torch.equal(after[name], value)]
    assert not still


def fresh_status(**environment: str) -> dict[str, str]:
    """Return the status of each patch in a new process."""
    code = (
        "import libmtl_recon, LibMTL, json\n"
        "from libmtl_recon.integrations.libmtl.patches import patch_status\n"
        "found = patch_status(LibMTL)\n"
        "patched = isinstance(vars(LibMTL.Trainer).get('device'), property)\n"
        "assert patched == (found['device'] == 'applied')\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_each_patch_has_a_name_and_a_reason() -> None:
    names = [patch.name for patch in PATCHES]
    assert len(names) == len(set(names)) >= 14
    assert all(len(patch.reason) > 20 for patch in PATCHES)


# Patches of what LibMTL's main branch added.
OF_MAIN = {
    *("strict-checkpoint", "return-weight", "aligned-mtl-eigen", "excess-mtl-encoder"),
    *("gradvac-layers", "nash-mtl-solver", "sdmgrad-simplex", "dselect-k-look"),
    "own-scheduler",
}


@pypi_only
def test_the_release_needs_every_other_patch() -> None:
    found = fresh_status()
    assert {name for name, status in found.items() if status != "applied"} == OF_MAIN
    assert {found[name] for name in OF_MAIN} == {"not needed"}


def test_the_device_is_one_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    trainer = make_trainer("EW")
    assert trainer.device == torch.device("cpu")
    trainer.device = torch.device("meta")
    assert trainer.device == torch.device("meta"), "a script's own wish is heard"
    trainer.device = torch.device("cuda:0")
    assert trainer.device == torch.device("cpu"), "and LibMTL's fixed device is not"


class OwnDevice(LibMTL.Trainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cpu")
        super().__init__(*args, **kwargs)


def test_a_device_set_before_libmtls_own_init_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    assert make_trainer("EW", trainer_class=OwnDevice).device == torch.device("cpu")


def test_a_device_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cuda:77")
    with pytest.raises(UsageError, match=r"LIBMTL_RECON_DEVICE.*cuda:77"):
        choose_device()
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "fast")
    with pytest.raises(UsageError, match=r"LIBMTL_RECON_DEVICE.*\(cpu.*'fast'"):
        make_trainer("EW")


class HalfFrozen(Encoder):
    def __init__(self) -> None:
        super().__init__()
        for parameter in self.one.parameters():
            parameter.requires_grad_(False)


@pytest.mark.parametrize("weighting", ["PCGrad", "CAGrad", "MGDA", "GradOPS", "EW"])
def test_frozen_parameters_stay_where_they_are(
    weighting: str,
) -> None:
    trainer = make_trainer(
        weighting,
        encoder_class=HalfFrozen,
        optim_param={"optim": "adam", "lr": 1e-2, "weight_decay": 0.1},
    )
    before = trainer.model.encoder.one.weight.clone()
    trainer.train(batches(2), batches(2), epochs=1)
    assert torch.equal(trainer.model.encoder.one.weight, before)
    assert trainer.model.encoder.two.weight.grad.any()


class OwnWeighting(weightings.AbsWeighting):
    """As users write one, by the second of LibMTL's two ways to a gradient."""

    def backward(self, losses: torch.Tensor, **kwargs: Any) -> None:
        self._compute_grad_dim()
        self._reset_grad(self._compute_grad(losses, mode="autograd").sum(0))


def test_a_weighting_that_takes_its_gradients_by_autograd_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weightings, "OwnWeighting", OwnWeighting, raising=False)
    trainer = make_trainer("OwnWeighting")
    before = {name: p.detach().clone() for name, p in trainer.model.encoder.named_parameters()}
    trainer.train(batches(2), batches(2), epochs=1)
    moved = {
        n for n, p in trainer.model.encoder.named_parameters() if not torch.equal(p, before[n])
    }
    assert moved == set(before)


class WithSpare(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Linear(3, 3)


@pytest.mark.parametrize("weighting", ["EW", "PCGrad", "MGDA"])
def test_weight_decay_leaves_alone_what_no_task_uses(weighting: str) -> None:
    decay = {"optim": "adam", "lr": 1e-2, "weight_decay": 0.1}
    trainer = make_trainer(weighting, encoder_class=WithSpare, optim_param=decay)
    before = trainer.model.encoder.spare.weight.clone()
    trainer.train(batches(2), batches(2), epochs=1)
    assert torch.equal(trainer.model.encoder.spare.weight, before)


def original_cagrad() -> ModuleType:
    """LibMTL's own CAGrad, loaded beside the patched one."""
    file = Path(LibMTL.__file__).parent / "weighting" / "CAGrad.py"
    spec = importlib.util.spec_from_file_location("original_cagrad", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pypi_only
@pytest.mark.parametrize("rescale", [0, 1, 2])
def test_cagrad_for_three_tasks_is_libmtls_own(rescale: int) -> None:
    torch.manual_seed(1)
    gradients = torch.randn(3, 50) - 0.4
    updates = []
    for backward in (original_cagrad().CAGrad.backward, weightings.CAGrad.backward):
        model = type("Model", (), {})()  # which, as LibMTL's, can be referred to weakly
        vars(model).update(
            rep_grad=False,
            task_num=3,
            device="cpu",
            _compute_grad_dim=lambda: None,
            _compute_grad=lambda losses, mode: gradients,
            _reset_grad=updates.append,
        )
        weights = backward(model, None, calpha=0.5, rescale=rescale)
        assert weights.sum() == pytest.approx(1.0)
    torch.testing.assert_close(updates[1], updates[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weighting", ["EW", "UW", "DWA", "GLS", "RLW"])
def test_a_weighting_of_losses_refuses_rep_grad_which_would_never_train_the_encoder(
    weighting: str,
) -> None:
    with pytest.raises(UsageError, match=rf"--rep_grad cannot .* --weighting {weighting}"):
        make_trainer(weighting, rep_grad=True)


@pytest.mark.parametrize("weighting", ["MGDA", "IMTL", "GradDrop"])
def test_a_weighting_of_gradients_trains_the_encoder_by_rep_grad(weighting: str) -> None:
    trainer = make_trainer(weighting, rep_grad=True)
    before = trainer.model.encoder.one.weight.clone()
    trainer.train(batches(2), batches(2), epochs=1)
    assert not torch.equal(trainer.model.encoder.one.weight, before)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {patch.name for patch in PATCHES}),
        ("none", set()),
        ("device, cagrad-tasks", {"device", "cagrad-tasks"}),
    ],
)
def test_patches_can_be_switched_off(
    given: str | None, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBMTL_RECON_PATCHES", raising=False)
    if given is not None:
        monkeypatch.setenv("LIBMTL_RECON_PATCHES", given)
    assert wanted_patches() == wanted


def test_a_patch_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_PATCHES", "devise")
    with pytest.raises(UsageError, match=r"LIBMTL_RECON_PATCHES.*'devise'.*device"):
        wanted_patches()


@pypi_only
def test_a_switched_off_patch_leaves_the_defect_and_says_so() -> None:
    found = fresh_status(LIBMTL_RECON_PATCHES="torchvision-import")
    assert found.pop("torchvision-import") == "applied"
    assert {status for name, status in found.items() if name not in OF_MAIN} == {"switched off"}
