"""Any text may be given where a file is meant: also one that no file can have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libmtl_recon.errors import UsageError
from libmtl_recon.files import check_name, check_writable, exists, is_file, is_folder

IMPOSSIBLE = ["x" * 256, "a/" * 3000, "x\0y", "x\ud800y", ""]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: ascii(name[:6]))
def test_a_text_that_cannot_be_a_name_is_no_file(name: str) -> None:
    assert not is_file(name)
    assert not is_folder(name)
    assert not exists(name)


def test_what_is_there_is_found(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.txt")  # a name that is no UTF-8, as old disks have them
    file.touch()
    assert is_file(file)
    assert is_file(str(file))
    assert not is_folder(file)
    assert is_folder(tmp_path)
    assert exists(tmp_path)


@pytest.mark.parametrize("name", IMPOSSIBLE[:4:3] + IMPOSSIBLE[2:3], ids=lambda n: ascii(n[:6]))
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    rule = "must be a valid file name"
    for check in (check_name, check_writable):
        with pytest.raises(
            UsageError,
            match=rf"^--out {rule} \(got .*\)\. The system reports: "
            r".+\.$",
        ):
            check("--out", f"{tmp_path}/{name}")


def test_what_can_be_written_is_let_pass(tmp_path: Path) -> None:
    check_writable("--out", tmp_path / "new.png")
    (tmp_path / "old.png").touch()
    check_writable("--out", tmp_path / "old.png")
    check_name("--out", tmp_path / "none" / "deeper")
    with pytest.raises(UsageError, match="must lie in a folder that exists"):
        check_writable("--out", tmp_path / "none" / "x.png")


def test_a_folder_and_nothing_are_no_files_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be the name of a file .* This is a folder"):
        check_writable("--out", tmp_path)
    with pytest.raises(UsageError, match=r"must be the name of a file .*''.* It is empty"):
        check_writable("--out", "")
