"""`libmtl-recon search check` with a script that is started: all that is wrong, at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from libmtl_recon.cli import main
from libmtl_recon.cli.search import VARIABLE

WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_good_search_is_said_in_a_few_lines_and_trains_nothing(
    write_config: WriteConfig,
    tmp_path: Path,
    own_temp: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_config(
        flags={"epochs": 3, "bs": [32, 64], "tags": [["a"], ["b", "c"]]},
        objectives=["delta_m", "up.Err"],
    )
    before = set(tmp_path.iterdir())
    assert main(["search", "check", str(file), "--storage", f"sqlite:///{own_temp}/s.db"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{file}: 9 keys with valid values.",
        "tiny.py starts: 2 tasks (up, down), 5 shared layers.",
        "Searched: weighting, alpha, k, s, flags.bs, flags.tags; 4 trials with TPESampler.",
        f"The database sqlite:///{own_temp}/s.db can be used.",
        "No mistakes found.",
    ]
    assert set(tmp_path.iterdir()) == before
    assert not list(own_temp.glob("libmtl-recon-*"))


@pytest.mark.slow
def test_what_the_script_and_the_database_refuse_is_said_at_once(
    write_config: WriteConfig, own_temp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(
        flags={"epochs": [1, "x"]},
        space={"weighting": ["EW", "GradOPPS"], "k": [1, 7], "flags": {"EW": {"lrr": 3}}},
        objectives=["delta_m", "upp.Err"],
    )
    assert main(["search", "check", str(file), "--storage", "foo://me:secret@host/x"]) == 2
    first, *said = capsys.readouterr().err.splitlines()
    for words in (
        *("Did you mean GradOPS?", "space.k must be below 5", "Did you mean up.Err?"),
        *("unrecognized arguments: --lrr 3", "invalid int value: 'x'", "--storage must begin with"),
    ):
        assert sum(words in line for line in said) == 1, words
    assert first.endswith(f"has {len(said)} faults.")
    assert "secret" not in "".join(said)
    # The log that is named is there.
    assert [log.name for log in own_temp.glob("libmtl-recon-check-*/runs/start-*.log")]


def test_a_script_that_does_not_start_is_said(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(flags={"epochs": 1, "fault": "exit"})
    assert main(["search", "check", str(file)]) == 1
    assert "no such data" in capsys.readouterr().err
