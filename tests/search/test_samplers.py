"""Samplers and pruners: by name, by import path, from OptunaHub; and what is said of bad ones."""

from __future__ import annotations

import sys
import types
from typing import Any

import optuna
import own_samplers
import pytest
from libmtl_recon_search.config import Config, Space
from libmtl_recon_search.explaining import explain
from libmtl_recon_search.samplers import make_pruner, make_sampler, said_of_pruner
from pydantic import ValidationError

from libmtl_recon import UsageError


def search(**more: Any) -> Config:
    return Config.model_validate({"script": "multidigits", "space": {"k": [0, 2]}, **more})


def said(**more: Any) -> dict[str, UsageError]:
    """Return the errors, by key."""
    with pytest.raises(ValidationError) as caught:
        search(**more)
    return {fault.parameter: fault for fault in explain(caught.value, Config)}


def draws(sampler: optuna.samplers.BaseSampler) -> list[float]:
    study = optuna.create_study(sampler=sampler)
    found = []
    for _ in range(3):
        trial = study.ask()
        found.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, found[-1])
    return found


def test_by_default_tpe_draws_by_the_seed_that_it_is_given() -> None:
    one, same, other = (make_sampler(search(), seed) for seed in (1, 1, 2))
    assert type(one) is optuna.samplers.TPESampler
    assert one._n_startup_trials == 6
    assert draws(one) == draws(same)
    assert draws(one) != draws(other)


def test_arguments_take_the_place_of_ours() -> None:
    config = search(sampler={"name": "TPESampler", "args": {"n_startup_trials": 12}})
    made = make_sampler(config, 1)
    assert isinstance(made, optuna.samplers.TPESampler)
    assert made._n_startup_trials == 12
    # A seed of its own does not have each trial draw the same.
    config = search(sampler={"name": "TPESampler", "args": {"seed": 5}})
    one, same, other = (make_sampler(config, seed) for seed in (1, 1, 2))
    assert draws(one) == draws(same) != draws(other)
    assert draws(make_sampler(search(), 1)) != draws(make_sampler(config, 1))


@pytest.mark.parametrize("name", ["TPESampler", "GPSampler", "RandomSampler", "NSGAIISampler"])
@pytest.mark.parametrize("objectives", [["delta_m"], ["delta_m", "parameters"]])
def test_optunas_samplers_are_found_by_name(name: str, objectives: list[str]) -> None:
    config = search(sampler={"name": name}, objectives=objectives)
    assert type(make_sampler(config, 3)) is getattr(optuna.samplers, name)


def test_without_a_pruner_the_median_of_the_second_half_decides_and_none_if_not_wanted() -> None:
    made = make_pruner(search(), 30)
    assert type(made) is optuna.pruners.MedianPruner
    assert (made._n_startup_trials, made._n_warmup_steps) == (8, 15)
    assert said_of_pruner(search(), 30).endswith(
        "MedianPruner(n_startup_trials=8, n_warmup_steps=15)"
    )
    assert type(make_pruner(search(prune=False), 30)) is optuna.pruners.NopPruner
    named = search(pruner={"name": "PercentilePruner", "args": {"percentile": 25}})
    assert type(make_pruner(named, 30)) is optuna.pruners.PercentilePruner


def test_ones_own_are_found_by_their_import_path() -> None:
    config = search(
        sampler={"name": "own_samplers:Careful", "args": {"width": 3, "other": [1]}},
        pruner={"name": "own_samplers:Never"},
    )
    made = make_sampler(config, 7)
    assert isinstance(made, own_samplers.Careful)
    assert (made.width, made.given, made.more) == (3, 7, {"other": [1]})
    assert isinstance(make_pruner(config, 3), own_samplers.Never)


