"""``libmtl-recon doctor SCRIPT``: each layer's way, before anything is learned."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from forks import python

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"
pytestmark = pytest.mark.usefixtures("_release")


@pytest.fixture
def _release() -> None:
    from libmtl_recon.integrations.libmtl.features import detect

    if detect(pytest.importorskip("LibMTL")).by_name:
        pytest.skip("the script is written for LibMTL's release")


def doctor(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python(), "-m", "libmtl_recon", "doctor", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_shows_each_layer_with_its_reason_and_trains_nothing(tmp_path: Path) -> None:
    flags = ["--weighting", "GradOPS", "--dump", "dump.pt"]
    done = doctor(str(SCRIPT), *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--weighting GradOPS uses the Gramian, which is computed as follows:" in done.stdout
    rows = [line.strip().split(maxsplit=2) for line in done.stdout.splitlines()]
    layers = {row[0]: row[1:] for row in rows if row and row[0] in ("one", "norm", "two")}
    assert layers["norm"] == ["rows", "no products known"]
    assert layers["one"][0] == "rows"
    assert layers["one"][1].startswith("products would cost ")
    assert "212 are held at a time (100 %)" in done.stdout
    assert not (tmp_path / "dump.pt").exists()


def test_ghost_holds_less(tmp_path: Path) -> None:
    flags = ["--weighting", "EW", "--recon_gradients", "ghost"]
    done = doctor(str(SCRIPT), *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--weighting EW takes one backward pass; while it is scored" in done.stdout
    assert "The update is one additional backward pass." in done.stdout


def test_a_script_that_does_not_train(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import LibMTL\n", encoding="utf-8")
    done = doctor("main.py", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_flag_without_a_script(tmp_path: Path) -> None:
    done = doctor("-m", folder=tmp_path)
    assert done.returncode == 2
    assert "-m" in done.stderr
    assert "Traceback" not in done.stderr
    done = doctor("missing.py", "--weighting", "EW", folder=tmp_path)
    assert done.returncode != 0
    assert "missing.py" in done.stderr
    assert "Traceback" not in done.stderr
