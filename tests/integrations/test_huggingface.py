"""Transformers' Trainer with weighed and scored tasks, on small random networks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from trainer_helpers import Counting, assert_same_state, by_length

from libmtl_recon.conflicts.probe import ConflictProbe
from libmtl_recon.errors import MissingPackageError, ReconError, UsageError
from libmtl_recon.weighting.step import step

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from libmtl_recon.integrations.huggingface import MultiTaskTrainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TASKS = ("topic", "tone")
assert_same = partial(assert_same_state, rtol=1e-4, atol=1e-5)


class TwoHeads(nn.Module):
    """A small BERT with two heads; takes any keyword, as Transformers' own models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bert = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=30,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                max_position_embeddings=8,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.heads = nn.ModuleDict({task: nn.Linear(16, 3) for task in TASKS})
        self.config, self.factor = self.bert.config, 1.0

    def forward(self, input_ids: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
        z = self.bert(input_ids=input_ids).pooler_output
        logits = {task: head(z) for task, head in self.heads.items()}
        losses: dict[str, Tensor | None] = {}
        for place, (task, one) in enumerate(logits.items()):
            there = labels[:, place] >= 0
            loss = cross_entropy(one[there], labels[there, place]) * self.factor
            losses[task] = loss if there.any() else None
        return {"losses": losses, "logits": torch.stack(list(logits.values()), dim=1)}


class Sentences(Dataset[dict[str, Tensor]]):
    """Random words."""

    def __init__(self, absent: tuple[int, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(1)
        self.words = torch.randint(0, 30, (16, 6), generator=generator)
        self.labels = torch.randint(0, 3, (16, 2), generator=generator)
        self.labels[list(absent), 1] = -1

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[place], "labels": self.labels[place]}


class InOrder(MultiTaskTrainer):
    """Batches in the order of the data."""

    def get_train_dataloader(self) -> Any:
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=4))


def arguments(folder: Path, **kwargs: Any) -> Any:
    given = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return transformers.TrainingArguments(str(folder), **{**given, **kwargs})


def trained(folder: Path, model: nn.Module, data: Any = None, **kwargs: Any) -> Any:
    own = {name: kwargs.pop(name) for name in ("weighting", "probe") if name in kwargs}
    made = InOrder(model, arguments(folder, **kwargs), train_dataset=data or Sentences(), **own)
    made.train()
    return made


def plain_loop(
    model: Any,
    data: Any,
    weighting: Any,
    *,
    accumulated: int = 1,
    clip: float = 0.0,
    probe: Any = None,
    optimizer: Any = None,
) -> Iterator[Any]:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    model.train()
    for index, (words, labels) in enumerate(
        zip(data.words.split(4), data.labels.split(4), strict=True), 1
    ):
        losses = model(words, labels)["losses"]
        scaled = {t: None if one is None else one / accumulated for t, one in losses.items()}
        if probe is None:
            yield step(scaled, model, weighting)
        else:
            probe.backward(scaled)
        if index % accumulated == 0:
            if clip:
                assert nn.utils.clip_grad_norm_(model.parameters(), clip) > clip
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("absent", [(), (4, 5, 6, 7)], ids=["all", "labels absent"])
def test_training_is_the_plain_loop(tmp_path: Path, absent: tuple[int, ...]) -> None:
    data = Sentences(absent)
    model = TwoHeads()
    twin = copy.deepcopy(model)
    made = trained(tmp_path, model, data, weighting=by_length)
    found = list(plain_loop(twin, data, by_length))
    assert_same(model, twin)
    torch.testing.assert_close(made.step_result.weights, found[-1].weights, rtol=1e-3, atol=0)
    logs = [log for log in made.state.log_history if "loss" in log]
    for log, pair in zip(logs, zip(found[::2], found[1::2], strict=True), strict=True):
        for task in TASKS:
            expected = sum(one.named_weights()[task] for one in pair) / 2
            assert log[f"weight_{task}"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("clip", [0.0, 0.3], ids=["as they are", "clipped"])
def test_accumulated_gradients(tmp_path: Path, clip: float) -> None:
    """The model takes any keyword, of which the Trainer would conclude that losses are scaled."""
    model = TwoHeads()
    twin = copy.deepcopy(model)
    given = {"gradient_accumulation_steps": 2, "max_grad_norm": clip, "optim": "sgd"}
    trained(tmp_path, model, weighting=by_length, **given)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01)
    list(plain_loop(twin, Sentences(), by_length, accumulated=2, clip=clip, optimizer=optimizer))
    assert_same(model, twin)


