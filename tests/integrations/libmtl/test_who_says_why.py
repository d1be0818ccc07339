"""Which rank says what it fails by, before the ranks have met."""

from __future__ import annotations

import pytest

from libmtl_recon.integrations.libmtl.data_parallel import endings


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
    # Without torchrun nobody would end it, and it would repeat what rank 0 says.
    assert endings.says_why(ValueError("said by rank 0")) == (rank == 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert waited == []
    assert endings.says_why(ValueError("no such data"))
    # In which torchrun ends it, where rank 0 has failed and said the same.
    assert waited == ([] if rank == 0 else [15.0])
    assert endings.says_why(KeyboardInterrupt()) == (rank == 0)
