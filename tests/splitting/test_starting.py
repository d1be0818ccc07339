"""Splitting a trained network and going on: values, statistics and the optimiser's state."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from LibMTL import Trainer
from test_libmtl import ARGS, TASKS, Encoder, batches, make
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.splitting import task_parameters

PARAMETERS = {
    "adam": {"optim": "adam", "lr": 1e-2},
    "sgd": {"optim": "sgd", "lr": 1e-1, "momentum": 0.9},
}


def trained(folder: Path, optim: str = "adam", **changes: Any) -> Trainer:
    trainer = make(folder, arch="HPS", optim_param=PARAMETERS[optim], **changes)
    trainer.train(batches(), batches(), epochs=2)
    return trainer


def save(trainer: Trainer, file: Path, *, optimizer: bool = True) -> str:
    model = trainer.model.state_dict()
    whole = {"model": model, "optimizer": trainer.optimizer.state_dict()}
    torch.save(whole if optimizer else model, file)
    return str(file)


def split_from(folder: Path, file: str, optim: str = "adam", **changes: Any) -> Trainer:
    arch_args = {"recon_from": file, **changes.pop("arch_args", {})}
    return make(folder, optim_param=PARAMETERS[optim], arch_args=arch_args, **changes)


def losses(model: nn.Module) -> Tensor:
    x, labels = batches()[0]
    predictions = model(x)
    return torch.stack([nn.functional.cross_entropy(predictions[t], labels[t]) for t in TASKS])


@pytest.mark.parametrize("optim", PARAMETERS)
def test_goes_on_as_the_trained_network_would(optim: str, tmp_path: Path) -> None:
    plain = trained(tmp_path, optim)
    split = split_from(tmp_path, save(plain, tmp_path / "c.pt"), optim)
    x = batches()[1][0]
    for mode in (False, True):
        plain.model.train(mode), split.model.train(mode)
        for task, prediction in plain.model(x).items():
            assert torch.equal(split.model(x)[task], prediction), (task, mode)
    # A step: what is shared gets the sum of the gradients, and so moves as it would have.
    expected = {}
    for index, task in enumerate(TASKS):
        other = trained(tmp_path, optim)
        other.optimizer.load_state_dict(copy.deepcopy(plain.optimizer.state_dict()))
        other.model.load_state_dict(plain.model.state_dict())
        other.model.train()
        other.optimizer.zero_grad()
        losses(other.model)[index].backward()
        other.optimizer.step()
        expected[task] = other.model.encoder.state_dict()
    split.model.load_state_dict(plain.model.state_dict())  # the statistics have moved
    for trainer in (plain, split):
        trainer.optimizer.zero_grad()
        losses(trainer.model).sum().backward()
        trainer.optimizer.step()
    own = split.model.encoder.two.weight
    torch.testing.assert_close(own, plain.model.encoder.two.weight)
    for task in TASKS:
        torch.testing.assert_close(
            split.model.decoders[task].weight, plain.model.decoders[task].weight
        )
        for name, value in task_parameters(split.model.encoder, task).items():
            if isinstance(value, nn.Parameter):
                torch.testing.assert_close(value.detach(), expected[task][name])


def test_an_encoder_alone_will_do(tmp_path: Path) -> None:
    plain = trained(tmp_path)
    file = tmp_path / "encoder.pt"
    torch.save(plain.model.encoder.state_dict(), file)
    model = split_from(tmp_path, str(file)).model.eval()
    x = batches()[0][0]
    with torch.no_grad():
        expected = plain.model.eval().encoder(x)
        for part in model.encoder(x).parts:
            assert torch.equal(part, expected)
    torch.save({"model": plain.model.encoder.state_dict(),
                "optimizer": plain.optimizer.state_dict()}, file)  # fmt: skip
    with pytest.raises(ReconError, match="only the state dict of an encoder"):
        split_from(tmp_path, str(file))


def test_the_weighting_may_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = trained(tmp_path, weighting="UW")
    assert len(plain.model.loss_scale) == len(TASKS)
    file = save(plain, tmp_path / "c.pt")
    same = split_from(tmp_path, file, weighting="UW")
    assert torch.equal(same.model.loss_scale, plain.model.loss_scale)
    assert len(same.optimizer.state) == len(list(same.model.parameters()))
    state = same.optimizer.state[same.model.loss_scale]
    assert torch.equal(state["exp_avg"], plain.optimizer.state[plain.model.loss_scale]["exp_avg"])
    capsys.readouterr()
    other = split_from(tmp_path, file, weighting="GradOPS")
    assert "loss_scale, which" in capsys.readouterr().out
    assert len(other.optimizer.state) == len(list(other.model.parameters()))
    back = split_from(tmp_path, save(trained(tmp_path), tmp_path / "d.pt"), weighting="UW")
    assert len(back.optimizer.state) == len(list(back.model.parameters())) - 1


@pytest.mark.parametrize(
    ("mode", "weighting"),
    [("full", "RotoGrad"), ("scale", "RotoGrad"), ("scale", "EW")],
)
def test_rotations_have_an_optimiser_of_their_own(
    mode: str, weighting: str, tmp_path: Path
) -> None:
    """They are made in the first step, after the network's optimiser."""
    weight_args = {**ARGS["RotoGrad"], "rotograd_mode": mode}
    plain = trained(tmp_path, weighting="RotoGrad", weight_args=weight_args)
    file = save(plain, tmp_path / "c.pt")
    args = weight_args if weighting == "RotoGrad" else {}
    split = split_from(tmp_path, file, weighting=weighting, weight_args=args)
    plain.model.eval(), split.model.eval()
    x = batches()[0][0]
    for task in TASKS:
        torch.testing.assert_close(split.model(x)[task], plain.model(x)[task])
        own = dict(split.model.named_parameters())[f"encoder.one.tasks.{task}.weight"]
        before = plain.optimizer.state[plain.model.encoder.one.weight]
        assert torch.equal(split.optimizer.state[own]["exp_avg"], before["exp_avg"])
    split.train(batches(), batches(), epochs=1)


