"""`--recon_amp bf16`: the networks compute in bfloat16, all else in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import numpy as np
import pytest
import torch
from LibMTL.config import LibMTL_args, prepare_args
from torch import nn

from libmtl_recon import UsageError, run_script
from libmtl_recon.gradients import gramian
from libmtl_recon.integrations.libmtl import precision
from libmtl_recon.integrations.libmtl.arguments import forget_prepared
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.weighting.gradops import gradops_weights

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_tasks.py"
OFFERED = ["EW", "UW", "DWA", "GLS", "RLW", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad"]
OFFERED += ["GradDrop", "IMTL", "GradOPS", "RotoGrad"]

pypi_only = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the arguments are those of LibMTL's PyPI release"
)


@pytest.fixture(autouse=True)
def _on_the_cpu_and_forgotten_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    yield
    forget_prepared()


def ask_for(*flags: str) -> None:
    prepare_args(LibMTL_args.parse_args(list(flags)))


class Seen:
    """The dtypes of what a module returns, in training and in evaluation."""

    def __init__(self, module: nn.Module) -> None:
        self.dtypes: set[tuple[bool, torch.dtype]] = set()
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        self.dtypes.add((module.training, output.dtype))


def check(trainer: Any) -> None:
    """Train, and see that the networks ran in bfloat16 and all else in float32."""
    encoded, decoded = Seen(trainer.model.encoder), Seen(trainer.model.decoders["t0"])
    given: list[torch.dtype] = []
    process = trainer.process_preds
    trainer.process_preds = lambda preds, *a: (
        given.extend(p.dtype for p in preds.values()),
        process(preds, *a),
    )[1]
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(2), batches(2), epochs=2)
    both = {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert encoded.dtypes == both
    assert decoded.dtypes == both
    assert set(given) == {torch.float32}
    assert np.isfinite(trainer.model.train_loss_buffer).all()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
        if name in before:  # RotoGrad makes its rotations in the first step
            assert not torch.equal(parameter, before[name]), name


@pypi_only
@pytest.mark.parametrize("weighting", OFFERED)
def test_every_weighting_trains(weighting: str) -> None:
    ask_for("--recon_amp", "bf16")
    check(make_trainer(weighting))


@pypi_only
@pytest.mark.parametrize("weighting", ["MGDA", "IMTL", "GradNorm"])
def test_gradients_of_the_representation_too(weighting: str) -> None:
    ask_for("--recon_amp", "bf16")
    trainer = make_trainer(weighting, rep_grad=True)
    check(trainer)
    assert {leaf.dtype for leaf in trainer.model.rep_tasks.values()} == {torch.float32}


@pytest.mark.parametrize("weighting", ["GradOPS", "EW", "PCGrad"])
def test_a_split_network_trains(weighting: str, tmp_path: Path) -> None:
    layers = tmp_path / "layers.json"
    layers.write_text('{"two": 2}', encoding="utf-8")
    ask_for("--recon_amp", "bf16")
    arguments = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(layers)}
    trainer = make_trainer(weighting, architecture=architectures.Recon, arch_args=arguments)
    encoded: list[torch.dtype] = []
    trainer.model.encoder.register_forward_hook(
        lambda _, __, output: encoded.extend(part.dtype for part in output.parts)
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(2), batches(2), epochs=1)
    assert set(encoded) == {torch.bfloat16}
    assert np.isfinite(trainer.model.train_loss_buffer).all()
    assert all(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_gradops_is_the_update_of_gradients_taken_under_autocast() -> None:
    ask_for("--recon_amp", "bf16")
    trainer = make_trainer("GradOPS", optim_param={"optim": "sgd", "lr": 1.0})
    twin = make_trainer("GradOPS")
    twin.model.load_state_dict(trainer.model.state_dict())
    inputs, labels = batches(2)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        representation = twin.model.encoder(inputs)
        outputs = [decoder(representation) for decoder in twin.model.decoders.values()]
    shared = list(twin.model.encoder.parameters())
    rows = []
    for output, label in zip(outputs, labels.values(), strict=True):
        loss = nn.functional.cross_entropy(output.float(), label)
        parts = torch.autograd.grad(loss, shared, retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    gradients = torch.stack(rows)
    matrix = gramian(gradients)
    assert (gradients.dtype, matrix.dtype) == (torch.float32, torch.float64)
    expected = gradops_weights(matrix, -1.0).float() @ gradients
    trainer.train([(inputs, dict(labels))], batches(2), epochs=1)
    found = torch.cat([p.grad.flatten() for p in trainer.model.encoder.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_without_the_flag_nothing_changes() -> None:
    ask_for("--recon_amp", "off")
    trainer = make_trainer("EW")
    seen = Seen(trainer.model.encoder)
    trainer.train(batches(2), batches(2), epochs=1)
    assert seen.dtypes == {(True, torch.float32), (False, torch.float32)}
    assert "forward" not in vars(trainer.model)


@pytest.mark.parametrize("value", ["fp16", "BF16", "true"])
def test_other_precisions_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ask_for("--recon_amp", value)
    assert ended.value.code == 2
    assert f"--recon_amp must be bf16 or off (got {value!r})" in capsys.readouterr().err


def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.computes_in_bfloat16(torch.device("cpu"))
    # On the meta device nothing is computed, and autocast does not know it.
    assert not precision.computes_in_bfloat16(torch.device("meta"))
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda _: False)
    ask_for("--recon_amp", "bf16")
    with pytest.raises(UsageError, match="--recon_amp needs a device"):
        make_trainer("EW")


def test_a_copy_of_the_model_runs_itself() -> None:
    import copy

    ask_for("--recon_amp", "bf16")
    trainer = make_trainer("EW")
    twin = copy.deepcopy(trainer.model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    output = twin(torch.ones(1, 5))["t0"]
    assert output.dtype == torch.float32
    assert not output.any()


def test_the_arguments_of_one_script_are_not_the_next_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_script(SCRIPT, ["--epochs", "1", "--recon_amp", "bf16"]) == 0
    assert "in bfloat16" in capsys.readouterr().out
    seen = Seen((trainer := make_trainer("EW")).model.encoder)
    trainer.train(batches(2), batches(2), epochs=1)
    assert (True, torch.float32) in seen.dtypes


def test_every_tensor_that_the_model_returns_is_in_float32() -> None:
    low = torch.ones(1, dtype=torch.bfloat16)
    double, whole = low.double(), low.int()
    found = precision._in_float32({"a": [low, (double, whole)], "b": "text"})
    assert found["a"][0].dtype == torch.float32
    assert (found["a"][1][0].dtype, found["a"][1][1].dtype) == (torch.float64, torch.int32)
    assert found["b"] == "text"
