"""Each of LibMTL's weightings trains, in a script that knows nothing of us."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import LibMTL.weighting as weightings
import pytest
import torch

from libmtl_recon import run_script
from libmtl_recon.integrations.libmtl.features import detect

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_tasks.py"
NAMES = [name for name in weightings.__all__ if not name.startswith("Abs")]

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the script is written for LibMTL's release"
)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., int]]:
    """Runs a script in a process of its own, which has loaded LibMTL already: its parser is
    global to a process, so that two runs cannot share one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["libmtl_recon.integrations.libmtl.preload"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield lambda *args: pool.apply_async(run_script, (SCRIPT, args)).get(120)


def test_there_are_as_many_as_the_release_has_and_ours() -> None:
    assert len(NAMES) == 12 + 2
    assert {"GradOPS", "RotoGrad"} <= set(NAMES)


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_moves_every_parameter(
    name: str, tasks: int, launch: Callable[..., int], tmp_path: Path
) -> None:
    dump = tmp_path / "end.pt"
    # GradDrop is defined on the gradients of the representation alone.
    more = ["--rep_grad"] if name == "GradDrop" else []
    flags = ["--weighting", name, "--tasks", str(tasks), "--lr", "0.01", "--dump", str(dump), *more]
    assert launch(*flags) == 0
    end = torch.load(dump)
    assert end["losses"].shape == (tasks, 2)
    assert torch.isfinite(end["losses"]).all()
    finite = {key for key, value in end["after"].items() if torch.isfinite(value).all()}
    assert finite == end["after"].keys()
    assert "encoder.one.weight" in finite
    before = {key: value for key, value in end["before"].items() if "rotograd" not in key}
    still = [key for key, value in before.items() if torch.equal(value, end["after"][key])]
    assert not still
