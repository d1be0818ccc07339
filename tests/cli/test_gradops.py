"""``libmtl-recon gradops plot``: from logs to a picture and their means."""

from __future__ import annotations

from pathlib import Path

import pytest

from libmtl_recon.cli import main

HEAD = "step,epoch,alpha,conflict_rate,w left,w right,r left,r right\n"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rows = "1,0,{a},1,0.5,1.5,1.25,0.75\n2,0,{a},0,,1,,1\n3,0,{a},0.5,0.75,1.25,1.25,0.75\n"
    for name, alpha in (("minus.csv", "-1"), ("static.csv", "")):
        Path(name).write_text(HEAD + rows.format(a=alpha))
    return ["minus.csv", "static.csv"]


def test_logs_become_a_picture_and_a_table(
    logs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gradops", "plot", *logs]) == 0
    assert Path("gradops.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["minus.csv", "-1", "3", "0.62", "1.25", "1.25", "0.83", "50", "%"]
    assert lines[2][:3] == ["static.csv", "static", "3"]
    assert lines[-1] == ["Drawn", "in", "gradops.png."]
    assert main(["gradops", "plot", logs[0], "--out", "one.svg", "--smooth", "1"]) == 0
    assert Path("one.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["none.csv"], 1, "Cannot read the log none.csv"),
        (["minus.csv", "--out", "p.txt"], 2, "--out must be a file name that ends in"),
        (["minus.csv", "--smooth", "0"], 2, "--smooth must be a whole number from 1 up"),
    ],
)
def test_what_cannot_be_drawn_is_explained(
    logs: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    says: str,
) -> None:
    assert main(["gradops", "plot", *arguments]) == status
    assert says in capsys.readouterr().err
    assert not list(Path().glob("*.png"))
