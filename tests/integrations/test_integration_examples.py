"""The examples of Lightning and Transformers run as they are."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("script", "packages", "steps", "layers", "weights"),
    [
        ("lightning_loop.py", ["lightning"], 29, 2, {"weight/digit", "weight/ink"}),
        ("huggingface_trainer.py", ["transformers", "accelerate"], 40, 3, {"topic", "tone"}),
    ],
)
def test_it_scores_and_weighs(
    script: str,
    packages: list[str],
    steps: int,
    layers: int,
    weights: set[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, "--epochs", "1"])
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    shown = capsys.readouterr().out
    assert f"{steps} steps; the layers" in shown
    assert len(re.findall(r"^  \w\S*$", shown, re.MULTILINE)) == layers
    assert weights <= set(ast.literal_eval(shown.splitlines()[-1]))
    assert not list(tmp_path.iterdir())