def test_trains_on_by_its_flag(tmp_path: Path) -> None:
    split = split_from(tmp_path, save(trained(tmp_path), tmp_path / "c.pt"), weighting="GradOPS")
    before = {name: p.detach().clone() for name, p in split.model.named_parameters()}
    split.train(batches(), batches(), epochs=1)
    assert not [n for n, p in split.model.named_parameters() if torch.equal(p, before[n])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("encoder.two.bias"), r"lacks 1 .*\(encoder.two.bias, ...\)"),
        (lambda state: state.update({"encoder.six": torch.ones(1)}), "has beyond 1 .*encoder.six"),
        (lambda state: state.update({"encoder.two.bias": torch.ones(9)}), "size mismatch for enc"),
        (lambda state: state.clear(), "does not contain a state dict"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: Any, said: str, tmp_path: Path) -> None:
    state = trained(tmp_path).model.state_dict()
    change(state)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(ReconError, match=f"--recon_from .*c.pt .*{said}"):
        split_from(tmp_path, str(tmp_path / "c.pt"))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="cannot be read: No such file"):
        split_from(tmp_path, str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ReconError, match="not a checkpoint that contains only tensors"):
        split_from(tmp_path, str(tmp_path / "text.pt"))
    torch.save(Encoder(), tmp_path / "code.pt")
    with pytest.raises(ReconError, match="not a checkpoint that contains only tensors"):
        split_from(tmp_path, str(tmp_path / "code.pt"))


def test_a_split_network_that_does_not_say_how_loads_by_the_same_flags(tmp_path: Path) -> None:
    split = make(tmp_path).model.state_dict()
    torch.save(dict(split), tmp_path / "split.pt")
    again = split_from(tmp_path, str(tmp_path / "split.pt")).model.state_dict()
    assert list(again) == list(split)
    assert all(torch.equal(again[key], value) for key, value in split.items())


def test_another_optimisers_state_is_refused(tmp_path: Path) -> None:
    file = save(trained(tmp_path, "sgd"), tmp_path / "c.pt")
    with pytest.raises(ReconError, match="state of another optimiser than this run's Adam"):
        split_from(tmp_path, file, "adam")
    plain = trained(tmp_path)
    few = torch.optim.Adam(plain.model.encoder.parameters())
    torch.save({"model": plain.model.state_dict(), "optimizer": few.state_dict()}, file)
    with pytest.raises(ReconError, match="of 6 parameters, but its model has 12"):
        split_from(tmp_path, file)


def test_not_beside_libmtls_own_loading(tmp_path: Path) -> None:
    class Loading(Trainer):
        load_path = "best.pt"

    file = save(trained(tmp_path), tmp_path / "c.pt")
    with pytest.raises(UsageError, match="--recon_from cannot be combined with --load_path"):
        split_from(tmp_path, file, trainer_class=Loading)
