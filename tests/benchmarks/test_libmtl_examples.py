"""LibMTL main's own examples run unmodified under our names."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from main_checkout import MAIN, on_main

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "libmtl_examples.py"

pytestmark = [on_main, pytest.mark.slow]


@pytest.mark.parametrize(
    ("example", "tasks", "layers"), [("nyu", 3, 106), ("cityscapes", 2, 106), ("office", 3, 42)]
)
def test_an_example_is_scored_and_then_trained_with_gradops_and_recon(
    example: str, tasks: int, layers: int, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARK), str(tmp_path / "work"), "--checkout", MAIN),
            *("--only", example, "--images", "8", "--scale", "0.25", "--steps", "2"),
            *("--k", "7", "--out", str(out)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "LIBMTL_RECON_DEVICE": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text(encoding="utf-8"))
    assert (len(found["layers"]), found["of"]) == (7, layers)
    before, after = found["parameters"]
    assert after > before
    assert len(found["losses"]) == tasks
    assert all(math.isfinite(loss) and loss > 0 for loss in found["losses"])
    main = tmp_path / "work" / "checkout" / "examples" / example / "main.py"
    assert main.resolve() == Path(MAIN, "examples", example, "main.py").resolve()