def test_without_a_weighting_losses_are_added(tmp_path: Path) -> None:
    model = TwoHeads()
    twin = copy.deepcopy(model)
    made = trained(tmp_path, model)
    list(plain_loop(twin, Sentences(), lambda m: torch.ones(len(m))))
    assert_same(model, twin)
    assert made.step_result is None


def test_conflicts_are_counted(tmp_path: Path) -> None:
    """The profile is that of the plain loop, and so is the training."""
    data = Sentences((4, 5, 6, 7))
    model = TwoHeads()
    twin = copy.deepcopy(model)
    made = trained(tmp_path, model, data, probe=ConflictProbe(model.bert, TASKS))
    probe = ConflictProbe(twin.bert, TASKS)
    list(plain_loop(twin, data, None, probe=probe))
    assert_same(model, twin)
    assert made.probe.steps == 4
    found, wanted = made.probe.profile(), probe.profile()
    assert found.layer_names == wanted.layer_names
    assert "encoder.layer.1.output.dense" in found.layer_names
    assert abs(found.counts - wanted.counts).sum() <= 2  # a cosine at the edge of a bin
    assert (found.undefined == wanted.undefined).all()


def test_the_counts_of_a_probe_are_kept(tmp_path: Path) -> None:
    straight, first, second = TwoHeads(), TwoHeads(), TwoHeads()
    whole = trained(tmp_path / "whole", straight, probe=ConflictProbe(straight, TASKS))
    half = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trained(tmp_path / "two", first, probe=ConflictProbe(first, TASKS), **half)
    made = InOrder(
        second,
        arguments(tmp_path / "two"),
        train_dataset=Sentences(),
        probe=ConflictProbe(second, TASKS),
    )
    made.train(resume_from_checkpoint=True)
    assert made.probe.steps == whole.probe.steps == 4
    found, wanted = made.probe.profile(), whole.probe.profile()
    assert abs(found.counts.sum(axis=0) - wanted.counts.sum(axis=0)).sum() <= 2


@pytest.mark.parametrize("kind", ["weighting", "probe"])
def test_checkpoints_of_activations(tmp_path: Path, kind: str) -> None:
    model = TwoHeads()
    model.gradient_checkpointing_enable = model.bert.gradient_checkpointing_enable
    model.activation_checkpointing_enable = model.bert.activation_checkpointing_enable
    twin = copy.deepcopy(model)
    part: Any = by_length if kind == "weighting" else ConflictProbe(model, TASKS)
    trained(tmp_path, model, activation_checkpointing=True, **{kind: part})
    assert model.bert.is_gradient_checkpointing
    own = by_length if kind == "weighting" else lambda m: torch.ones(len(m))
    list(plain_loop(twin, Sentences(), own))
    assert_same(model, twin)


def test_autocast(tmp_path: Path) -> None:
    model = TwoHeads()
    twin = copy.deepcopy(model)
    trained(tmp_path, model, weighting=by_length, bf16=True)
    list(plain_loop(twin, Sentences(), by_length))
    assert_same(model, twin, rtol=0.1, atol=0.03)


def test_a_step_that_overflows_is_left_out_by_the_scaler(tmp_path: Path) -> None:
    model = TwoHeads()
    model.factor = 1e6
    before = copy.deepcopy(model)
    made = InOrder(
        model,
        arguments(tmp_path, max_steps=1),
        train_dataset=Sentences(),
        weighting=by_length,
    )
    made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    made.train()
    assert not made.step_result.finite
    assert made.accelerator.scaler.get_scale() == pytest.approx(5e37)
    assert_same(model, before, rtol=0.0, atol=0.0)


