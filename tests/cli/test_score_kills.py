"""However scoring is killed: nothing is lost but the last minute, nothing is kept twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 60


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_runs_killed_at_random_moments_are_kept_once(tmp_path: Path) -> None:
    program = Path(__file__).with_name("kill_score.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(KILLS), "7"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    # The others were killed before a step was due to be kept.
    assert counts["kept"] >= counts["due"] >= KILLS / 2
    kinds = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
    assert sum(counts.get(kind, 0) for kind in kinds) == KILLS
    assert all(counts[how] >= 5 for how in (*kinds, "stdout dead", "both dead", "dead at the end"))
