"""Which LibMTL a function is from: the hashes of both LibMTLs, and of what is in neither."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from main_checkout import MAIN, on_main
from written_module import written_module

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import pytest

from libmtl_recon.integrations.libmtl import known_sources
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.known_hashes import HASHES
from libmtl_recon.integrations.libmtl.known_sources import (
    VERSIONS,
    find,
    source_hash,
    unpatched,
    versions_of,
)
from libmtl_recon.integrations.libmtl.write_hashes import hashes_of, with_column, written

# The table's column of the LibMTL that a new process finds, as nobody has changed it.
COLUMN = """
import json
from libmtl_recon.integrations.libmtl import write_hashes
from libmtl_recon.integrations.libmtl.features import detect
libmtl = write_hashes.unregistered()
import LibMTL.config
print(json.dumps([detect(libmtl).label, write_hashes.hashes_of(libmtl)]))
"""


def column(path: str) -> tuple[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", COLUMN],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    label, found = json.loads(done.stdout.splitlines()[-1])
    return label, found


@pytest.mark.parametrize(
    "path",
    [
        "",
        pytest.param(
            MAIN,
            marks=on_main,
            id="main",
        ),
    ],
)
def test_the_table_has_all_functions_of_both_libmtls(path: str) -> None:
    label, found = column(path)
    assert found == {
        name: row[VERSIONS.index(label)]
        for name, row in HASHES.items()
        if row[VERSIONS.index(label)] is not None
    }
    assert len(found) > 70


def test_the_table_is_written_as_it_is_read() -> None:
    text = Path(known_sources.__file__).with_name("known_hashes.py").read_text(encoding="utf-8")
    assert written(HASHES) == text
    found = dict.fromkeys(["b", "c"], "new")
    assert with_column({"a": ("1", None), "b": ("2", "3")}, "pypi", found) == {
        "b": ("new", "3"),
        "c": ("new", None),
    }


def test_a_function_that_stands_in_for_libmtls_is_known_by_libmtls() -> None:
    label = detect(LibMTL).label
    registered = hashes_of(LibMTL)
    for name in ("weighting.GLS.backward", "weighting.PCGrad.backward", "Trainer.train"):
        function = find(LibMTL, name)
        assert unpatched(function) is not function
        assert label in versions_of(function, name)
        assert registered[name] in HASHES[name]


SOURCE = "def one(x):\n    for _ in range(3):\n        x += 1\n        x *= 2\n    return x\n"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("if True:\n" + "".join(f"    {line}\n" for line in SOURCE.splitlines()), True),
        (SOURCE.replace("\n", "  \n\n"), True),
        (SOURCE.replace("    return", "    # comment\n    return"), True),
        (SOURCE.replace("        x *= 2", "    x *= 2"), False),
        (SOURCE.replace("2", "3"), False),
    ],
    ids=["indented", "white space", "comment", "another loop", "another number"],
)
def test_a_hash_is_of_what_the_source_does(tmp_path: Path, other: str, same: bool) -> None:
    one, two = (
        source_hash(written_module(tmp_path, SOURCE).one),
        source_hash(written_module(tmp_path, other).one),
    )
    assert one is not None
    assert two is not None
    assert (one == two) is same


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that the table knows as that of the main branch."""
    function = written_module(tmp_path, SOURCE).one
    table = {"weighting.One.backward": ("0" * 12, source_hash(function))}
    monkeypatch.setattr(known_sources, "HASHES", table)
    return function


def test_a_known_function_is_known_under_its_own_name_alone(known: Callable[..., Any]) -> None:
    assert versions_of(known, "weighting.One.backward") == {"main"}
    assert versions_of(known, "weighting.Two.backward") == set()


def test_an_edited_function_is_of_no_known_version(
    known: Callable[..., Any], tmp_path: Path
) -> None:
    edited = written_module(tmp_path, SOURCE.replace("2", "3")).one
    assert versions_of(edited, "weighting.One.backward") == set()


def test_a_scripts_own_wrapper_is_not_what_it_wraps(known: Callable[..., Any]) -> None:
    @functools.wraps(known)
    def wrapper(x: int) -> int:
        return known(x) + 1  # type: ignore[no-any-return]

    assert versions_of(wrapper, "weighting.One.backward") == set()


def test_a_function_without_source_is_of_no_known_version(known: Callable[..., Any]) -> None:
    names: dict[str, Any] = {}
    exec(compile(SOURCE, "nowhere.py", "exec"), names)  # as from a .pyc alone
    assert source_hash(names["one"]) is None
    assert versions_of(names["one"], "weighting.One.backward") == set()
    assert versions_of(None, "weighting.One.backward") == set()
    assert versions_of(len, "weighting.One.backward") == set()


def test_a_class_has_only_its_own_functions_under_its_name() -> None:
    libmtl = ModuleType("LibMTL")
    vars(libmtl)["weighting"] = ModuleType("LibMTL.weighting")
    vars(libmtl.weighting)["One"] = One
    vars(libmtl.weighting)["Two"] = Two
    assert find(libmtl, "weighting.One.backward") is One.backward
    assert find(libmtl, "weighting.Two.backward") is None
    assert find(libmtl, "weighting.Three.backward") is None
    assert find(libmtl, "architecture.One.forward") is None


class One:
    def backward(self) -> None: ...


class Two(One): ...


def test_the_two_libmtls_are_told_by_the_module_that_looks_names_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for with_names in (True, False):
        module = ModuleType("other_trainer")
        if with_names:
            vars(module)["weighting_method"] = SimpleNamespace()
        monkeypatch.setitem(sys.modules, "other_trainer", module)

        class Trainer:
            __module__ = "other_trainer"

        libmtl: Any = SimpleNamespace(Trainer=Trainer)
        assert detect(libmtl).by_name is with_names
