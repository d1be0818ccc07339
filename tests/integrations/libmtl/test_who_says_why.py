"""Which rank says what it fails by, before the ranks have met."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from libmtl_recon.integrations.libmtl.data_parallel import endings, quiet
from libmtl_recon.launcher import run_script


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_fails_alone_before_they_meet_says_why(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    waited: list[float] = []
    monkeypatch.setattr(endings.time, "sleep", waited.append)
    monkeypatch.setattr(endings, "_has_waited", False)
    # Without torchrun nobody would end it, and it would repeat what rank 0 says.
    assert endings.says_why(ValueError("said by rank 0")) == (rank == 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert waited == []
    assert endings.says_why(ValueError("no such data"))
    # In which torchrun ends it, where rank 0 has failed and said the same.
    assert waited == ([] if rank == 0 else [15.0])
    assert endings.says_why(KeyboardInterrupt()) == (rank == 0)


@pytest.mark.parametrize("status", [0, 2])
def test_a_rank_that_ends_in_silence_lets_rank_0_speak_first(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(endings, "_has_waited", False)
    waited: list[float] = []
    monkeypatch.setattr(endings.time, "sleep", waited.append)
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            quiet._end(argparse.ArgumentParser(), status)
        assert ended.value.code == status
    # Torchrun, told of a failure by this rank, would end rank 0 before it has printed its usage.
    assert waited == [15.0] * (status > 0)


def test_so_does_one_whose_script_exits_with_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "main.py"
    script.write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    waited: list[str] = []
    monkeypatch.setattr(endings, "before_leaving", lambda: waited.append("for rank 0"))
    assert run_script(script) == 3
    assert waited == ["for rank 0"]
