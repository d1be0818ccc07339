"""What LibMTL would break on, or do wrongly without a word, is refused before it starts."""

from __future__ import annotations

from typing import Any

from small_problem import Encoder, batches, make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL.config import LibMTL_args, prepare_args
from torch import nn

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.features import detect

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the problem is written for LibMTL's release"
)


@pytest.mark.parametrize("weighting", ["PCGrad", "GradVac", "CAGrad"])
def test_a_weighting_of_shared_gradients_refuses_rep_grad(weighting: str) -> None:
    with pytest.raises(UsageError, match=rf"--rep_grad cannot .* {weighting}.*Leave --rep_grad"):
        make_trainer(weighting, rep_grad=True)


def test_graddrop_wants_rep_grad() -> None:
    with pytest.raises(UsageError, match=r"--rep_grad must be given with --weighting GradDrop"):
        make_trainer("GradDrop", rep_grad=False)


class OwnPCGrad(weightings.PCGrad):
    """A script's own, which can do what its parent cannot."""

    def backward(self, losses: torch.Tensor, **_: Any) -> None:
        per_grads, _ = self._get_grads(losses)
        self._backward_new_grads(torch.ones(len(losses)), per_grads=per_grads)


def test_a_subclass_with_a_way_of_its_own_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightings, "OwnPCGrad", OwnPCGrad, raising=False)
    trainer = make_trainer("OwnPCGrad", rep_grad=True)
    before = trainer.model.encoder.one.weight.clone()
    trainer.train(batches(2), batches(2), epochs=1)
    assert not torch.equal(trainer.model.encoder.one.weight, before)


def test_rlw_names_its_distributions_at_the_start() -> None:
    with pytest.raises(UsageError, match=r"--dist must be one of Uniform.*'Gauss'"):
        make_trainer("RLW", weight_args={"dist": "Gauss"})


@pytest.mark.parametrize("dist", ["Uniform", "Dirichlet", "Bernoulli", "constrained_Bernoulli"])
def test_each_distribution_of_rlw_trains(dist: str) -> None:
    trainer = make_trainer("RLW", 3, weight_args={"dist": dist})
    weights = trainer.train(batches(3), batches(3), epochs=2, return_weight=True)
    assert (weights >= 0).all()
    if dist == "constrained_Bernoulli":
        assert (weights.sum(axis=0) == 1).all()
        assert ((weights == 0) | (weights == 1)).all()


def test_cross_stitch_refuses_inputs_of_each_tasks_own() -> None:
    with pytest.raises(UsageError, match=r"--multi_input cannot be combined .* Cross_stitch"):
        make_trainer("EW", architecture=architectures.Cross_stitch, multi_input=True)


def test_inputs_of_each_tasks_own_need_a_loader_each() -> None:
    trainer = make_trainer("EW", 2, multi_input=True)
    first, second = trainer.task_name
    with pytest.raises(UsageError, match=rf"--multi_input needs .* none for {first}, {second}"):
        trainer.train(batches(2), batches(2), epochs=1)
    with pytest.raises(UsageError, match=rf"--multi_input needs .* none for {second}\."):
        trainer.test({first: batches(2)})


@pytest.mark.parametrize("name", ["CGC", "PLE"])
def test_experts_must_be_told_for_every_task(name: str) -> None:
    arguments = {"img_size": ("5",), "num_experts": [2, 1]}
    with pytest.raises(UsageError, match=r"--num_experts must have 3 numbers .* 1 1 1"):
        make_trainer("EW", architecture=vars(architectures)[name], arch_args=arguments)


class WithoutWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.relu, self.maxpool = nn.ReLU(), nn.Identity()
        for number in range(1, 5):
            setattr(self, f"layer{number}", nn.Sequential(nn.Conv2d(4, 4, 1)))


class HoldsWithoutWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet_network = WithoutWidth()


@pytest.mark.parametrize(
    ("architecture", "encoder", "missing"),
    [
        ("Cross_stitch", Encoder, "Encoder without conv1, bn1, .*layer4'"),
        ("PLE", Encoder, "Encoder without conv1"),
        ("MTAN", Encoder, "Encoder without conv1"),
        ("MTAN", WithoutWidth, "WithoutWidth without feature_dim'"),
        ("MTAN", HoldsWithoutWidth, "HoldsWithoutWidth without feature_dim'"),
        ("Cross_stitch", HoldsWithoutWidth, "HoldsWithoutWidth without conv1"),
    ],
)
def test_an_encoder_that_cannot_be_taken_apart_is_named(
    architecture: str, encoder: type[nn.Module], missing: str
) -> None:
    arguments = {"img_size": (3, 4, 4), "num_experts": [1, 1, 1]}
    with pytest.raises(UsageError, match=rf"ResNet .*--arch {architecture}.*{missing}"):
        make_trainer(
            "EW",
            architecture=vars(architectures)[architecture],
            encoder_class=encoder,
            arch_args=arguments if architecture == "PLE" else {},
        )


def test_the_model_keeps_the_scripts_own_encoder_class() -> None:
    trainer = make_trainer(
        "EW", architecture=architectures.Cross_stitch, encoder_class=WithoutWidth
    )
    assert trainer.model.encoder_class is WithoutWidth


@pytest.mark.parametrize("arch", ["MMoE", "CGC", "PLE", "DSelect_k"])
@pytest.mark.parametrize("given", ["img_size", "num_experts"])
def test_gated_architectures_name_the_flag_that_they_miss(
    arch: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"img_size": "num_experts", "num_experts": "img_size"}[given]
    params = LibMTL_args.parse_args(["--arch", arch, f"--{given}", "3", "4", "4"])
    with pytest.raises(SystemExit):
        prepare_args(params)
    assert f"--{missing} must be given with --arch {arch}" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--optim adagrad", "--optim rmsprop"])
def test_the_optimizers_of_the_flags_train(flags: str) -> None:
    params = LibMTL_args.parse_args(["--lr", "0.01", *flags.split()])
    _, optim_param, _ = prepare_args(params)
    trainer = make_trainer("EW", optim_param=optim_param)
    assert type(trainer.optimizer).__name__.lower() == params.optim
    before = trainer.model.encoder.one.weight.clone()
    trainer.train(batches(2), batches(2), epochs=1)
    assert not torch.equal(trainer.model.encoder.one.weight, before)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        # Half a period of a cosine in four epochs; and a factor an epoch.
        ("--scheduler cos --step_size 4", [0.01, 0.00853553, 0.005, 0.00146447, 0.0]),
        ("--scheduler exp --gamma 0.5", [0.01, 0.005, 0.0025, 0.00125, 0.000625]),
    ],
)
def test_the_schedulers_of_the_flags_move_the_learning_rate(flags: str, rates: list[float]) -> None:
    params = LibMTL_args.parse_args(["--lr", "0.01", *flags.split()])
    _, optim_param, scheduler_param = prepare_args(params)
    trainer = make_trainer("EW", optim_param=optim_param, scheduler_param=scheduler_param)
    found = [trainer.optimizer.param_groups[0]["lr"]]
    for _ in rates[1:]:
        trainer.train(batches(2, 1), batches(2, 1), epochs=1)
        found.append(trainer.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(rates, abs=1e-7)


def test_the_help_says_what_a_flag_means_for_them() -> None:
    said = " ".join(LibMTL_args.format_help().split())
    assert "ExponentialLR (--scheduler exp)" in said
    assert "CosineAnnealingLR (--scheduler cos)" in said
