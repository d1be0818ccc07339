"""Lightning's Trainer with weighed and scored tasks, against plain loops."""

from __future__ import annotations

import copy
import sys
from functools import partial
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainer_helpers import Counting, assert_same_state, by_length

from libmtl_recon.conflicts.probe import ConflictProbe
from libmtl_recon.errors import MissingPackageError, ReconError, UsageError
from libmtl_recon.weighting.step import step

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from libmtl_recon.integrations.lightning import MultiTaskModule  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TASKS = ("left", "right")
assert_same = partial(assert_same_state, rtol=1e-5, atol=1e-6)


class Network(MultiTaskModule):
    """Two heads on one layer."""

    def __init__(self, weighting: Any = by_length) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.given = weighting
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in TASKS})
        self.absent: set[int] = set()
        self.regular = 0.0

    def configure_weighting(self) -> Any:
        return self.given

    def losses(self, x: Tensor, index: int = -1) -> dict[str, Tensor | None]:
        z = self.encoder(x)
        left, right = (head(z).squeeze(1) for head in self.heads.values())
        return {
            "left": (left - x[:, 0]).square().mean(),
            "right": None if index in self.absent else (right + 3 * x[:, 0]).abs().mean(),
        }

    def extra(self) -> Tensor:
        return self.regular * self.encoder[0].weight.square().sum()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        joined = self.joint_loss(self.losses(batch[0], index))
        return joined + self.extra() if self.regular else joined

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Manual(Network):
    """Two optimizers, one of which steps every second batch."""

    def __init__(self, weighting: Any = by_length) -> None:
        super().__init__(weighting)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> None:
        shared, own = self.optimizers()
        own.zero_grad()
        self.manual_backward(self.joint_loss(self.losses(batch[0])))
        own.step()
        if index % 2:
            shared.step()
            shared.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.SGD(self.encoder.parameters(), lr=0.05),
            torch.optim.SGD(self.heads.parameters(), lr=0.1),
        ]


def batches(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(count, 6, 4, generator=generator))


def loader(count: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.cat(batches(count))), batch_size=6)


def trainer(folder: Path, **kwargs: Any) -> Any:
    given = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(default_root_dir=folder, **{**given, **kwargs})


@pytest.mark.parametrize("absent", [set(), {1, 2}], ids=["all", "labels absent"])
def test_training_is_the_plain_loop(tmp_path: Path, absent: set[int]) -> None:
    model = Network()
    model.absent = absent
    twin = copy.deepcopy(model)
    made = trainer(tmp_path)
    made.fit(model, loader())
    optimizer = twin.configure_optimizers()
    for index, x in enumerate(batches()):
        optimizer.zero_grad()
        found = step(twin.losses(x, index), twin, by_length)
        optimizer.step()
    assert_same(model, twin)
    assert model.step_result is not None
    torch.testing.assert_close(model.step_result.weights, found.weights, rtol=1e-5, atol=0)
    for task, weight in found.named_weights().items():
        assert float(made.callback_metrics[f"weight/{task}"]) == pytest.approx(weight, rel=1e-5)


def test_accumulated_and_clipped_gradients_with_another_term(tmp_path: Path) -> None:
    model = Network()
    model.regular = 0.1
    twin = copy.deepcopy(model)
    trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.3).fit(model, loader())
    optimizer = twin.configure_optimizers()
    for index, x in enumerate(batches()):
        (twin.extra() / 2).backward()
        step({task: loss / 2 for task, loss in twin.losses(x).items()}, twin, by_length)
        if index % 2:
            norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.3)
            assert norm > 0.3
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, twin)


def test_several_optimizers_by_hand(tmp_path: Path) -> None:
    model = Manual()
    twin = copy.deepcopy(model)
    trainer(tmp_path).fit(model, loader())
    shared, own = twin.configure_optimizers()
    for index, x in enumerate(batches()):
        own.zero_grad()
        step(twin.losses(x), twin, by_length)
        own.step()
        if index % 2:
            shared.step()
            shared.zero_grad()
    assert_same(model, twin)


