"""The patch `fast-gradients`: the same training as LibMTL's own plumbing, up to rounding."""

from __future__ import annotations

from typing import Any

from small_problem import Encoder as SmallEncoder
from small_problem import batches, make_trainer

# isort: split
import LibMTL
import LibMTL.weighting as weightings
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.step.step import task_rows

pypi_only = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the script is written for LibMTL's release"
)


class Walked:
    """Counts how often a gradient flows through each task's decoder."""

    def __init__(self, model: Any) -> None:
        self.counts = dict.fromkeys(model.decoders, 0)
        for task, decoder in model.decoders.items():
            decoder.register_full_backward_hook(lambda *_, task=task: self.count(task))

    def count(self, task: str) -> None:
        self.counts[task] += 1


@pypi_only
@pytest.mark.parametrize("weighting", ["MGDA", "IMTL", "GradOPS", "EW", "UW"])
@pytest.mark.parametrize("multi_input", [False, True])
def test_walks_each_decoder_once(weighting: str, multi_input: bool) -> None:
    trainer = make_trainer(weighting, 3, multi_input=multi_input)
    data: Any = batches(3, count=1)
    if multi_input:
        data = {name: [(x, y[name]) for x, y in data] for name in trainer.task_name}
    walked = Walked(trainer.model)
    trainer.train(data, data, epochs=1)
    assert walked.counts == {"t0": 1, "t1": 1, "t2": 1}


@pypi_only
def test_no_gradient_for_what_no_task_reaches() -> None:
    class Encoder(SmallEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(2))

    for weighting in ("GradOPS", "PCGrad", "MGDA"):
        trainer = make_trainer(
            weighting,
            2,
            encoder_class=Encoder,
            optim_param={"optim": "sgd", "lr": 0.1, "weight_decay": 0.1},
        )
        trainer.train(batches(2), batches(2), epochs=1)
        assert trainer.model.encoder.unused.tolist() == [1.0, 1.0]


@pypi_only
def test_takes_the_same_memory_in_every_step() -> None:
    trainer = make_trainer("MGDA", 2)
    seen = []
    compute = trainer.model._compute_grad

    def _compute_grad(*args: Any, **kwargs: Any) -> torch.Tensor:
        rows: torch.Tensor = compute(*args, **kwargs)
        seen.append(rows.data_ptr())
        return rows

    trainer.model._compute_grad = _compute_grad
    trainer.train(batches(2), batches(2), epochs=2)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert rows_are_in_dtype_and_place_of(trainer.model)


def rows_are_in_dtype_and_place_of(model: Any) -> bool:
    rows = task_rows(model, [p.sum() for p in model.decoders.parameters()][:2])
    parameter = next(iter(model.get_share_params()))
    return rows.dtype == parameter.dtype and rows.device == parameter.device


@pypi_only
def test_a_weighting_of_the_scripts_own_gets_libmtls_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Own(weightings.AbsWeighting):  # type: ignore[misc]
        def backward(self, losses: torch.Tensor, **_: Any) -> Any:
            shared = list(self.get_share_params())
            first = torch.autograd.grad(losses[0], shared, retain_graph=True)
            self._compute_grad_dim()
            rows = self._compute_grad(losses, mode="backward")
            flat = torch.cat([g.flatten() for g in first])
            torch.testing.assert_close(rows[0], flat, rtol=0, atol=0)
            self._reset_grad(rows[1])

    monkeypatch.setattr(weightings, "Own", Own, raising=False)
    trainer = make_trainer("Own", 2)
    walked = Walked(trainer.model)
    before = trainer.model.encoder.one.weight.clone()
    trainer.train(batches(2, count=1), batches(2, count=1), epochs=1)
    assert not torch.equal(trainer.model.encoder.one.weight, before)
    # Its own call walks both decoders, ours only the one that is meant.
    assert walked.counts == {"t0": 2, "t1": 2}


@pypi_only
def test_a_trainer_that_changes_the_losses_is_believed() -> None:
    class Doubling(LibMTL.Trainer):  # type: ignore[misc]
        def _compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            losses: torch.Tensor = super()._compute_loss(*args, **kwargs)
            return 2 * losses

    def decoder_gradients(trainer_class: type) -> torch.Tensor:
        trainer = make_trainer(
            "MGDA", 2, trainer_class=trainer_class, optim_param={"optim": "sgd", "lr": 0}
        )
        trainer.train(batches(2, count=1), batches(2, count=1), epochs=1)
        gradient: torch.Tensor = trainer.model.decoders["t0"].weight.grad
        return gradient

    torch.testing.assert_close(decoder_gradients(Doubling), 2 * decoder_gradients(LibMTL.Trainer))


class WideEncoder(SmallEncoder):
    """With so many parameters that they are read in several chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Parameter(torch.zeros(1 << 17))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.wide.sum()


class Sizes(TorchDispatchMode):
    """Notes how many numbers each result has that is made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in given:
            self.made.append(result.numel())
        return result


@pypi_only
@pytest.mark.parametrize("weighting", ["MGDA", "IMTL", "GradNorm"])
def test_a_weighting_by_inner_products_makes_no_matrix_of_the_size_of_the_gradients(
    weighting: str,
) -> None:
    trainer = make_trainer(weighting, 3, encoder_class=WideEncoder)
    width = sum(p.numel() for p in trainer.model.get_share_params())
    sizes, backward = Sizes(), trainer.model.backward
    seen = []
    compute = trainer.model._compute_grad

    def _compute_grad(*args: Any, **kwargs: Any) -> torch.Tensor:
        rows: torch.Tensor = compute(*args, **kwargs)
        seen.append(tuple(rows.shape))
        return rows

    def watched(losses: torch.Tensor, **kwargs: Any) -> Any:
        with sizes:
            return backward(losses, **kwargs)

    trainer.train(batches(3), batches(3), epochs=2)  # after which the matrix is there
    trainer.model._compute_grad, trainer.model.backward = _compute_grad, watched
    trainer.train(batches(3), batches(3), epochs=2)
    assert set(seen) == {(3, width)}
    assert sizes.made
    assert width <= max(sizes.made) < 3 * width


@pypi_only
@pytest.mark.parametrize("part", ["_find_min_norm_element", "_gradient_normalizers"])
def test_a_part_of_mgda_that_a_script_has_made_is_used(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def own(self: Any, grads: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(tuple(grads.shape))
        found: torch.Tensor = getattr(super(Own, self), part)(grads, *args, **kwargs)
        return found

    class Own(weightings.MGDA):  # type: ignore[misc]
        pass

    setattr(Own, part, own)
    monkeypatch.setattr(weightings, "Own", Own, raising=False)
    trainer = make_trainer("Own", 3, weight_args={"mgda_gn": "l2"})
    trainer.train(batches(3, count=1), batches(3, count=1), epochs=1)
    plain = make_trainer("MGDA", 3, weight_args={"mgda_gn": "l2"})
    plain.train(batches(3, count=1), batches(3, count=1), epochs=1)
    width = sum(p.numel() for p in trainer.model.get_share_params())
    assert seen == [(3, width)]
    for mine, theirs in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
