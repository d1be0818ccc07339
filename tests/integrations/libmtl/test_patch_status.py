"""When a patch is applied: needed, not needed, switched off, or of a LibMTL that is not known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from written_module import written_module

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import pytest

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl import known_sources, patches
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.known_sources import PYPI, source_hash
from libmtl_recon.integrations.libmtl.patches import (
    PATCHES,
    Patch,
    patch_after_import,
    patch_status,
    unknown_functions,
    wanted_patches,
)
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch, stand_in

NEW, OLD = "LIBMTL_RECON_PATCHES", "LIBMTL_RECON_MENDS"
SOURCE = "class One:\n    def backward(self):\n        return {}\n"
DEFECTIVE, GOOD, EDITED = (SOURCE.format(number) for number in (1, 2, 3))


@patch("two-for-one", needs=Defect("weighting.One.backward", of=PYPI))
def two_for_one(libmtl: ModuleType) -> None:
    """LibMTL's One returns another number than two.

    More about it.
    """
    stand_in(libmtl.weighting.One, "backward", lambda _: 2)


@patch(
    "three-for-two", needs=lambda _: True, known_only=("weighting.One.backward", "weighting.Two.x")
)
def three_for_two(_: ModuleType) -> None:
    """It has no need of LibMTL's One."""


@pytest.fixture
def libmtl_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type | None], Any]:
    """A LibMTL with a class; of known ones the release's is defective, and main's is not."""
    for name in (NEW, OLD):
        monkeypatch.delenv(name, raising=False)
    known = [source_hash(written_module(tmp_path, one).One.backward) for one in (DEFECTIVE, GOOD)]
    assert None not in known
    monkeypatch.setattr(known_sources, "HASHES", {"weighting.One.backward": tuple(known)})
    monkeypatch.setattr(patches, "PATCHES", (two_for_one,))

    def make(one: type | None) -> Any:
        libmtl = ModuleType("LibMTL")
        vars(libmtl)["weighting"] = ModuleType("LibMTL.weighting")
        if one is not None:
            vars(libmtl.weighting)["One"] = one
        return libmtl

    return make


def test_a_known_defect_is_patched_and_reached_as_it_was(
    libmtl_with: Callable[..., Any], tmp_path: Path
) -> None:
    libmtl = libmtl_with(written_module(tmp_path, DEFECTIVE).One)
    patch_after_import(libmtl)
    assert patch_status(libmtl) == {"two-for-one": "applied"}
    assert libmtl.weighting.One().backward() == 2
    assert libmtl.weighting.One.backward.__wrapped__(None) == 1
    assert unknown_functions(libmtl) == {}


def test_what_is_known_to_be_right_is_left_alone(
    libmtl_with: Callable[..., Any], tmp_path: Path
) -> None:
    one = written_module(tmp_path, GOOD).One
    own, libmtl = one.backward, libmtl_with(one)
    patch_after_import(libmtl)
    assert patch_status(libmtl) == {"two-for-one": "not needed"}
    assert libmtl.weighting.One.backward is own


def without_source(_: Path) -> type:
    names: dict[str, Any] = {}
    exec(compile(DEFECTIVE, "nowhere.py", "exec"), names)  # as from a .pyc alone
    found: type = names["One"]
    return found


@pytest.mark.parametrize(
    "make",
    [lambda folder: written_module(folder, EDITED).One, without_source],
    ids=["edited", "no source"],
)
def test_what_is_not_known_is_left_alone_and_said(
    libmtl_with: Callable[..., Any], tmp_path: Path, make: Callable[[Path], type]
) -> None:
    libmtl = libmtl_with(make(tmp_path))
    own = libmtl.weighting.One.backward
    with pytest.warns(UserWarning, match=r"LibMTL's weighting\.One\.backward .*: two-for-one\."):
        patch_after_import(libmtl)
    assert patch_status(libmtl) == {"two-for-one": "not checked"}
    assert unknown_functions(libmtl) == {"two-for-one": ("weighting.One.backward",)}
    assert libmtl.weighting.One.backward is own


def test_what_is_not_known_is_patched_if_it_is_named(
    libmtl_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NEW, "two-for-one")
    libmtl = libmtl_with(written_module(tmp_path, EDITED).One)
    patch_after_import(libmtl)  # without a warning
    assert patch_status(libmtl) == {"two-for-one": "applied"}
    assert libmtl.weighting.One().backward() == 2


def test_what_is_not_known_may_be_switched_off(
    libmtl_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NEW, "none")
    libmtl = libmtl_with(written_module(tmp_path, EDITED).One)
    patch_after_import(libmtl)  # without a warning
    assert patch_status(libmtl) == {"two-for-one": "switched off"}
    assert libmtl.weighting.One().backward() == 3