def test_a_scaler_s_scale_is_taken_out_of_what_is_weighed(tmp_path: Path) -> None:
    """Half precision on a CPU; the first scale overflows, and its step is left out."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    model = Network()
    before = copy.deepcopy(model)
    trainer(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]).fit(model, loader(1))
    assert model.step_result is not None
    assert not model.step_result.finite
    assert scaler.get_scale() == 2.0**39
    assert_same(model, before, rtol=0.0, atol=0.0)

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    model, twin = Network(), Network()
    trainer(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]).fit(model, loader())
    optimizer = twin.configure_optimizers()
    for x in batches():
        optimizer.zero_grad()
        step(twin.losses(x), twin, by_length)
        optimizer.step()
    assert_same(model, twin, rtol=0.05, atol=5e-3)


def test_the_state_of_a_weighting_is_kept(tmp_path: Path) -> None:
    straight = Network(Counting())
    trainer(tmp_path, max_epochs=2).fit(straight, loader())
    first = Network(Counting())
    made = trainer(tmp_path)
    made.fit(first, loader())
    made.save_checkpoint(tmp_path / "half.ckpt")
    second = Network(Counting())
    trainer(tmp_path, max_epochs=2).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert second.weighting.asked == straight.weighting.asked == 8
    assert_same(second, straight)
    with pytest.raises(ReconError, match="The checkpoint has the state of a weighting"):
        trainer(tmp_path, max_epochs=2).fit(Network(), loader(), ckpt_path=tmp_path / "half.ckpt")
    plain = trainer(tmp_path)
    plain.fit(Network(), loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ReconError, match="The checkpoint has no state of a weighting"):
        trainer(tmp_path, max_epochs=2).fit(
            Network(Counting()), loader(), ckpt_path=tmp_path / "plain.ckpt"
        )
    # Weights alone may come from any training.
    other = Network.load_from_checkpoint(tmp_path / "plain.ckpt", weighting=Counting())
    assert other.weighting.asked == 0


def test_the_counts_of_a_probe_are_kept(tmp_path: Path) -> None:
    class Scored(Network):
        def configure_probe(self) -> Any:
            return ConflictProbe(self, TASKS)

    straight, first, second = Scored(None), Scored(None), Scored(None)
    trainer(tmp_path, max_epochs=2).fit(straight, loader())
    made = trainer(tmp_path)
    made.fit(first, loader())
    made.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=2).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert second.probe.steps == straight.probe.steps == 8
    found, wanted = second.probe.profile(), straight.probe.profile()
    assert (found.counts.sum(axis=0) == wanted.counts.sum(axis=0)).all()


def test_without_a_weighting_losses_are_added(tmp_path: Path) -> None:
    model = Network(None)
    twin = copy.deepcopy(model)
    trainer(tmp_path).fit(model, loader())
    optimizer = twin.configure_optimizers()
    for x in batches():
        optimizer.zero_grad()
        sum(twin.losses(x).values()).backward()
        optimizer.step()
    assert_same(model, twin)
    assert model.step_result is None


def test_a_step_without_any_label_moves_nothing(tmp_path: Path) -> None:
    class Nothing(Network):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return self.joint_loss({"left": None, "right": None})

    model = Nothing()
    before = copy.deepcopy(model)
    trainer(tmp_path).fit(model, loader())
    assert_same(model, before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("scale", [None, 256.0, 2.0**40], ids=["full", "half", "overflow"])
def test_conflicts_are_counted(tmp_path: Path, scale: float | None) -> None:
    """The profile is that of the plain loop, and so is the training."""

    class Scored(Network):
        def configure_probe(self) -> Any:
            return ConflictProbe(self, TASKS)

    model, twin = Scored(None), Network(None)
    model.absent = twin.absent = {2}
    plugins = []
    if scale is not None:
        plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", scale))]
    trainer(tmp_path, plugins=plugins, accumulate_grad_batches=2).fit(model, loader())
    probe = ConflictProbe(twin, TASKS)
    optimizer = twin.configure_optimizers()
    for index, x in enumerate(batches()):
        losses = twin.losses(x, index)
        probe.backward({task: None if one is None else one / 2 for task, one in losses.items()})
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert model.probe.steps == 4
    if scale == 2.0**40:
        with pytest.raises(ReconError, match="In all 4 steps a gradient was not finite"):
            model.probe.profile()
        return
    found, wanted = model.probe.profile(), probe.profile()
    assert found.layer_names == wanted.layer_names == ("encoder.0",)
    if scale is None:
        assert_same(model, twin)
        assert (found.counts == wanted.counts).all()
    assert (found.undefined == wanted.undefined).all()


class TestRefusals:
    def test_several_processes(self, tmp_path: Path) -> None:
        model = Network()
        made = trainer(tmp_path, strategy=DDPStrategy(process_group_backend="gloo"))
        model.trainer = made
        with pytest.raises(ReconError, match="the trainer's strategy is DDPStrategy"):
            model.on_fit_start()

    def test_another_loss(self, tmp_path: Path) -> None:
        class Wrong(Network):
            def training_step(self, batch: list[Tensor], index: int) -> Tensor:
                losses = self.losses(batch[0])
                self.joint_loss(losses)
                return sum(losses.values())

        with pytest.raises(ReconError, match="does not depend on what joint_loss"):
            trainer(tmp_path).fit(Wrong(), loader())

    def test_both(self, tmp_path: Path) -> None:
        class Both(Network):
            def configure_probe(self) -> Any:
                return ConflictProbe(self, TASKS)

        with pytest.raises(UsageError, match="weighting cannot be combined with `probe`"):
            trainer(tmp_path).fit(Both(), loader())

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = import_module("libmtl_recon.integrations.lightning")
        for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingPackageError, match=r"libmtl-recon\[lightning\]"):
            reload(module)
