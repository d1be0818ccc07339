"""Arguments that a script gives a Trainer by hand: all, some, none, and wrong ones."""

from __future__ import annotations

from typing import Any

import pytest
from small_problem import batches, make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.features import detect


def recon() -> Any:
    return "Recon" if detect(LibMTL).by_name else architectures.Recon


@pytest.mark.parametrize("given", [{}, {"gradops_stationary": "min_norm"}])
def test_gradops_has_its_defaults(given: dict[str, Any]) -> None:
    trainer = make_trainer("GradOPS", weight_args=dict(given))
    assert trainer.kwargs["weight_args"] == {"gradops_alpha": 0.0, **given}
    trainer.train(batches(2, count=1), batches(2, count=1), 1)


@pytest.mark.parametrize(
    ("given", "lr", "found"),
    [({}, 1e-2, 5e-4), ({}, 1e-4, 5e-5), ({}, 0.0, 5e-4), ({"rotograd_lr": 2e-3}, 1e-2, 2e-3)],
)
def test_rotograd_has_its_defaults(given: dict[str, float], lr: float, found: float) -> None:
    trainer = make_trainer("RotoGrad", weight_args=given, optim_param={"optim": "sgd", "lr": lr})
    assert trainer.kwargs["weight_args"] == {
        "rotograd_mode": "full",
        "rotograd_burn_in": 20,
        "rotograd_map": "cayley",
        "rotograd_every": 1,
        "rotograd_size": None,
        "rotograd_alpha": 1.5,
        "rotograd_decay": 0.9999,
        "rotograd_lr": found,
    }
    trainer.train(batches(2, count=1), batches(2, count=1), 1)


@pytest.mark.parametrize(
    ("weighting", "given", "found"),
    [
        ("MGDA", {}, {"mgda_gn": "none"}),
        ("CAGrad", {"calpha": 0.2}, {"calpha": 0.2, "rescale": 1}),
        ("DWA", None, {"T": 2.0}),
        ("GradDrop", {}, {"leak": 0.0}),
        ("GradNorm", {}, {"alpha": 1.5}),
    ],
)
def test_libmtls_own_weightings_have_the_defaults_of_its_flags(
    weighting: str, given: dict[str, float] | None, found: dict[str, Any]
) -> None:
    trainer = make_trainer(weighting, weight_args=given)
    assert trainer.kwargs["weight_args"] == found
    trainer.train(batches(2, count=1), batches(2, count=1), 1)


def test_recon_has_its_defaults_and_asks_for_k() -> None:
    given = {"recon_k": 1, "recon_layers": "two"}
    trainer = make_trainer("EW", architecture=recon(), arch_args=given)
    assert trainer.kwargs["arch_args"] == {**given, "recon_s": -0.1}
    assert given == {"recon_k": 1, "recon_layers": "two"}
    trainer.train(batches(2, count=1), batches(2, count=1), 1)
    with pytest.raises(UsageError, match="--recon_k must be given with --arch Recon"):
        make_trainer("EW", architecture=recon(), arch_args={})


@pytest.mark.parametrize(
    ("weighting", "changes", "says"),
    [
        ("GradOPS", {"weight_args": {"gradops_alhpa": 1.0}}, "Did you mean gradops_alpha?"),
        (
            "GradOPS",
            {"weight_args": {"gradops_beta": 1.0}},
            "weight_args must have no unknown keys",
        ),
        ("GradOPS", {"weight_args": {"gradops_alpha": "1"}}, "--gradops_alpha must be a finite"),
        ("GradOPS", {"weight_args": {"gradops_stationary": 1}}, "must be stop or min_norm"),
        ("RotoGrad", {"weight_args": {"rotograd_mod": "full"}}, "Did you mean rotograd_mode?"),
        ("RotoGrad", {"weight_args": {"rotograd_lr": -1.0}}, "--rotograd_lr must be above 0"),
        ("EW", {"arch_args": {"recon_k": 1, "recon_layer": "two"}}, "Did you mean recon_layers?"),
    ],
)
def test_what_is_wrong_is_said_before_the_training(
    weighting: str, changes: dict[str, Any], says: str
) -> None:
    if "arch_args" in changes:
        changes = {**changes, "architecture": recon()}
    with pytest.raises(UsageError, match=says):
        make_trainer(weighting, **changes)


def test_what_another_method_gets_is_left_alone() -> None:
    trainer = make_trainer("GradOPS", weight_args={"mgda_gn": "none", "gradops_alpha": 1.0})
    assert trainer.kwargs["weight_args"] == {"mgda_gn": "none", "gradops_alpha": 1.0}
    assert make_trainer("EW", weight_args={"gradops_alpha": 1.0}).kwargs["weight_args"] == {
        "gradops_alpha": 1.0
    }
