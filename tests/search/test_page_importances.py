"""Importances: of parameters that only some trials have, too."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from libmtl_recon_search.page.importances import FEWEST, importances
from libmtl_recon_search.page.model import PageObjective
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

DELTA = PageObjective("delta_m", "maximize", "%")
SIZE = PageObjective("parameters", "minimize", "")
SPACES: dict[str, BaseDistribution] = {
    "weighting": CategoricalDistribution(["EW", "GradOPS"]),
    "alpha": FloatDistribution(-2.0, 2.0),
    "k": IntDistribution(0, 20),
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
}
Value = Callable[[dict[str, Any]], float]


def made(follows: Value, count: int = 80, **more: Any) -> list[FrozenTrial]:
    """Trials whose values follow from their parameters, plus a little noise."""
    chance = random.Random(0)
    found = []
    for _ in range(count):
        params: dict[str, Any] = {"weighting": chance.choice(["EW", "GradOPS"])}
        if params["weighting"] == "GradOPS":
            params["alpha"] = chance.uniform(-2, 2)
        params |= {"k": chance.randint(0, 20), "lr": 10 ** chance.uniform(-5, -1)}
        found.append(
            optuna.create_trial(
                params=params,
                distributions={name: SPACES[name] for name in params},
                **({"value": follows(params) + chance.gauss(0, 0.01)} | more),
            )
        )
    return found


def only(name: str, others: dict[str, float]) -> None:
    """Nearly all is due to one parameter."""
    assert others[name] > 0.8
    assert all(share < 0.1 for key, share in others.items() if key != name)


def test_a_parameter_does_not_get_what_is_due_to_the_one_that_brings_it() -> None:
    shares = importances(made(lambda p: float(p["weighting"] == "GradOPS")), [DELTA])["delta_m"]
    assert shares["weighting"] > 0.9
    # Among GradOPS trials there is nothing but noise, which a forest spreads over parameters.
    assert set(shares) == {"weighting", "alpha", "k", "lr"}
    assert next(iter(shares)) == "weighting"
    assert shares["alpha"] < 0.5


def test_a_conditional_parameter_is_judged_among_those_that_have_it() -> None:
    shares = importances(made(lambda p: p.get("alpha", 0.0)), [DELTA])["delta_m"]
    assert shares["alpha"] > 0.8
    assert shares["lr"] < 0.3


def test_logarithmic_parameters_count_by_their_logarithm() -> None:
    # Half of the trials, but a hundredth of the range where lr counts as it is.
    trials = made(lambda p: float(p["lr"] < 1e-3) + 0.3 * p["k"] / 20)
    only("lr", importances(trials, [DELTA])["delta_m"])


def test_each_objective_has_shares_of_its_own() -> None:
    trials = made(lambda p: 0.0)
    both = [
        optuna.create_trial(
            params=trial.params,
            distributions=trial.distributions,
            values=[math.log10(trial.params["lr"]), float(trial.params["k"])],
        )
        for trial in trials
    ]
    shares = importances(both, [DELTA, SIZE])
    only("lr", shares["delta_m"])
    only("k", shares["parameters"])


def test_the_same_trials_give_the_same_shares() -> None:
    trials = made(lambda p: p["k"] / 20, 30)
    assert importances(trials, [DELTA]) == importances(trials, [DELTA])


def test_too_few_trials_have_no_importances() -> None:
    assert importances([], [DELTA]) == {"delta_m": {}}
    assert importances(made(lambda p: p["k"], FEWEST - 1), [DELTA]) == {"delta_m": {}}
    # Enough in all, and too few that have α.
    shares = importances(made(lambda p: p["k"], FEWEST + 2), [DELTA])["delta_m"]
    assert set(shares) == {"weighting", "k", "lr"}


def test_trials_without_finite_values_do_not_count() -> None:
    trials = made(lambda p: p["k"] / 20, 30)
    failed = made(lambda p: 1e9, 30, state=TrialState.FAIL, value=None)
    endless = made(lambda p: 0.0, 30, value=math.inf)
    assert importances([*trials, *failed, *endless], [DELTA]) == importances(trials, [DELTA])


def test_what_does_not_vary_has_no_share() -> None:
    assert importances(made(lambda p: 0.0, 30, value=1.0), [DELTA]) == {"delta_m": {}}
    trials = [
        optuna.create_trial(
            params={"k": i, "bs": 64},
            distributions={
                "k": IntDistribution(0, 30),
                "bs": CategoricalDistribution([64, 128]),
            },
            value=float(i),
        )
        for i in range(20)
    ]
    assert set(importances(trials, [DELTA])["delta_m"]) == {"k"}


@pytest.mark.parametrize("choices", [["a"], ["b", "a"]])
def test_spaces_that_were_changed_are_joined(choices: list[str]) -> None:
    trials = [
        optuna.create_trial(
            params={"k": i, "select": (["a", "b"] if i % 2 else choices)[0]},
            distributions={
                "k": IntDistribution(0, 30 + i % 2),
                "select": CategoricalDistribution(["a", "b"] if i % 2 else choices),
            },
            value=float(i),
        )
        for i in range(20)
    ]
    assert "k" in importances(trials, [DELTA])["delta_m"]
