"""`run -m`: a module is run as `python -m` runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libmtl_recon import UsageError, run_module
from libmtl_recon.cli import build_parser
from libmtl_recon.integrations.libmtl.commands import scoring_command
from libmtl_recon.launcher import Target
from libmtl_recon.launcher.target import as_main

TELL = """
import os, sys
from . import beside
print(__name__, __file__, __package__, __spec__.name, type(__loader__).__name__)
print(sys.argv, sys.path[0], beside.WORD, sys.modules["__main__"].TELL, sys.flags.optimize)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for folder in ("outer", "outer/inner"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
        (tmp_path / folder / "beside.py").write_text("WORD = 'beside'\n", encoding="utf-8")
    (tmp_path / "outer/inner/tell.py").write_text("TELL = 'told'\n" + TELL, encoding="utf-8")
    (tmp_path / "outer/__main__.py").write_text("TELL = 'all'\n" + TELL, encoding="utf-8")
    (tmp_path / "outer/broken.py").write_text("import outer.nothing\n", encoding="utf-8")
    (tmp_path / "outer/inner/needy").mkdir()
    needy = tmp_path / "outer/inner/needy/__init__.py"
    needy.write_text("import no_such_module_at_all\n", encoding="utf-8")
    (tmp_path / "script.py").touch()
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "outer"]:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["outer.inner.tell", "outer"])
def test_a_module_sees_what_it_sees_under_python_m(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [module, "--flag", "-m", "x y"]
    plain = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False
    )
    before = sys.argv, list(sys.path), sys.modules["__main__"]
    assert run_module(module, words[1:]) == plain.returncode == 3
    assert capsys.readouterr().out == plain.stdout
    assert (sys.argv, list(sys.path), sys.modules["__main__"]) == before


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("script.py", "give its path without -m"),
        ("outer.nosuch", "It was not found"),
        ("nosuch.inner", "It was not found"),
        ("outer.inner", "a package without a __main__"),
        ("./script", "It was not found"),
        (".script", "It was not found"),
        ("", "It was not found"),
        ("math", "not written in Python"),
        ("sys", "not written in Python"),
    ],
)
def test_what_is_no_module_is_refused(
    module: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=said), as_main(Target(module, module=True), []):
        pass
    assert run_module(module) == 2
    assert "-m must name a module" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "missing"),
    [("outer.broken", "outer.nothing"), ("outer.inner.needy.x", "no_such_module_at_all")],
)
def test_what_a_module_itself_lacks_is_its_own_error(
    module: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_module(module) == 1
    shown = capsys.readouterr().err
    assert f"ModuleNotFoundError: No module named '{missing}'" in shown
    assert "Traceback" in shown


def test_the_command_takes_m_before_the_module_only() -> None:
    options = build_parser().parse_args(["run", "-m", "outer.inner.tell", "-m", "x"])
    assert (options.module, options.script, options.args) == (True, "outer.inner.tell", ["-m", "x"])
    options = build_parser().parse_args(["score", "--steps", "3", "-m", "outer", "--steps", "4"])
    assert (options.module, options.steps, options.args) == (True, 3, ["--steps", "4"])
    assert not build_parser().parse_args(["run", "main.py", "-m"]).module


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (Target("outer.inner.tell", module=True), "-m outer.inner.tell"),
        (Target("outer", module=True), "-m outer"),
        (Target("script.py"), "script.py"),
        (Target("multidigits"), "multidigits"),
    ],
)
def test_messages_name_the_command_that_scores_it(target: Target, named: str) -> None:
    with as_main(target, ["--lr", "1"]):
        command = scoring_command("HPS")
    assert command == f"libmtl-recon score {named} --lr 1 --weighting EW --arch HPS"