@pytest.mark.parametrize(
    ("key", "chosen", "place", "words"),
    [
        ("sampler", {"name": "TPE"}, "sampler.name", "Did you mean TPESampler?"),
        ("sampler", {"name": "tpe_sampler"}, "sampler.name", "Did you mean TPESampler?"),
        ("sampler", {"name": "BaseSampler"}, "sampler.name", "must be a sampler of"),
        ("sampler", {"name": "MedianPruner"}, "sampler.name", "must be a sampler of"),
        ("sampler", {"name": "optuna.samplers.TPESampler"}, "sampler.name", "module:Class"),
        ("sampler", {"name": ""}, "sampler.name", "must be a sampler of"),
        ("sampler", {"name": "no_such:Thing"}, "sampler.name", "No module named 'no_such'"),
        ("sampler", {"name": ":"}, "sampler.name", "import path"),
        ("sampler", {"name": "own_samplers:Carful"}, "sampler.name", "Did you mean Careful?"),
        ("sampler", {"name": "own_samplers:Never"}, "sampler.name", "must be a sampler of"),
        ("sampler", {"name": "json:JSONDecoder"}, "sampler.name", "json has none."),
        ("sampler", {"args": {"n_startup": 2}}, "sampler.args.n_startup", "n_startup_trials?"),
        (
            "sampler",
            {"args": {"n_startup_trials": "many"}},
            "sampler.args.n_startup_trials",
            "must be a valid integer (got 'many'). TPESampler takes ",
        ),
        ("sampler", {"args": {"gamma": 3}}, "sampler.args.gamma", "must be callable"),
        ("sampler", {"args": {"multivariate": 1}}, "sampler.args.multivariate", "boolean"),
        ("sampler", {"args": {"multivariate": False, "group": True}}, "sampler", "ValueError"),
        ("sampler", {"args": 3}, "sampler.args", "e.g. args: {n_startup_trials: 12}"),
        ("sampler", {"nam": "TPESampler"}, "sampler.nam", "Known names: name, args, optunahub"),
        ("sampler", {"name": "PartialFixedSampler"}, "sampler.args.base_sampler", "be given"),
        ("sampler", {"name": "own_samplers:Careful"}, "sampler.args.width", "must be given"),
        (
            "sampler",
            {"name": "own_samplers:Careful", "args": {"width": 0}},
            "sampler",
            "Careful reports: ValueError: a width of zero.",
        ),
        ("pruner", {"name": "Hyperband"}, "pruner.name", "Did you mean HyperbandPruner?"),
        ("pruner", {"args": {}}, "pruner.name", "must be given"),
        ("pruner", {"name": "PercentilePruner"}, "pruner.args.percentile", "must be given"),
        (
            "pruner",
            {"name": "PercentilePruner", "args": {"percentile": 250}},
            "pruner",
            "PercentilePruner reports: ValueError",
        ),
        ("pruner", {"name": "ThresholdPruner"}, "pruner", "ThresholdPruner reports: TypeError"),
        (
            "pruner",
            {"name": "NopPruner", "args": {"n": 1}},
            "pruner.args.n",
            "It takes none.",
        ),
        ("pruner", {"name": "own_samplers:Half"}, "pruner.name", "must be a pruner of"),
        ("pruner", {"name": "own_samplers:Broken"}, "pruner", "KeyError: 'epoch'"),
    ],
)
def test_what_cannot_be_made_is_said(
    key: str, chosen: dict[str, Any], place: str, words: str
) -> None:
    found = said(**{key: chosen})
    assert place in found
    assert words in str(found[place])
    assert len(str(found[place])) < 1000


def test_all_wrong_arguments_are_said_at_once() -> None:
    args = {"n_startup_trials": 1.5, "n_eicandidates": 3, "multivariate": "yes"}
    assert set(said(sampler={"args": args})) == {f"sampler.args.{name}" for name in args}


def test_a_sampler_that_knows_one_objective_alone_is_refused_for_several() -> None:
    chosen = {"name": "own_samplers:Careful", "args": {"width": 1}}
    assert search(sampler=chosen).sampler.name == chosen["name"]
    found = said(sampler=chosen, objectives=["delta_m", "parameters"])
    assert "must choose trials of this search" in str(found["sampler"])
    assert "one objective, please." in str(found["sampler"])


def test_cma_es_is_refused_for_several_objectives() -> None:
    found = said(sampler={"name": "CmaEsSampler"}, objectives=["delta_m", "parameters"])
    assert "CmaEsSampler reports: " in str(found["sampler"])


