"""Flags of the script: which are searched, what untuned runs take, and how they are spelled."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from libmtl_recon_search.config import Config, Space
from libmtl_recon_search.faults import FaultsError
from libmtl_recon_search.flags import flag_space, spell
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.ranges import Range

from libmtl_recon import UsageError

LR = Range(low=1e-4, high=1e-2, log=True)


def test_a_list_is_searched_unless_the_flag_takes_several_values() -> None:
    flags = {"epochs": 3, "lr": LR, "bs": [64, 128], "tags": ["a", "b"], "sizes": [[1, 2], [3]]}
    found = flag_space(flags, ["tags", "sizes"])
    assert found.fixed == {"epochs": 3, "tags": ["a", "b"]}
    assert found.searched == {"lr": LR, "bs": [64, 128], "sizes": [[1, 2], [3]]}
    assert found.defaults() == {
        **{"epochs": 3, "tags": ["a", "b"], "lr": 1e-3, "bs": 64, "sizes": [1, 2]}
    }


def test_before_the_scripts_flags_are_known_no_list_is_refused() -> None:
    flags = {"sizes": [[1, 2], [3]], "tags": ["a", "a"], "bs": [64, 128]}
    assert flag_space(flags, None).searched == flags


def test_dashes_and_underscores_name_the_same_flag() -> None:
    assert flag_space({"some-sizes": [1, 2]}, ["some_sizes"]).fixed == {"some-sizes": [1, 2]}


def test_a_list_of_one_value_is_that_value() -> None:
    assert flag_space({"bs": [64]}).fixed == {"bs": 64}
    assert flag_space({"sizes": [[1, 2]]}, ["sizes"]).fixed == {"sizes": [1, 2]}


@pytest.mark.parametrize(
    ("values", "twice"),
    [([64, 128, 64], 64), ([1, 1.0], 1.0), ([1, True], True), ([1, "1"], "1"), (["a", "a"], "a")],
)
def test_a_value_is_searched_once(values: list[Any], twice: Any) -> None:
    with pytest.raises(UsageError, match="each value once") as caught:
        flag_space({"bs": values})
    assert caught.value.parameter == "flags.bs"
    assert caught.value.value == twice
    # One value of a flag that takes several may hold a number twice.
    assert flag_space({"bs": values}, ["bs"]).fixed == {"bs": values}


def test_true_and_its_name_are_two_values() -> None:
    assert flag_space({"quick": [True, False, "True"]}).searched == {"quick": [True, False, "True"]}


def test_lists_of_a_flag_that_takes_one_value_are_refused_all_at_once() -> None:
    with pytest.raises(FaultsError) as caught:
        flag_space({"bs": [[1, 2], [3]], "lr": [1, 1]}, where="space.flags.EW")
    assert [fault.parameter for fault in caught.value.faults] == [
        "space.flags.EW.bs",
        "space.flags.EW.lr",
    ]
    assert "accepts one value" in str(caught.value)


def test_flags_are_spelled_as_on_a_command_line() -> None:
    flags = {"epochs": 3, "lr": 1e-3, "quiet": True, "loud": False, "sizes": [1, 2], "name": "a b"}
    assert spell(flags) == (
        *("--epochs", "3", "--lr", "0.001", "--quiet", "--sizes", "1", "2", "--name", "a b"),
    )
    with pytest.raises(TypeError, match="lr is a range"):
        spell({"lr": LR})


@pytest.mark.parametrize("value", [-1e-05, -3, -0.25, "-x", "--y", 1e-05, 0.1 + 0.2, 1 / 3, 1e300])
def test_argparse_reads_what_was_chosen(value: float | str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--shift", type=type(value))
    parser.add_argument("--sizes", type=type(value), nargs="+")
    found = parser.parse_args(spell({"shift": value, "sizes": [value]}))
    assert (found.shift, found.sizes) == (value, [value])


@pytest.mark.parametrize(
    ("alpha", "text"), [(-1.0, "-1"), (0.5, "0.5"), (-1 / 3, "-0.3333333333333333")]
)
def test_the_exponent_on_the_command_line_is_the_trials(alpha: float, text: str) -> None:
    assert f"--gradops_alpha={text}" in Plan("GradOPS", alpha).arguments("")


def test_a_configuration_keeps_flags_as_they_are_read() -> None:
    flags = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "bs": [64, 128], "sizes": [[1, 2]]}
    config = Config(script="multidigits", space=Space(flags={"EW": flags}), flags=flags)
    assert config.flags == {**flags, "lr": LR}
    assert config.space.flags["EW"] == {**flags, "lr": LR}
    assert Config(script="multidigits", space=Space(), flags=config.flags) == config.model_copy(
        update={"space": Space()}
    )
