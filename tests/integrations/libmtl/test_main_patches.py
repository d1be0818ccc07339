"""The maths and the refusals behind the patches of LibMTL's main branch, which need no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.integrations.libmtl.bilevel import refuse_impossible
from libmtl_recon.integrations.libmtl.loading import load_strictly
from libmtl_recon.integrations.libmtl.packages import missing_packages
from libmtl_recon.integrations.libmtl.step.gradvac import layer_widths
from libmtl_recon.weighting.aligned_mtl import aligned
from libmtl_recon.weighting.excess_mtl import excess_risks
from libmtl_recon.weighting.nash_mtl import bargained
from libmtl_recon.weighting.simplex import project_on_simplex

REPOSITORY = Path(__file__).parents[3]


def gradients(seed: int, tasks: int) -> np.ndarray:
    """Return gradients of very different lengths, some of which conflict."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tasks, 40)) * 10 ** rng.uniform(-3, 3, size=(tasks, 1))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_nash_weights_solve_the_bargaining_equation(seed: int, tasks: int) -> None:
    rows = gradients(seed, tasks)
    found = bargained(rows @ rows.T)
    assert found is not None
    assert (found > 0).all()
    np.testing.assert_allclose(rows @ (rows.T @ found), 1 / found, rtol=1e-6)


def test_nash_weights_of_two_gradients_are_as_in_the_paper() -> None:
    # Where the gradients are orthogonal, each weight is the inverse of its gradient's length.
    np.testing.assert_allclose(bargained(np.diag([4.0, 0.25])), [0.5, 2.0])
    # Nearly opposite ones: the equation itself, in closed form by symmetry.
    np.testing.assert_allclose(bargained(np.array([[1, -0.999], [-0.999, 1]])), 1000**0.5)


@pytest.mark.parametrize(
    "gramian",
    [[[1.0, -1.0], [-1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[1.0, np.nan], [np.nan, 1.0]]],
    ids=["opposite", "zero", "nan"],
)
def test_where_there_is_no_bargaining_solution_none_is_made_up(gramian: list[list[float]]) -> None:
    assert bargained(np.array(gramian)) is None


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_aligned_gradients_have_singular_values_all_equal_to_the_least(
    seed: int, tasks: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.normal(size=(tasks, 40)) * rng.uniform(0.1, 10, size=(tasks, 1)))
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    wanted = sizes.min() * left @ right
    weights = aligned(rows @ rows.T, torch.finfo(torch.float64).eps)
    torch.testing.assert_close(weights @ rows, wanted.sum(0), rtol=1e-7, atol=1e-9)


def test_alignment_leaves_out_what_has_no_length() -> None:
    rows = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    weights = aligned(rows @ rows.T, 1e-12)
    # One component, (0.6, 0.8, 0) of length 5, which stays as it is.
    torch.testing.assert_close(weights @ rows, torch.tensor([1.4 * 5, 0.0], dtype=torch.float64))
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    torch.testing.assert_close(aligned(zeros, 1e-12), torch.ones_like(zeros[0]))


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(-50, 50)))
def test_the_projection_is_the_nearest_point_of_the_simplex(point: np.ndarray) -> None:
    found = project_on_simplex(point)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0)
    # Nearest: no vertex lies on the far side of the plane through it.
    towards = point - found
    assert towards.max() <= towards @ found + 1e-9 * (1 + np.abs(point).max())


def test_excess_risk_is_the_gradient_in_the_norm_of_its_accumulated_square() -> None:
    rows = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    squares = rows**2 + 0.5
    wanted = [g @ torch.diag(1 / (s + 1e-7).sqrt()) @ g for g, s in zip(rows, squares, strict=True)]
    torch.testing.assert_close(excess_risks(rows, squares.sqrt()), torch.stack(wanted))


class Network(nn.Module):
    """A module with a parameter beside its children, and layers that are not shared."""

    def __init__(self, out: int = 2) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(7))
        self.first, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.own = nn.Linear(4, out)
        self.loss_scale = nn.Parameter(torch.zeros(2))

    def get_share_params(self) -> list[nn.Parameter]:
        return [self.token, *self.first.parameters(), *self.second.parameters()]


def test_a_layers_width_is_that_of_its_shared_parameters() -> None:
    assert layer_widths(Network()) == [7, 16, 8]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    torch.save(Network().state_dict(), tmp_path / "best.pt")
    return tmp_path


