"""The command itself: help, versions, and what it hands to the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forks import python

from libmtl_recon import __version__
from libmtl_recon.cli import build_parser, main

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["score"], ["search"], ["layers"], ["extract"], ["gradops"], ["doctor"]],
)
def test_help_teaches_with_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "libmtl-recon " + (command or ["run"])[0] in shown
    assert "example" in shown or "session" in shown


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom libmtl_recon.cli import build_parser\nbuild_parser()\n"
        "print(sorted({'torch', 'LibMTL', 'optuna', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"libmtl-recon {__version__}"


@pytest.mark.parametrize("argv", [[], ["nosuch"], ["run"], ["run", "--"], ["layers"]])
def test_usage_errors_end_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def test_everything_behind_the_script_goes_to_it() -> None:
    options = build_parser().parse_args(["run", "main.py", "--weighting", "EW", "--help", "-x"])
    assert options.script == "main.py"
    assert options.args == ["--weighting", "EW", "--help", "-x"]


@pytest.mark.parametrize(
    ("argv", "args"),
    [
        (["run", "main.py", "--", "-x"], ["--", "-x"]),
        (["run", "--", "main.py", "--single-task", "a"], ["--single-task", "a"]),
        (["run", "--single-task", "b", "main.py"], []),
    ],
)
def test_what_stands_before_the_script_is_ours_and_what_follows_is_not(
    argv: list[str], args: list[str]
) -> None:
    options = build_parser().parse_args(argv)
    assert (options.script, options.args) == ("main.py", args)
    assert options.single_task == ("b" if argv[2] == "b" else None)


def test_one_task_alone() -> None:
    done = subprocess.run(
        [*python(), "-m", "libmtl_recon", "run", "--single-task", "size", str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "size_LOSS" in done.stdout
    assert "sign_LOSS" not in done.stdout


def test_a_script_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.py"]) == 2
    assert "nowhere.py" in capsys.readouterr().err


def test_the_doctor_goes_on_without_the_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "file"))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "profiles:      Cannot read the folder of conflict profiles" in shown
    assert "cagrad-tasks" in shown


def test_the_doctor_tells_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for fact in ("torch:", "device:", "LibMTL:", "profiles:", "torchvision-import", "cagrad-tasks"):
        assert fact in shown
