"""``libmtl-recon extract``: one task's network, by the classes of the script alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import python
from torch import nn

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"


def command(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python(), "-m", "libmtl_recon", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A folder with a checkpoint, the flags that it was trained with, and the script."""
    folder = tmp_path_factory.mktemp("trained")
    # The script of LibMTL's release, written for its main branch where that is installed.
    code = SCRIPT.read_text(encoding="utf-8")
    from libmtl_recon.integrations.libmtl.features import detect

    module = pytest.importorskip("LibMTL")
    if detect(module).by_name:
        pytest.skip("the script is written for LibMTL's release")
    (folder / "main.py").write_text(code, encoding="utf-8")
    (folder / "layers.json").write_text(json.dumps({"one": 3, "norm": 2, "two": 1}))
    flags = ["--weighting", "UW", "--arch", "Recon", "--recon_k", "2"]
    flags += ["--recon_layers", "layers.json"]
    done = command("run", "main.py", *flags, "--dump", "dump.pt", folder=folder)
    assert done.returncode == 0, done.stderr
    torch.save(torch.load(folder / "dump.pt")["after"], folder / "best.pt")
    return folder, flags, "main.py"


def script_classes(folder: Path) -> Any:
    specification = importlib.util.spec_from_file_location("two_tasks", folder / "main.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_writes_a_state_dict_and_a_program(trained: tuple[Path, list[str], str]) -> None:
    folder, flags, script = trained
    words = ["--task", "size", "--out", "size.pt", "--export", "size.pt2", "best.pt", script]
    # The weighting, whose own parameters the checkpoint has, does not matter any more.
    done = command("extract", *words, *flags, "--weighting", "EW", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Wrote the network of task size" in done.stdout
    module = script_classes(folder)
    network = nn.Sequential()
    network.add_module("encoder", module.Encoder())
    network.add_module("decoder", nn.Linear(8, 2))
    state = torch.load(folder / "size.pt", weights_only=True)
    assert type(state) is dict
    network.load_state_dict(state)
    network.eval()
    trained_state = torch.load(folder / "best.pt")
    assert torch.equal(state["encoder.one.weight"], trained_state["encoder.one.tasks.size.weight"])
    assert torch.equal(state["decoder.weight"], trained_state["decoders.size.weight"])
    program = torch.export.load(folder / "size.pt2").module()
    for count in (2, 7):
        x = torch.randn(count, 6)
        assert torch.equal(program(x), network(x))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "colour", "best.pt"], "--task must be one of the script's tasks"),
        (["--task", "size", "none.pt"], "CHECKPOINT none.pt cannot be read"),
        (
            ["--task", "size", "layers.json"],
            "CHECKPOINT layers.json is damaged, or is not a checkpoint",
        ),
        (
            ["--task", "size", "--out", "none/x.pt", "best.pt"],
            "--out must lie in a folder that exists (got 'none/x.pt')",
        ),
        (["--task", "size", "plain.pt"], "does not fit this network"),
    ],
)
def test_says_what_is_wrong(
    words: list[str], said: str, trained: tuple[Path, list[str], str]
) -> None:
    folder, flags, script = trained
    torch.save({"encoder.six": torch.ones(1)}, folder / "plain.pt")
    done = command("extract", *words, script, *flags, folder=folder)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("colour*"))