def test_a_class_that_there_is_not_needs_nothing(
    libmtl_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (None, "two-for-one"):
        if given is not None:
            monkeypatch.setenv(NEW, given)
        libmtl = libmtl_with(None)
        patch_after_import(libmtl)
        assert patch_status(libmtl) == {"two-for-one": "not needed"}


def test_a_function_that_all_known_versions_have_is_missed(
    libmtl_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = DEFECTIVE.replace("backward", "backward_pass")
    libmtl = libmtl_with(written_module(tmp_path, renamed).One)
    with pytest.warns(UserWarning, match=r"LibMTL's weighting\.One\.backward .*: two-for-one\."):
        patch_after_import(libmtl)
    assert patch_status(libmtl) == {"two-for-one": "not checked"}
    monkeypatch.setenv(NEW, "two-for-one")  # what is not there cannot be replaced
    with pytest.warns(UserWarning, match="not checked: two-for-one"):
        patch_after_import(libmtl)
    assert patch_status(libmtl) == {"two-for-one": "not checked"}
    main_lacks_it = (known_sources.HASHES["weighting.One.backward"][0], None)
    monkeypatch.setitem(known_sources.HASHES, "weighting.One.backward", main_lacks_it)
    assert two_for_one.needs(libmtl) is False


def test_a_part_that_takes_known_functions_only_says_which_it_left(
    libmtl_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "PATCHES", (three_for_two,))
    libmtl = libmtl_with(written_module(tmp_path, EDITED).One)
    with pytest.warns(UserWarning, match=r"^LibMTL's weighting\.One\.backward is .*read\.$"):
        patch_after_import(libmtl)
    assert patch_status(libmtl) == {"three-for-two": "applied"}
    assert unknown_functions(libmtl) == {"three-for-two": ("weighting.One.backward",)}


def test_the_surroundings_can_make_no_defect_of_it(
    libmtl_with: Callable[..., Any], tmp_path: Path
) -> None:
    libmtl = libmtl_with(written_module(tmp_path, EDITED).One)
    needs = Defect("weighting.One.backward", of=PYPI, where=lambda: False)
    assert needs(libmtl) is False


def test_the_reason_is_the_first_line_of_what_the_function_says() -> None:
    assert isinstance(two_for_one, Patch)
    assert two_for_one.reason == "LibMTL's One returns another number than two"
    assert [one.name for one in PATCHES if not one.reason or one.reason.endswith(".")] == []


def test_every_function_that_a_patch_is_about_is_known() -> None:
    asked = {name for one in PATCHES for name in getattr(one.needs, "functions", ())}
    assert asked <= set(known_sources.HASHES)
    assert len(asked) > 20


def test_a_defect_is_where_its_function_is_the_same() -> None:
    """Where both LibMTLs have one source, both have the defect, or none."""
    for one in PATCHES:
        if isinstance(one.needs, Defect):
            pypi, main = known_sources.HASHES[one.needs.functions[0]]
            assert pypi != main or set(one.needs.of) == {"pypi", "main"}


def test_the_old_name_of_the_switch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NEW, raising=False)
    monkeypatch.setenv(OLD, "device")
    assert wanted_patches() == {"device"}
    monkeypatch.setenv(OLD, "devise")
    with pytest.raises(UsageError, match=rf"^{OLD} must be none, or .*'devise'.*device"):
        wanted_patches()


def test_the_old_name_is_said_to_be_old(
    libmtl_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OLD, "two-for-one")
    libmtl = libmtl_with(written_module(tmp_path, EDITED).One)
    with pytest.warns(DeprecationWarning, match=rf"{OLD} is called {NEW} now") as said:
        patch_after_import(libmtl)
    assert len(said) == 1
    assert patch_status(libmtl) == {"two-for-one": "applied"}


def test_two_switches_must_not_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NEW, "device, mgda-solver")
    monkeypatch.setenv(OLD, "mgda-solver,device")
    assert wanted_patches() == {"device", "mgda-solver"}
    for old in ("device", "none", ""):
        monkeypatch.setenv(OLD, old)
        with pytest.raises(UsageError, match=rf"^{OLD} must have the same value as {NEW}"):
            wanted_patches()


# In a LibMTL whose user has edited GLS and PCGrad.
EDIT = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import libmtl_recon, LibMTL
from libmtl_recon.cli import main
from libmtl_recon.integrations.libmtl.known_sources import unpatched
from libmtl_recon.integrations.libmtl.patches import patch_status
own = {name: vars(LibMTL.weighting)[name].backward for name in ("GLS", "PCGrad", "CAGrad")}
print(json.dumps({
    "status": {n: s for n, s in patch_status(LibMTL).items() if s == "not checked"},
    "fast": patch_status(LibMTL)["fast-gradients"],
    "said": [str(one.message) for one in said if one.category is UserWarning],
    "theirs": [name for name, function in own.items() if unpatched(function) is function],
}))
main(["doctor"])
"""


@pytest.mark.skipif(detect(LibMTL).saves_models, reason="the release is the one that is edited")
def test_what_a_user_edited_is_left_as_it_is_and_all_else_is_patched(tmp_path: Path) -> None:
    home = tmp_path / "LibMTL"
    shutil.copytree(
        Path(LibMTL.__file__).parent, home, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("GLS", "PCGrad"):
        file = home / "weighting" / f"{name}.py"
        text = file.read_text(encoding="utf-8")
        assert "    def backward(self, losses, **kwargs):\n" in text
        edited = text.replace("**kwargs):\n", "**kwargs):\n        losses = losses + 0\n")
        file.write_text(edited, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in (NEW, OLD)}
    done = subprocess.run(
        [sys.executable, "-c", EDIT],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    found = json.loads(first)
    (warning,) = [text for text in found["said"] if "LibMTL's" in text]
    assert "LibMTL's weighting.GLS.backward, weighting.PCGrad.backward are left" in warning
    assert "not checked: gls-logarithms." in warning
    assert found["status"] == {"gls-logarithms": "not checked"}
    assert found["fast"] == "applied"
    assert found["theirs"] == ["GLS", "PCGrad"]
    (row,) = [line for line in rest.splitlines() if line.startswith("gls-logarithms ")]
    assert "not checked" in row
    assert "overflows" in row
    assert "an unknown version of LibMTL: weighting.PCGrad.backward" in rest