@pytest.mark.parametrize(
    ("name", "args", "space", "why"),
    [
        ("QMCSampler", {}, {}, "must be a sampler that chooses from the existing trials"),
        (
            "GridSampler",
            {"search_space": {"weighting": ["EW"], "k": [1]}},
            {"weighting": ["EW"], "k": [0, 1]},
            "The parameter name, s, is not found in the given grid",
        ),
        (
            "BruteForceSampler",
            {},
            {"weighting": ["EW", "GradOPS"], "alpha": {"low": -1.0, "high": 1.0}},
            "the search space will be infinite",
        ),
    ],
)
def test_a_sampler_that_cannot_choose_from_the_space_is_refused(
    name: str, args: dict[str, Any], space: dict[str, Any], why: str
) -> None:
    found = said(sampler={"name": name, "args": args}, space=space)
    assert why in " ".join(map(str, found.values()))


def test_a_sampler_that_goes_through_a_finite_space_is_taken() -> None:
    space = {"weighting": ["EW", "GradOPS"], "alpha": [-1.0, 1.0], "k": [0, 1], "s": [-0.1]}
    assert search(sampler={"name": "BruteForceSampler"}, space=space)
    grid = {"weighting": ["EW"], "alpha": [1.0], "k": [1], "s": [-0.1]}
    assert search(sampler={"name": "GridSampler", "args": {"search_space": grid}}, space=space)


def test_a_pruner_beside_prune_false_is_a_contradiction() -> None:
    found = said(prune=False, pruner={"name": "MedianPruner"})
    assert "cannot be combined with `prune: false`" in str(found["pruner"])
    assert search(prune=True, pruner={"name": "MedianPruner"}).pruner is not None
    assert search(prune=False, pruner=None).pruner is None


def test_optuna_keeps_quiet_and_its_verbosity(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        # An experimental argument, of which Optuna warns.
        search(sampler={"args": {"multivariate": True, "group": True}})
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------ OptunaHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for OptunaHub; the packages that were asked for."""
    asked = []

    def load_module(package: str) -> types.ModuleType:
        asked.append(package)
        if package.endswith("away"):
            raise ConnectionError("no network")
        module = types.ModuleType(package)
        module.__dict__.update(AutoSampler=own_samplers.Careful, __all__=["AutoSampler"])
        return module

    fake = types.ModuleType("optunahub")
    fake.__dict__["load_module"] = load_module
    monkeypatch.setitem(sys.modules, "optunahub", fake)
    return asked


def test_optunahub_is_asked_only_where_it_is_named(hub: list[str]) -> None:
    chosen = {"name": "AutoSampler", "args": {"width": 2}, "optunahub": "samplers/auto_sampler"}
    config = search(sampler=chosen)
    assert isinstance(make_sampler(config, 3), own_samplers.Careful)
    assert hub == ["samplers/auto_sampler"]  # fetched once
    assert "sampler.name" in said(sampler={"name": "AutoSampler"})
    assert hub == ["samplers/auto_sampler"]


@pytest.mark.parametrize(
    ("chosen", "place", "words"),
    [
        ({"optunahub": "samplers/one"}, "sampler.optunahub", "needs `name`"),
        ({"name": "A", "optunahub": "auto"}, "sampler.optunahub", "samplers/auto_sampler"),
        ({"name": "A", "optunahub": "../../x"}, "sampler.optunahub", "samplers/auto_sampler"),
        ({"name": "Auto", "optunahub": "samplers/two"}, "sampler.name", "Did you mean AutoSampler"),
        ({"name": "A", "optunahub": "samplers/away"}, "sampler.optunahub", "no network"),
    ],
)
def test_what_optunahub_lacks_is_said(
    hub: list[str], chosen: dict[str, Any], place: str, words: str
) -> None:
    found = said(sampler=chosen)
    assert list(found) == [place]
    assert words in str(found[place])


def test_without_optunahub_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optunahub", None)
    found = said(pruner={"name": "A", "optunahub": "pruners/three"})
    assert "pip install 'libmtl-recon[optunahub]'" in str(found["pruner.optunahub"])


def test_the_space_need_not_be_good_for_a_sampler_to_be_looked_at() -> None:
    found = said(space={"k": "many"}, sampler={"args": {"n": 1}})
    assert set(found) == {"space.k", "sampler.args.n"}
    assert Space().splits is False
