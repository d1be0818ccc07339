"""Folders of data sets that the system does not let anybody look through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libmtl_recon.launcher import run_script
from libmtl_recon.problems.samples import SAMPLES, write_sample

IMAGES = {
    "celeba": "img_align_celeba",
    "cityscapes": "train/image",
    "pascal_context": "sal_distill",
}


@pytest.mark.parametrize("problem", SAMPLES)
def test_a_name_that_is_too_long_is_said(
    problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LIBMTL_RECON_DATA", "/" + "x" * 300)
    assert run_script(problem, ["--weighting", "EW"]) == 1
    message = capsys.readouterr().err
    assert "LIBMTL_RECON_DATA" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("problem", ["celeba", "cityscapes", "pascal_context"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The system's functions refuse it, because root may read any folder."""
    write_sample(problem, tmp_path, 2, 0)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    closed = str(tmp_path / problem / IMAGES[problem])
    for name in ("listdir", "scandir"):
        real = getattr(os, name)

        def guarded(path=".", real=real):
            if os.fspath(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return real(path)

        monkeypatch.setattr(os, name, guarded)
    assert run_script(problem, ["--weighting", "EW"]) == 1
    message = capsys.readouterr().err
    assert f"cannot be looked through ([Errno 13] Permission denied: '{closed}')" in message
    assert message.count("\n") == 1
