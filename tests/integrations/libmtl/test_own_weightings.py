"""With ``rep_grad``, a script's own weighting must train the encoder by the representations."""

from __future__ import annotations

from typing import Any

import pytest
from small_problem import Encoder, batches, make_trainer

# isort: split
import LibMTL
import LibMTL.weighting as weightings
import torch
from torch import nn

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.features import detect


class OfLosses(weightings.AbsWeighting):
    """Written as LibMTL's documentation shows it."""

    def backward(self, losses: torch.Tensor, **_: Any) -> None:
        losses.sum().backward()


class OfLossesTwice(weightings.EW):
    def backward(self, losses: torch.Tensor, **kwargs: Any) -> Any:
        return super().backward(2 * losses, **kwargs)


class OnlyNamed(weightings.EW):
    """LibMTL's own way, under another name."""


def through(model: Any) -> None:
    """Train the encoder through the representations, as a weighting's helper function may do."""
    gradients = [model.rep_tasks[task].grad for task in model.task_name]
    if isinstance(model.rep, dict):
        torch.autograd.backward([model.rep[task] for task in model.task_name], gradients)
    else:
        model.rep.backward(sum(gradients))


class ByAHelper(weightings.AbsWeighting):
    def backward(self, losses: torch.Tensor, **_: Any) -> None:
        losses.sum().backward(retain_graph=True)
        through(self)


class Frozen(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


def trained(weighting: type, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    monkeypatch.setattr(weightings, weighting.__name__, weighting, raising=False)
    trainer = make_trainer(weighting.__name__, rep_grad=True, **changes)
    trainer.train(batches(2), batches(2), epochs=1)
    return trainer


def parameters(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("weighting", [OfLosses, OfLossesTwice])
def test_one_of_losses_is_refused_before_the_first_update(
    weighting: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weightings, weighting.__name__, weighting, raising=False)
    trainer = make_trainer(weighting.__name__, rep_grad=True)
    before = parameters(trainer)
    with pytest.raises(UsageError, match=rf"--rep_grad .* {weighting.__name__}, whose loss would"):
        trainer.train(batches(2), batches(2), epochs=1)
    assert torch.equal(before, parameters(trainer))


def test_one_that_inherits_libmtls_is_refused_before_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unbuildable(nn.Module):
        def __init__(self) -> None:
            raise AssertionError("it was built")

    with pytest.raises(UsageError, match=r"--rep_grad .* OnlyNamed, whose loss would"):
        trained(OnlyNamed, monkeypatch, encoder_class=Unbuildable)


def test_one_that_goes_through_the_representations_elsewhere_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = make_trainer("EW").model.encoder.one.weight.detach().clone()
    assert not torch.equal(start, trained(ByAHelper, monkeypatch).model.encoder.one.weight)


def test_a_frozen_encoder_needs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    start = make_trainer("EW").model.decoders["t0"].weight.detach().clone()
    trainer = trained(OfLosses, monkeypatch, encoder_class=Frozen)
    assert not torch.equal(start, trainer.model.decoders["t0"].weight)


def test_a_step_without_any_label_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByAHelper, "takes_missing_labels", True, raising=False)
    monkeypatch.setattr(weightings, "ByAHelper", ByAHelper, raising=False)
    data = batches(2, 3)
    nothing = {task: torch.full((16,), torch.nan) for task in data[0][1]}
    data[0] = (data[0][0], nothing)
    trainer = make_trainer("ByAHelper", rep_grad=True)
    trainer.train(data, batches(2), epochs=1)
    assert trainer.model.encoder.one.weight.grad is not None


def test_the_tables_hold_the_weightings_of_this_libmtl() -> None:
    from libmtl_recon.integrations.libmtl import refusals

    both = refusals._BY_LOSSES | refusals._BY_SHARED_GRADIENTS | refusals._BY_REPRESENTATIONS
    either = {"GradNorm", "MGDA", "IMTL", "Aligned_MTL"}
    own = {
        name
        for name, value in vars(weightings).items()
        if isinstance(value, type) and value.__module__.startswith("LibMTL.weighting.")
    } - {"AbsWeighting"}
    assert own <= both | either
    if detect(LibMTL).saves_models:
        assert own == both | either
