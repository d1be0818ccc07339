"""LibMTL main's own examples run unmodified under our names."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "libmtl_examples.py"
NEEDS = ("cvxpy", "qpsolvers", "torch_geometric")

CHECKOUT = os.environ.get("LIBMTL_MAIN", "")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(
        not CHECKOUT, reason="LIBMTL_MAIN names no checkout of LibMTL's main branch"
    ),
    pytest.mark.skipif(bool(MISSING), reason=f"LibMTL's main branch needs {', '.join(MISSING)}"),
    pytest.mark.slow,
]


@pytest.mark.parametrize(
    ("example", "tasks", "layers"), [("nyu", 3, 106), ("cityscapes", 2, 106), ("office", 3, 42)]
)
def test_an_example_is_scored_and_then_trained_with_gradops_and_recon(
    example: str, tasks: int, layers: int, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARK), str(tmp_path / "work"), "--checkout", CHECKOUT),
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
    assert main.resolve() == Path(CHECKOUT, "examples", example, "main.py").resolve()
