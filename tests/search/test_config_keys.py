"""Objectives, metrics, constraints, samplers and the other keys of open searches."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from libmtl_recon_search import load_config
from libmtl_recon_search.config import Config, Space
from libmtl_recon_search.config_parts import Pick
from libmtl_recon_search.faults import FaultsError
from libmtl_recon_search.ranges import Range
from pydantic import ValidationError

from libmtl_recon import UsageError

GOOD: dict[str, Any] = {"script": "multidigits", "space": {"k": {"low": 0, "high": 3}}}


def read(folder: Path, **changes: Any) -> Config:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return load_config(file)


def faults(folder: Path, **changes: Any) -> dict[str, UsageError]:
    """Return the errors, by key."""
    with pytest.raises(UsageError) as caught:
        read(folder, **changes)
    found = getattr(caught.value, "faults", [caught.value])
    return {fault.parameter.removeprefix(f"{folder / 'study.yaml'}: "): fault for fault in found}


def test_what_is_left_out_has_a_value(tmp_path: Path) -> None:
    config = read(tmp_path, space={})
    assert config.name == "study"
    assert config.objectives == ["delta_m"]
    assert (config.metrics.weights, config.metrics.leave_out) == ({}, [])
    assert config.metrics.undefined == "stop"
    assert config.constraints.model_dump() == dict.fromkeys(
        ("parameters", "memory", "step_time", "each_task")
    )
    assert (config.pick.best, config.pick.within) == (None, 0.0)
    assert config.score.reuse
    assert config.sampler.model_dump() == {"name": "TPESampler", "args": {}, "optunahub": None}
    assert (config.prune, config.pruner, config.tune_baselines) == (True, None, False)
    assert (config.timeout.run, config.timeout.study) == (None, None)
    assert (config.callbacks.mlflow, config.callbacks.tensorboard) == (None, None)
    space = config.space
    assert (space.k, space.ks, space.splits, space.needs_scores) == (None, [], False, False)
    assert space.select == ["conflict"]
    assert space.alpha == Range(low=-3.0, high=2.0, step=0.5)


def test_the_name_is_the_files_unless_one_is_given(tmp_path: Path) -> None:
    assert read(tmp_path, name="two digits: π").name == "two digits: π"
    assert load_config("multidigits").name == "multidigits"


def test_a_file_whose_name_is_no_studys_asks_for_one(tmp_path: Path) -> None:
    file = tmp_path / f"{'n' * 220}.yaml"
    file.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    with pytest.raises(UsageError, match=r"at most 200 characters .*write name: digits") as caught:
        load_config(file)
    assert caught.value.value == "n" * 220
    file.write_text(yaml.safe_dump({**GOOD, "name": "n"}), encoding="utf-8")
    assert load_config(file).name == "n"


@pytest.mark.parametrize(
    ("space", "ks", "splits", "scored"),
    [
        ({"k": {"low": 0, "high": 4, "step": 2}}, [0, 2, 4], True, True),
        ({"k": [3, 1]}, [3, 1], True, True),
        ({"k": [0]}, [0], False, False),
        ({"k": {"low": 1, "high": 4, "log": True}}, [1, 2, 3, 4], True, True),
        ({"k": [3], "select": ["first", "norms", "random"]}, [3], True, False),
        ({"k": [3], "select": ["first", "random_params"]}, [3], True, True),
        ({"k": None}, [], False, False),
    ],
)
def test_the_space_says_what_it_needs(
    tmp_path: Path, space: dict[str, Any], ks: list[int], splits: bool, scored: bool
) -> None:
    found = read(tmp_path, space=space).space
    assert (found.ks, found.splits, found.needs_scores) == (ks, splits, scored)


def test_alpha_and_severities_are_lists_or_ranges_of_real_numbers(tmp_path: Path) -> None:
    space = {"k": [1], "alpha": {"low": -2, "high": 1}, "s": {"low": -0.02, "high": 0}}
    found = read(tmp_path, space=space).space
    assert found.alpha == Range(low=-2.0, high=1.0)
    assert isinstance(found.alpha, Range)
    assert not found.alpha.is_int
    assert found.severities == [-0.02, -0.015, -0.01, -0.005, 0.0]
    found = read(tmp_path, space={"k": [1], "alpha": [0.5, -1], "s": [-0.1, 0]}).space
    assert found.alpha == [0.5, -1.0]
    assert found.severities == [-0.1, 0.0]
    whole = read(tmp_path, space={"alpha": {"low": -2, "high": 1, "step": 1}}).space.alpha
    assert isinstance(whole, Range)
    assert whole.values == [-2.0, -1.0, 0.0, 1.0]


LR = {"low": 1e-4, "high": 0.1, "log": True}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "  "}, "name", "must not be empty"),
        ({"name": "a/b"}, "name", "must not contain a slash"),
        ({"name": "a\\b"}, "name", "must not contain a slash"),
        ({"name": ".."}, "name", "must not contain a slash"),
        ({"name": " a"}, "name", "begin or end with a space"),
        ({"name": "a\tb"}, "name", "not contain line breaks, tabs"),
        ({"name": "a\u202eb"}, "name", "invisible characters"),
        ({"name": "n" * 201}, "name", "at most 200 characters"),
        ({"name": 3}, "name", "valid string"),
        ({"flags": {"lr": {"low": 1, "high": 0.1}}}, "flags.lr.high", "must not be below low"),
        ({"flags": {"lr": {"low": 1}}}, "flags.lr.high", "must be given"),
        ({"flags": {"lr": {"low": 1, "hihg": 2}}}, "flags.lr.hihg", "Did you mean high?"),
        ({"flags": {"lr": {**LR, "step": 0.1}}}, "flags.lr.log", "combined with `step`"),
        ({"flags": {"lr": {"low": 0.0, "high": 1, "log": True}}}, "flags.lr.log", "a low above 0"),
        ({"flags": {"lr": [[0.1], 0.2]}}, "flags.lr", "both single values and lists"),
        ({"flags": {"lr": [[0.1], []]}}, "flags.lr", "a list of these or a range"),
        ({"flags": {"lr": [[1, 2], [1, 2]]}}, "flags.lr", "each value once"),
        ({"flags": {"lr": [[[1]]]}}, "flags.lr", "a list of these or a range"),
        ({"flags": {"lr": [0.1, None]}}, "flags.lr", "a list of these or a range"),
        ({"flags": {"lr": [0.1, math.nan]}}, "flags.lr", "a list of these or a range"),
        ({"flags": {"recon_select": "first"}}, "flags.recon_select", "must not be set here"),
        ({"flags": {"seed": {"low": 0, "high": 3}}}, "flags.seed", "must not be set here"),
        ({"flags": {"--lr": LR}}, "flags", "without the leading dashes"),
        ({"score": {"flags": {"lr": LR}}}, "score.flags.lr", "or a list of these (got"),
        ({"score": {"reuse": 0}}, "score.reuse", "valid boolean"),
        ({"space": {"s": [-0.1]}}, "space.s", "needs `space.k`"),
        ({"space": {"select": ["first"]}}, "space.select", "needs `space.k`"),
        ({"space": {"k": [1], "select": ["frist"]}}, "space.select[0]", "Did you mean first?"),
        ({"space": {"k": [1], "select": []}}, "space.select", "must not be empty"),
        ({"space": {"k": [1], "select": ["last", "last"]}}, "space.select", "each value once"),
        ({"space": {"k": []}}, "space.k", "must not be empty"),
        ({"space": {"k": [1, 1]}}, "space.k", "each value once"),
        ({"space": {"k": [1, -1]}}, "space.k[1]", "greater than or equal to 0"),
        ({"space": {"k": [0.5]}}, "space.k[0]", "valid integer"),
        ({"space": {"k": [True]}}, "space.k[0]", "valid integer"),
        ({"space": {"k": 3}}, "space.k", "a list of values, or a range"),
        ({"space": {"k": {"low": 0, "high": 3.5}}}, "space.k.high", "must be a whole number"),
        ({"space": {"k": {"low": 0, "high": 4, "step": 0.5}}}, "space.k.step", "a whole number"),
        ({"space": {"alpha": [0.5, 0.5]}}, "space.alpha", "each value once"),
        ({"space": {"alpha": [math.nan]}}, "space.alpha[0]", "finite number"),
        ({"space": {"alpha": 0.5}}, "space.alpha", "e.g. alpha: {low: -2.0"),
        ({"space": {"flags": {"EW": {"lr": {"low": 1}}}}}, "space.flags.EW.lr.high", "be given"),
        (
            {"space": {"flags": {"EW": {"lr": [1, [2]]}}}},
            "space.flags.EW.lr",
            "both single values and lists",
        ),
        ({"objectives": []}, "objectives", "must not be empty"),
        ({"objectives": ["delta"]}, "objectives[0]", "Did you mean delta_m?"),
        ({"objectives": ["seg."]}, "objectives[0]", "TASK.METRIC"),
        ({"objectives": [".IoU"]}, "objectives[0]", "TASK.METRIC"),
        ({"objectives": ["memory", "memory"]}, "objectives", "each value once"),
        ({"objectives": "delta_m"}, "objectives", "e.g. objectives: [delta_m, parameters]"),
        ({"metrics": {"weights": {"a": 0}}}, "metrics.weights.a", "greater than 0"),
        ({"metrics": {"weights": {"a": math.inf}}}, "metrics.weights.a", "finite number"),
        ({"metrics": {"weights": {"a": True}}}, "metrics.weights.a", "valid number"),
        ({"metrics": {"weights": {"": 1}}}, "metrics.weights", "must be the name of a task"),
        ({"metrics": {"weights": ["a"]}}, "metrics.weights", "e.g. weights: {depth: 0.5"),
        ({"metrics": {"leave_out": ["a", "a"]}}, "metrics.leave_out", "each value once"),
        ({"metrics": {"leave_out": ["a."]}}, "metrics.leave_out[0]", "must be the name of a task"),
        (
            {"metrics": {"weights": {"seg.IoU": 2}, "leave_out": ["seg"]}},
            "metrics.leave_out",
            "task or metric with a weight in metrics.weights (got 'seg.IoU')",
        ),
        ({"metrics": {"undefined": "go on"}}, "metrics.undefined", "'stop' or 'leave_out'"),
        ({"constraints": {"parameters": {}}}, "constraints.parameters.at_most", "must be given"),
        ({"constraints": {"memory": {"at_most": 0}}}, "constraints.memory.at_most", "than 0"),
        ({"constraints": {"step_time": 2}}, "constraints.step_time", "e.g. step_time: {at_most"),
        (
            {"constraints": {"parameters": {"not_below": 1}}},
            "constraints.parameters.not_below",
            "The only one is at_most.",
        ),
        (
            {"constraints": {"each_task": {"not_below": math.nan}}},
            "constraints.each_task.not_below",
            "finite number",
        ),
        ({"constraints": {"size": {"at_most": 1}}}, "constraints.size", "Known names: parameters"),
        ({"pick": {"best": "memory"}}, "pick.best", "The only one is delta_m."),
        ({"pick": {"within": -0.1}}, "pick.within", "greater than or equal to 0"),
        ({"pick": {"within": math.inf}}, "pick.within", "finite number"),
        ({"timeout": {"study": 0}}, "timeout.study", "greater than 0"),
        ({"timeout": {"study": "1h"}}, "timeout.study", "valid number"),
        ({"tune_baselines": True}, "tune_baselines", "needs a flag with a list or a range"),
        ({"tune_baselines": "yes"}, "tune_baselines", "valid boolean"),
        ({"callbacks": {"wandb": {}}}, "callbacks.wandb", "Known names: mlflow, tensorboard."),
        ({"callbacks": {"tensorboard": 1}}, "callbacks.tensorboard", "keys with values"),
        ({"callbacks": {"mlflow": {"uri": "x"}}}, "callbacks.mlflow", "(got 'uri')"),
        (
            {"callbacks": {"mlflow": {"experiment": ""}}},
            "callbacks.mlflow.experiment",
            "must not be empty",
        ),
        ({"callbacks": {"tensorboard": {"log_dir": 3}}}, "callbacks.tensorboard.log_dir", "string"),
    ],
)
def test_each_mistake_is_named(
    tmp_path: Path, changes: dict[str, Any], key: str, words: str
) -> None:
    found = faults(tmp_path, **changes)
    assert list(found) == [key]
    assert words in str(found[key])


def test_all_mistakes_of_all_keys_are_named_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        name="a/b",
        flags={"lr": {"low": 3, "high": 1}, "bs": [1, [2]], "arch": "HPS", "w": {"low": "a"}},
        objectives=["foo"],
        metrics={"weights": {"a": -1}, "undefined": "x"},
        constraints={"parameters": {"at_most": "much"}},
        pick={"within": -1},
        space={"alpha": [], "s": [-0.1], "k": None, "flags": {"EW": {"seed": 1}, "UW": {}}},
        sampler={"name": "TPESampler", "args": {"seeds": 1}},
        pruner={"name": "Median"},
        timeout={"run": 0, "study": 0},
    )
    assert set(found) == {
        *("name", "flags.lr.high", "flags.bs", "flags.arch", "flags.w.low", "flags.w.high"),
        *("objectives[0]", "metrics.weights.a", "metrics.undefined"),
        *("constraints.parameters.at_most", "pick.within", "space.alpha", "space.s"),
        *("space.flags.EW.seed", "sampler.args.seeds", "pruner.name"),
        *("timeout.run", "timeout.study"),
    }


def test_a_search_without_objectives_that_are_good_says_nothing_of_pick(tmp_path: Path) -> None:
    assert list(faults(tmp_path, objectives=["foo"], pick={"best": "bar"})) == ["objectives[0]"]
    # From Python, too, and among several.
    space = Space()
    with pytest.raises(ValidationError, match="Did you mean memory"):
        Config(
            script="multidigits",
            space=space,
            objectives=["delta_m", "memory"],
            pick=Pick(best="memry"),
        )
    several = ["delta_m", "seg.mIoU"]
    assert read(tmp_path, objectives=several, pick={"best": "seg.mIoU"}).objectives == several


def test_what_has_a_weight_may_be_a_task_of_which_one_metric_is_left_out(tmp_path: Path) -> None:
    metrics = {"weights": {"seg": 2, "seg.IoU_all": 1}, "leave_out": ["seg.IoU"]}
    assert read(tmp_path, metrics=metrics).metrics.leave_out == ["seg.IoU"]


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": {"lr": LR}},
        {"flags": {"bs": [64, 128]}},
        {"space": {"flags": {"EW": {"lr": LR}}}},
    ],
)
def test_baselines_are_tuned_where_a_flag_is_searched(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert read(tmp_path, tune_baselines=True, **changes).tune_baselines
    only_other = {"space": {"flags": {"GradOPS": {"lr": LR}}}}
    assert list(faults(tmp_path, tune_baselines=True, **only_other)) == ["tune_baselines"]


def test_callbacks_need_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "libmtl_recon_search.config_parts.find_spec",
        lambda name: None if name in ("mlflow", "tensorboard") else there(name),
    )
    found = faults(tmp_path, callbacks={"mlflow": {}, "tensorboard": {}})
    assert "pip install 'libmtl-recon[mlflow]'" in str(found["callbacks.mlflow"])
    assert "pip install 'libmtl-recon[tensorboard]'" in str(found["callbacks.tensorboard"])
    monkeypatch.setattr("libmtl_recon_search.config_parts.find_spec", lambda _: object())
    config = read(tmp_path, callbacks={"mlflow": {"tracking_uri": "http://here"}})
    assert config.callbacks.mlflow == {"tracking_uri": "http://here"}
    assert config.callbacks.tensorboard is None


def test_keys_that_no_model_has_are_offered_where_they_stand(tmp_path: Path) -> None:
    with pytest.raises(FaultsError) as caught:
        read(
            tmp_path,
            space={"flags": {"EW": {"lr": {"lo": 1, "high": 2}}}, "k": {"low": 0, "hi": 2}},
            constraints={"each_task": {"at_most": 1}},
        )
    said = str(caught.value)
    assert "space.flags.EW.lr.lo must be a known key" in said
    assert "space.k.hi must be a known key" in said
    assert said.count("Known names: low, high, step, log.") == 2
    assert "The only one is not_below." in said
    assert "must be given" not in said