def test_the_state_of_a_weighting_is_kept(tmp_path: Path) -> None:
    straight = TwoHeads()
    trained(tmp_path / "straight", straight, weighting=Counting())
    trained(tmp_path / "two", TwoHeads(), weighting=Counting(), save_strategy="steps", save_steps=2)
    second = InOrder(
        TwoHeads(),
        arguments(tmp_path / "two"),
        train_dataset=Sentences(),
        weighting=Counting(),
    )
    second.train(str(tmp_path / "two" / "checkpoint-2"))
    assert second.weighting.asked == 4
    assert_same(second.model, straight)
    other = InOrder(
        TwoHeads(), arguments(tmp_path / "two"), train_dataset=Sentences(), weighting=by_length
    )
    with pytest.raises(ReconError, match="The checkpoint has the state of a weighting"):
        other.train(resume_from_checkpoint=True)
    (tmp_path / "two" / "checkpoint-2" / "libmtl_recon.pt").unlink()
    with pytest.raises(ReconError, match="The checkpoint has no state of a weighting"):
        second.train(str(tmp_path / "two" / "checkpoint-2"))


def test_evaluation_gathers_predictions(tmp_path: Path) -> None:
    made = InOrder(
        TwoHeads(),
        arguments(tmp_path, per_device_eval_batch_size=4),
        eval_dataset=Sentences((0, 1)),
        weighting=by_length,
    )
    found = made.predict(Sentences((0, 1)))
    assert found.predictions.shape == (16, 2, 3)
    with torch.no_grad():
        losses = [
            sum(one for one in made.model(words, labels)["losses"].values() if one is not None)
            for words, labels in zip(
                Sentences((0, 1)).words.split(4), Sentences((0, 1)).labels.split(4), strict=True
            )
        ]
    assert found.metrics["test_loss"] == pytest.approx(float(sum(losses)) / 4, rel=1e-5)


class TestRefusals:
    def made(self, folder: Path, weighting: Any = by_length, **kwargs: Any) -> Any:
        own = {name: kwargs.pop(name) for name in ("probe", "compute_loss_func") if name in kwargs}
        return MultiTaskTrainer(
            TwoHeads(),
            arguments(folder, **kwargs),
            train_dataset=Sentences(),
            weighting=weighting,
            **own,
        )

    def test_several_gpus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda self: 2))
        with pytest.raises(ReconError, match="has the world size 1 and 2 GPUs"):
            self.made(tmp_path)

    @pytest.mark.parametrize("optimizer", ["lomo", "galore_adamw_layerwise"])
    def test_an_optimizer_inside_of_the_backward_pass(self, tmp_path: Path, optimizer: str) -> None:
        with pytest.raises(UsageError, match="must be an optimizer that steps after"):
            self.made(tmp_path, optim=optimizer)

    def test_one_loss(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="compute_loss_func cannot be combined"):
            self.made(tmp_path, compute_loss_func=lambda outputs, labels, **kwargs: outputs)
        with pytest.raises(UsageError, match="label_smoothing_factor cannot be combined"):
            self.made(tmp_path, label_smoothing_factor=0.1)

    def test_both(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="weighting cannot be combined with `probe`"):
            self.made(tmp_path, probe=ConflictProbe(TwoHeads(), TASKS))

    def test_a_model_without_losses_by_task(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        made.model.forward = lambda **kwargs: {"loss": torch.ones(())}
        with pytest.raises(ReconError, match="returned a dict of loss"):
            made.train()

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = import_module("libmtl_recon.integrations.huggingface")
        for name in [name for name in sys.modules if name.partition(".")[0] == "accelerate"]:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingPackageError, match=r"libmtl-recon\[huggingface\]"):
            reload(module)
