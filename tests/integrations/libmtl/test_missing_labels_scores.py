"""What LibMTL's meter tells of data with missing labels, and what a conflict profile counts."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

from missing_problem import (
    ALL,
    NONE,
    PATTERN,
    SOME,
    batches,
    make_trainer,
    masks,
    names,
    parameters,
    per_task,
)

# isort: split
import numpy as np
import pytest
import torch
from torch import Tensor

from libmtl_recon.integrations.libmtl import precision
from libmtl_recon.integrations.libmtl.hooks import Measurement, TrainerHook, trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.weighting.gradops_log import read_log

pytestmark = pytest.mark.usefixtures("float64_on_the_cpu")


class Kept(TrainerHook):
    def __init__(self) -> None:
        self.measurements: list[Measurement] = []

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        self.measurements.append(measurement)


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("style", ["nan", "mask"])
def test_losses_and_metrics_are_those_of_the_labelled_samples(
    style: str, multi_input: bool
) -> None:
    trainer, kept = make_trainer("EW", multi_input=multi_input), Kept()
    data = batches(PATTERN, style)
    with trainer_hooks(kept):
        trainer.test(per_task(data) if multi_input else data, 0)
    (found,) = kept.measurements
    model = trainer.model.eval()
    for place, task in enumerate(names(3)):
        squares, absolutes = [], []
        for (x, labels), present in zip(batches(PATTERN, "full"), masks(PATTERN), strict=True):
            error = model.decoders[task](model.encoder(x)) - labels[task]
            squares += error[present[place]].square().mean(1).tolist()
            absolutes += error[present[place]].abs().mean(1).tolist()
        assert found.losses[task] == pytest.approx(np.mean(squares), rel=1e-12)
        assert found.metrics[task]["MAE"] == pytest.approx(np.mean(absolutes), rel=1e-12)


def test_a_task_without_any_label_has_no_score_and_hides_no_best_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer, kept = make_trainer("EW"), Kept()
    with trainer_hooks(kept):
        trainer.train(batches([(ALL, ALL, ALL)]), batches([(ALL, NONE, SOME)]), epochs=3)
    for found in kept.measurements:
        absent = found.mode == "test"
        assert math.isnan(found.losses["t1"]) is absent
        assert math.isnan(found.metrics["t1"]["MAE"]) is absent
        assert math.isfinite(found.losses["t0"] + found.metrics["t2"]["MAE"])
    # It got better from epoch to epoch, as the two tasks that have scores tell.
    assert trainer.meter.best_result["epoch"] == 2
    assert "nan nan" in capsys.readouterr().out


def test_a_score_that_is_nan_by_itself_is_not_left_out_of_the_comparison() -> None:
    trainer = make_trainer("EW")

    class Broken:
        def update_fun(self, *_: Any) -> None: ...
        def score_fun(self) -> list[float]:
            return [math.nan]

        def reinit(self) -> None: ...

    trainer.meter.metrics["t1"] = Broken()
    trainer.train(batches([(ALL, ALL, ALL)]), batches([(ALL, ALL, ALL)]), epochs=3)
    assert trainer.meter.best_result["epoch"] == 0


# --- Recon, bfloat16, logs ------------------------------------------------------------------


def test_recon_leaves_an_absent_tasks_own_layers_alone(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    file.write_text(json.dumps({"two": 5, "one": 3}), encoding="utf-8")
    arguments = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(file)}
    for weighting in ("EW", "GradOPS"):
        trainer = make_trainer(weighting, arch="Recon", arch_args=arguments)
        before = parameters(trainer)
        data = batches([(ALL, NONE, SOME)])
        trainer.train(data, data, epochs=2)
        own = [name for name in before if ".t1" in name or name.endswith(".1")]
        still = [name for name, value in parameters(trainer).items() if value.equal(before[name])]
        assert len(own) == 4  # weight and bias of the layer `two` and of the decoder
        assert sorted(still) == sorted(own)


def test_trains_in_bfloat16() -> None:
    torch.set_default_dtype(torch.float32)
    trainer = make_trainer("GradOPS")
    precision.autocast_forward(trainer.model, trainer.device)
    before = parameters(trainer)
    data = batches(PATTERN)
    trainer.train(data, data, epochs=2)
    for name, value in parameters(trainer).items():
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, before[name]), name


def test_gradops_logs_the_tasks_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    arguments = {"gradops_alpha": 0.0, "gradops_weights": [1.0, 2.0, 3.0]}
    trainer = make_trainer("GradOPS", weight_args={**arguments, "gradops_log": str(file)})
    data = batches(PATTERN)
    trainer.train(data, data, epochs=1)
    log = read_log(file)
    absent = [[not mask.any() for mask in batch] for batch in masks(PATTERN)]
    trained = [row for row in absent if not all(row)]
    np.testing.assert_array_equal(np.isnan(log.factors), trained)
    # Static weights are a task's own, whoever else is there.
    expected = np.where(trained, np.nan, [[0.5, 1.0, 1.5]])
    np.testing.assert_allclose(log.factors, expected)


# --- conflict counts ------------------------------------------------------------------------


def cosines_by_hand(trainer: Any, x: Tensor, y: Any, present: list[Tensor]) -> list[list[float]]:
    """For each layer the cosines of all pairs; NaN where a task is absent."""
    found = []
    for layer in (trainer.model.encoder.one, trainer.model.encoder.two):
        rows: list[Tensor | None] = []
        for task, mask in zip(names(3), present, strict=True):
            if not mask.any():
                rows.append(None)
                continue
            error = trainer.model.decoders[task](trainer.model.encoder(x[mask])) - y[task][mask]
            parts = torch.autograd.grad(error.square().mean(), list(layer.parameters()))
            rows.append(torch.cat([part.flatten() for part in parts]))
        found.append(
            [
                math.nan if a is None or b is None else float(a @ b / a.norm() / b.norm())
                for a, b in itertools.combinations(rows, 2)
            ]
        )
    return found


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("weighting", ["EW", "PCGrad", "GradOPS"])
def test_cosines_of_absent_tasks_are_undefined(weighting: str, multi_input: bool) -> None:
    data, full = batches(PATTERN), batches(PATTERN, "full")
    # Nothing moves, so that each batch's cosines are those of the first network.
    still = {"optim": "sgd", "lr": 0.0}
    trainer = make_trainer(weighting, multi_input=multi_input, optim_param=still)
    expected = [
        cosines_by_hand(trainer, x, y, present)
        for (x, y), present in zip(full, masks(PATTERN), strict=True)
    ]
    expected = [step for step, batch in zip(expected, PATTERN, strict=True) if set(batch) != {NONE}]
    hook = ScoringHook()
    with trainer_hooks(hook):
        hook.built(trainer)
        given = per_task(data) if multi_input else data
        trainer.train(given, given, epochs=1)
    profile = hook.profile()
    assert profile is not None
    assert profile.steps == len(expected) == len(PATTERN) - 1
    assert hook.missed == 0
    undefined = np.isnan(expected).sum(axis=(0, 2))
    assert profile.undefined.sum(axis=0).tolist() == undefined.tolist()
    for severity in (-0.5, -0.1, 0.0):
        below = (np.array(expected) < severity).sum(axis=(0, 2))
        assert list(profile.scores(severity).values()) == below.tolist()


def test_scoring_changes_no_training_with_missing_labels() -> None:
    data = batches(PATTERN)
    plain, scored = make_trainer("GradOPS"), make_trainer("GradOPS")
    plain.train(data, data, epochs=2)
    hook = ScoringHook()
    hook.built(scored)
    scored.train(data, data, epochs=2)
    for name, value in parameters(scored).items():
        assert torch.equal(value, parameters(plain)[name]), name
