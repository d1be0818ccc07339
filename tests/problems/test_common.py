"""What the problems hand to LibMTL, its release and its main branch alike."""

from __future__ import annotations

import argparse

import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest

from libmtl_recon.problems import BUILT_IN, DEMONSTRATIONS, common, path_of
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.common import methods

PARAMS = argparse.Namespace(weighting="GradOPS", arch="HPS", save_path="out", load_path=None)


class ByClass:
    """A Trainer as in LibMTL's release."""

    def __init__(self, weighting, architecture, **kwargs): ...


class ByName:
    """A Trainer as on LibMTL's main branch."""

    def __init__(self, weighting, architecture, save_path=None, load_path=None, **kwargs): ...


def test_the_release_is_given_classes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(common, "Trainer", ByClass)
    assert methods(PARAMS) == {
        "weighting": weightings.GradOPS,
        "architecture": architectures.HPS,
    }


def test_the_main_branch_is_given_names_and_paths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(common, "Trainer", ByName)
    assert methods(PARAMS) == {
        "weighting": "GradOPS",
        "architecture": "HPS",
        "save_path": "out",
        "load_path": None,
    }


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("+7", 7), (" 5 ", 5)])
def test_whole_numbers_are_read(text: str, value: int):
    assert whole(3, 7)(text) == value


@pytest.mark.parametrize("text", ["2", "8", "-3", "", "five", "4.0", "1e1", "--4", "²"])
def test_what_is_no_whole_number_of_the_range_is_refused(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 3 to 7"):
        whole(3, 7)(text)


def test_every_built_in_problem_is_a_script():
    assert set(BUILT_IN) == {
        *("multidigits", "multi_fashion_mnist", "census_income"),
        *("celeba", "cityscapes", "nyuv2", "pascal_context"),
    }
    assert set(DEMONSTRATIONS) == {"toy2d"}
    for name in (*BUILT_IN, *DEMONSTRATIONS):
        assert path_of(name).is_file()