def test_a_checkpoint_of_the_same_network_is_loaded_from_its_folder(saved: Path) -> None:
    network = Network()
    assert load_strictly(network, saved) == str(saved / "best.pt")
    state = torch.load(saved / "best.pt", weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_of_another_weighting_is_loaded_and_that_is_said(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network()
    del network.loss_scale
    load_strictly(network, saved)
    assert "loss_scale" in capsys.readouterr().out
    torch.save(network.state_dict(), saved / "without.pt")
    other = Network()
    load_strictly(other, saved / "without.pt")
    assert torch.equal(other.first.weight, network.first.weight)
    assert "has no loss_scale" in capsys.readouterr().out


def test_a_checkpoint_of_another_network_is_refused_by_its_names(saved: Path) -> None:
    network = Network(out=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.third = network.first
    del network.first
    with pytest.raises(
        ReconError,
        match=r"missing: third.weight, third.bias; unexpected: first.weight, first.bias; "
        r"of another shape: own.weight \(\[2, 4\] instead of \[3, 4\]\), own.bias",
    ):
        load_strictly(network, saved)
    assert torch.equal(network.own.weight, before["own.weight"])


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--load_path must be a checkpoint.*nowhere"):
        load_strictly(Network(), tmp_path / "nowhere.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ReconError, match=r"does not contain a state dict.*'epoch' is not a tensor"):
        load_strictly(Network(), tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("weighting", "architecture", "steps", "rep_grad", "match"),
    [
        ("MOML", "HPS", 5, False, r"--inner_step must be 1 with --weighting MOML.*5"),
        ("AutoLambda", "HPS", 5, False, r"--inner_step must be 1 with --weighting AutoLambda"),
        ("FORUM", "HPS", 5, True, r"--rep_grad cannot .* --weighting FORUM"),
        ("FORUM", "LTB", 5, False, r"--arch cannot .* --weighting FORUM"),
    ],
)
def test_what_a_bilevel_method_cannot_do_is_refused(
    weighting: str, architecture: str, steps: int, rep_grad: bool, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        refuse_impossible(weighting, architecture, {"inner_step": steps}, rep_grad=rep_grad)


def test_what_other_methods_do_is_left_to_them() -> None:
    refuse_impossible("FORUM", "HPS", {"inner_step": 5}, rep_grad=False)
    refuse_impossible("MOML", "HPS", {"inner_step": 1}, rep_grad=False)
    refuse_impossible("MGDA", "LTB", {}, rep_grad=True)
    refuse_impossible(type("MGDA", (), {}), type("LTB", (), {}), {}, rep_grad=True)


@pytest.fixture
def needy(tmp_path: Path) -> Path:
    """A LibMTL that imports packages that there are not."""
    folder = tmp_path / "LibMTL"
    (folder / "weighting").mkdir(parents=True)
    (folder / "__init__.py").write_text("from LibMTL.weighting import one\n", encoding="utf-8")
    (folder / "weighting" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "weighting" / "one.py").write_text(
        "import json, torch, no_such_solver.core as core\n", encoding="utf-8"
    )
    (folder / "other.py").write_text(
        "from no_such_graphs.data import Data\nfrom . import weighting\nimport LibMTL\n",
        encoding="utf-8",
    )
    return tmp_path


def test_all_missing_packages_are_found_at_once(needy: Path) -> None:
    assert missing_packages([needy / "LibMTL"]) == ["no_such_graphs", "no_such_solver"]


def run(needy: Path, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(needy), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )


def test_an_import_that_lacks_packages_names_them_all(needy: Path) -> None:
    script = needy / "main.py"
    script.write_text("import LibMTL\n", encoding="utf-8")
    done = run(needy, "-m", "libmtl_recon", "run", str(script))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs no_such_graphs, no_such_solver, which it does not declare" in line
    assert "pip install no_such_graphs no_such_solver" in line


def test_to_a_script_it_is_an_import_error_and_another_failure_stays_what_it_is(
    needy: Path,
) -> None:
    attempt = "try:\n    import LibMTL\nexcept ImportError as error:\n    print(error)\n"
    one = needy / "LibMTL" / "weighting" / "one.py"
    again = f"open({str(one)!r}, 'w').write('import json.nothing')\n"
    done = run(needy, "-c", f"import libmtl_recon\n{attempt}{again}{attempt}")
    first, second = done.stdout.splitlines()
    assert "no_such_graphs, no_such_solver" in first
    assert second.startswith("No module named 'json.nothing'")
