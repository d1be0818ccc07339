"""LibMTL's main branch: only what it needs is patched, and all of ours works in it.

LIBMTL_MAIN names a checkout of it; its own needs (cvxpy, qpsolvers, torch_geometric) must be
installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from main_checkout import MAIN, on_main

from libmtl_recon.integrations.libmtl.patches import PATCHES

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_tasks.py"
REPOSITORY = Path(__file__).parents[3]

QUESTIONS = Path(__file__).with_name("on_main_branch.py")
# What LibMTL's release does not have.
UNKNOWN = ("MOML", "FORUM", "AutoLambda")  # bilevel: no closed form
WEIGHTINGS = [
    *("Nash_MTL", "MoCo", "Aligned_MTL", "DB_MTL", "STCH", "ExcessMTL", "FairGrad", "FAMO"),
    *("MoDo", "SDMGrad", "UPGrad", *UNKNOWN),
]

pytestmark = on_main


def python(*args: str) -> str:
    """Return the output of a Python process that imports LibMTL's main branch."""
    path = os.pathsep.join([MAIN, str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": path, "LIBMTL_RECON_DEVICE": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script of the other tests in this branch's style: names instead of classes."""
    code = SCRIPT.read_text(encoding="utf-8")
    for old, new in (
        ("weighting_method.__dict__[params.weighting]", "params.weighting"),
        ("architecture_method.__dict__[params.arch]", "params.arch"),
        (
            "trainer.train(train, test, params.epochs)",
            "trainer.train(train, test, params.epochs, val_dataloaders=test); trainer.test(test)",
        ),
    ):
        assert old in code
        code = code.replace(old, new)
    file = tmp_path / "main.py"
    file.write_text(code, encoding="utf-8")
    return file


# Of what is patched in LibMTL's release, that which its main branch has set right itself.
NOT_NEEDED = {
    *("torchvision-import", "in-place-zero-grad", "cagrad-tasks", "task-representations"),
    *("gradvac-targets", "rlw-constrained-bernoulli"),
}


def test_only_what_it_needs_is_patched() -> None:
    code = (
        "import libmtl_recon, LibMTL, json\n"
        "from libmtl_recon.integrations.libmtl.patches import patch_status\n"
        "from libmtl_recon.integrations.libmtl.features import detect\n"
        "print(json.dumps([detect(LibMTL).by_name, detect(LibMTL).label, patch_status(LibMTL)]))"
    )
    assert json.loads(python("-c", code)) == [
        True,
        "main",
        {m.name: "not needed" if m.name in NOT_NEEDED else "applied" for m in PATCHES},
    ]


def ask(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(python(str(QUESTIONS), *args).splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return ask()


def test_nash_mtl_bargains_with_its_solver_and_without(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(answers["nash"]) > 2
    assert ask("without-ecos")["nash"] == answers["nash"]
    # What LibMTL does by itself: it trains as EW.
    monkeypatch.setenv("LIBMTL_RECON_PATCHES", "device,return-weight")
    assert ask("without-ecos")["nash"] == [1.0]


def test_gradvac_by_layer_knows_the_shared_layers_of_every_architecture(
    answers: dict[str, Any],
) -> None:
    one, two = 5 * 8 + 8, 8 * 6 + 6
    assert answers["gradvac"] == {
        "HPS": [[one, two], one + two],
        "MMoE": [[one, two, one, two], 2 * (one + two)],
    }


def test_a_checkpoint_fits_or_is_refused(answers: dict[str, Any]) -> None:
    found = answers["checkpoints"]
    assert found["same"]
    assert found["other weighting"] == found["split anew"] == ""
    assert "missing: encoder.0.weight" in found["other encoder"]
    assert "unexpected: encoder.one.weight" in found["other encoder"]
    assert "1 task-specific layers (encoder.two)" in found["already split"]


def test_a_solver_that_is_not_installed_is_named(answers: dict[str, Any]) -> None:
    assert "pip install quadprog" in answers["solver"]


def test_excess_mtl_refuses_rep_grad_which_would_never_train_the_encoder(
    answers: dict[str, Any],
) -> None:
    assert answers["excess"].startswith("--rep_grad cannot be combined with --weighting ExcessMTL")


def test_bilevel_methods_train_a_network_that_recon_split(answers: dict[str, Any]) -> None:
    assert answers["bilevel"].pop("steps").startswith("--inner_step must be 1")
    assert answers["bilevel"] == {"MOML": [], "FORUM": [], "AutoLambda": []}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, list[Any]]:
    code = (
        "import json\n"
        "from benchmarks.compatibility.cells import Cell, run_cell\n"
        "found = {}\n"
        f"for name in {WEIGHTINGS}:\n"
        "    verdict = run_cell(Cell(name, 'HPS', 2))\n"
        "    found[name] = [verdict.kind, verdict.reason, verdict.checked]\n"
        "print(json.dumps(found))"
    )
    found: dict[str, list[Any]] = json.loads(python("-c", code).splitlines()[-1])
    return found


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_trains_by_its_closed_form(
    weighting: str, verdicts: dict[str, list[Any]]
) -> None:
    assert verdicts[weighting] == ["trains", "", weighting not in UNKNOWN]


def test_the_same_losses_with_the_launcher_and_without(script: Path, tmp_path: Path) -> None:
    import torch

    flags = ["--weighting", "EW", "--arch", "HPS", "--seed", "5", "--dump"]
    python("-m", "libmtl_recon", "run", str(script), *flags, str(tmp_path / "a.pt"))
    own = tmp_path / "own.py"
    own.write_text("import libmtl_recon\n" + script.read_text(encoding="utf-8"), encoding="utf-8")
    python(str(own), *flags, str(tmp_path / "b.pt"))
    first, second = torch.load(tmp_path / "a.pt"), torch.load(tmp_path / "b.pt")
    assert torch.equal(first["losses"], second["losses"])
    equal = {
        key for key in first["after"] if torch.equal(first["after"][key], second["after"][key])
    }
    assert equal == second["after"].keys()
    assert {"encoder.one.weight", "decoders.sign.weight"} <= equal


@pytest.mark.parametrize("weighting", ["GradOPS", "CAGrad", "FairGrad", "RotoGrad"])
def test_weightings_train_a_network_that_recon_split(
    weighting: str, script: Path, tmp_path: Path
) -> None:
    import torch

    layers = tmp_path / "layers.json"
    layers.write_text('{"norm": 9, "one": 7, "two": 1}', encoding="utf-8")
    shown = python(
        *("-m", "libmtl_recon", "run", str(script), "--weighting", weighting, "--tasks", "3"),
        *("--arch", "Recon", "--recon_k", "2", "--recon_layers", str(layers)),
        *("--dump", str(tmp_path / "m.pt")),
    )
    assert f"Wighting: {weighting}" in shown
    assert "2 of 3 layers are task-specific" in shown
    end = torch.load(tmp_path / "m.pt")
    assert torch.isfinite(end["losses"]).all()
    assert "encoder.one.tasks.order.weight" in end["after"]
    before = {key: value for key, value in end["before"].items() if "rotograd" not in key}
    same = [key for key, value in before.items() if torch.equal(value, end["after"][key])]
    assert same == []


def test_hooks_see_one_task_alone_in_every_pass(script: Path, tmp_path: Path) -> None:
    watch = tmp_path / "watch.py"
    watch.write_text(
        "import json, sys\n"
        "from libmtl_recon import TrainerHook, SingleTask, run_script\n"
        "class Notes(TrainerHook):\n"
        "    def measured(self, trainer, m):\n"
        "        notes.append([m.epoch, m.mode, list(m.losses), list(m.metrics['size'])])\n"
        "notes = []\n"
        f"status = run_script({str(script)!r}, hooks=[SingleTask('size'), Notes()])\n"
        "print('\\n' + json.dumps([status, notes]))\n",
        encoding="utf-8",
    )
    status, notes = json.loads(python(str(watch)).splitlines()[-1])
    assert status == 0
    passes = [(epoch, mode) for epoch in (0, 1) for mode in ("train", "val", "test")]
    assert notes == [[*found, ["size"], ["Acc"]] for found in [*passes, (None, "test")]]


def test_an_error_of_the_data_loading_is_not_swallowed(script: Path) -> None:
    code = script.read_text(encoding="utf-8").replace(
        "x = self.x[index]", "x = self.x[index]\n        self.fail()"
    )
    code = code.replace(
        "    def __len__", "    def fail(self):\n        raise OSError('torn')\n\n    def __len__"
    )
    code = code.replace(
        "    main(params)", "    try:\n        main(params)\n    except OSError as e:"
    )
    code += "        print('came through:', e)\n"
    script.write_text(code, encoding="utf-8")
    assert "came through: torn" in python("-m", "libmtl_recon", "run", str(script))


def test_missing_labels_are_left_out_there_too() -> None:
    file = Path(__file__).with_name("test_missing_labels.py")
    # What its own needs warn of is their business.
    quiet = ("-q", "-p", "no:warnings", "-o", "filterwarnings=")
    chosen = ("-k", "over_present_labels or always_absent or refused or moves_nothing")
    assert "failed" not in python("-m", "pytest", *quiet, *chosen, str(file))


def test_split_checkpoints_build_the_same_network_there() -> None:
    """The tests of the release's, and those of what it lacks: --save_path and --load_path."""
    file = Path(__file__).with_name("test_split_checkpoints.py")
    # What its own needs warn of is their business.
    quiet = ("-q", "-p", "no:warnings", "-o", "filterwarnings=")
    shown = python("-m", "pytest", *quiet, "-k", "path or scored or contradicts", str(file))
    assert "failed" not in shown
    assert "skipped" not in shown


def test_scripts_say_their_flags_there(script: Path) -> None:
    found = python(
        "-c",
        "from libmtl_recon import run_script, script_flags\n"
        "found = []\n"
        "with script_flags(found.append):\n"
        f"    assert run_script({str(script)!r}) == 0\n"
        "print(found[0].several, 'GradVac_beta' in found[0].known)",
    )
    assert found.endswith("('img_size', 'num_experts') True\n"), found


ROTATED = """
import sys
sys.path.insert(0, {folder!r})
from small_problem import batches, make_trainer
from libmtl_recon import ReconError

data = batches(2)
first = make_trainer("RotoGrad", save_path={saved!r})
first.train(data, data, 2, val_dataloaders=data)
again = make_trainer("RotoGrad", load_path={saved!r})
assert again.model.rotograd.steps in (4, 8), "the better epoch of two"
before = again.model.rotograd.steps
again.train(data, data, 1)
assert again.model.rotograd.steps == before + 4
try:
    make_trainer("EW", load_path={saved!r})
except ReconError as error:
    print("refused:", error)
"""


def test_a_checkpoint_with_rotations_goes_on_with_them_only(tmp_path: Path) -> None:
    code = ROTATED.format(folder=str(Path(__file__).parent), saved=str(tmp_path))
    shown = python("-c", code)
    assert "refused: The checkpoint was saved under --weighting RotoGrad" in shown
