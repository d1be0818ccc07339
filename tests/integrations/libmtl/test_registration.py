"""LibMTL knows our names, in whatever order things are imported."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import libmtl_recon
from libmtl_recon import UsageError

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_tasks.py"

# What torchvision used to have, so that LibMTL can be imported without us.
STUB = """
import sys, types, torch.hub
stub = types.ModuleType("torchvision.models.utils")
stub.load_state_dict_from_url = torch.hub.load_state_dict_from_url
sys.modules[stub.__name__] = stub
"""

USE = """
params = LibMTL_args.parse_args(["--weighting", "GradOPS", "--gradops_alpha", "-1.5",
                                 "--arch", "Recon", "--recon_k", "3", "--recon_s", "-0.05"])
kwargs, optim, scheduler = prepare_args(params)
assert kwargs == {"weight_args": {"gradops_alpha": -1.5},
                  "arch_args": {"recon_k": 3, "recon_s": -0.05, "recon_layers": None}}, kwargs
import LibMTL.weighting as weighting_method
assert weighting_method.__dict__["GradOPS"].__name__ == "GradOPS"
import LibMTL.architecture as architecture_method
assert architecture_method.__dict__["Recon"].__name__ == "Recon"
"""

# One that has it by another name, and the script's own main module by both.
HELPER = """
import types
helper = types.ModuleType("helper")
from LibMTL.config import prepare_args as own
helper.prepare = own
sys.modules["helper"] = helper
import libmtl_recon, LibMTL
assert own is helper.prepare is LibMTL.config.prepare_args
"""

# Where it cannot be replaced.
VARIABLE = """
def main(own):
    import libmtl_recon
    from LibMTL.config import LibMTL_args, prepare_args
    prepare_args(LibMTL_args.parse_args(["--weighting", "GradOPS"]))
    own(LibMTL_args.parse_args(["--weighting", "EW", "--recon_amp", "bf16"]))
    print("not reached")

import LibMTL.config
main(LibMTL.config.prepare_args)
"""

ORDERS = {
    "we come first": "import libmtl_recon\nfrom LibMTL.config import LibMTL_args, prepare_args\n",
    "LibMTL comes first": STUB
    + "from LibMTL.config import LibMTL_args, prepare_args\nimport libmtl_recon\n"
    + HELPER,
    "twice, and reloaded": "import libmtl_recon, importlib\n"
    "from LibMTL.config import LibMTL_args, prepare_args\n"
    "importlib.reload(libmtl_recon)\nlibmtl_recon.activate()\n",
}


THREAD = (
    STUB
    + """
import threading
thread = threading.Thread(target=__import__, args=("LibMTL",))
thread.start()
while "LibMTL" not in sys.modules:
    pass
assert sys.modules["LibMTL"].__spec__._initializing, "else this tests nothing"
import libmtl_recon
thread.join()
from LibMTL.config import LibMTL_args, prepare_args
assert not [f for f in sys.meta_path if type(f).__name__ == "LibMTLFinder"]
"""
)
ORDERS["another thread is just importing LibMTL"] = THREAD


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_imports(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORDERS[order] + USE], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "GradOPS Configuration:" in done.stdout, "LibMTL prints the real names"
    assert "Wighting: GradOPS" in done.stdout


def test_a_prepare_args_of_libmtls_own_that_was_kept_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUB + VARIABLE], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "Import libmtl_recon before LibMTL." in done.stderr
    assert "Traceback" not in done.stderr
    assert "Wighting: GradOPS" in done.stdout
    assert "not reached" not in done.stdout


def test_a_script_may_show_the_configuration_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from LibMTL import config

    shown: list[object] = []
    monkeypatch.setattr(config, "_display", lambda given, *_: shown.append(given.weighting))
    config.prepare_args(params(weighting="GradOPS"))
    assert shown == ["GradOPS"]
    assert capsys.readouterr().out == ""


def test_importing_us_loads_neither_torch_nor_libmtl() -> None:
    code = "import sys, libmtl_recon; print({'torch', 'LibMTL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"


CORE = """
import multiprocessing.spawn, sys
tell, path = multiprocessing.spawn.get_preparation_data, list(sys.meta_path)
import torch
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.gradients import task_gradients
from libmtl_recon.profiles.cache import ProfileCache
from libmtl_recon.splitting.split import split_layers
from libmtl_recon.weighting.gradops import gradops_weights

network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
shared = list(network.parameters())
rows = task_gradients(network(torch.eye(2)).square().sum(dim=0), shared)
assert gradops_weights(rows @ rows.T).shape == (2,)
counter = ConflictCounter(layers_of(network, shared), ["a", "b"])
counter.record(rows)
ProfileCache(sys.argv[1]).save(counter.profile({}))
split_layers(network, ["0"], ["a", "b"])

assert "LibMTL" not in sys.modules
assert multiprocessing.spawn.get_preparation_data is tell
new = [type(finder).__name__ for finder in sys.meta_path if finder not in path]
assert new == ["LibMTLFinder"], new
"""


def test_the_core_is_used_without_libmtl_and_without_a_change_to_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CORE, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_finder_is_gone_after_the_import() -> None:
    import LibMTL

    libmtl_recon.activate()
    assert not [f for f in sys.meta_path if type(f).__name__ == "LibMTLFinder"]
    assert type(LibMTL.__spec__.loader).__name__ == "SourceFileLoader"


def test_flags_are_there_once_with_help() -> None:
    from LibMTL.config import LibMTL_args

    ours = ["gradops_alpha", "recon_k", "recon_s", "recon_layers"]
    found = [action for action in LibMTL_args._actions if action.dest in ours]
    assert [action.dest for action in found] == ours
    assert all(len(action.help) > 30 for action in found)


def params(**changes: object) -> argparse.Namespace:
    from LibMTL.config import LibMTL_args

    known = vars(LibMTL_args.parse_args([]))
    return argparse.Namespace(**{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "named", "said"),
    [
        ({"weighting": "GradOP"}, "--weighting", "Did you mean GradOPS"),
        ({"weighting": "Gradops"}, "--weighting", "Did you mean GradOPS"),
        ({"weighting": "PCgrad"}, "--weighting", "Did you mean PCGrad"),
        ({"arch": "recon"}, "--arch", "Did you mean Recon"),
        ({"arch": "Recon"}, "--recon_k", "--recon_k 12"),
        ({"arch": "Recon", "recon_k": 0}, "--recon_k", "from 1 up"),
        ({"arch": "Recon", "recon_k": 2.5}, "--recon_k", "from 1 up"),
        ({"arch": "HPS", "recon_from": "x.pt"}, "--recon_from", "Add --arch Recon"),
        ({"weighting": "GradOPS", "gradops_alpha": "1"}, "--gradops_alpha", "finite number"),
        ({"arch": "Recon", "recon_k": 2, "recon_s": 0.5}, "--recon_s", "above -1 and up to 0"),
        ({"arch": "Recon", "recon_k": 2, "recon_s": -1.0}, "--recon_s", "above -1 and up to 0"),
        ({"arch": "Recon", "recon_k": 2, "recon_s": -0.012}, "--recon_s", "try -0.01"),
        (
            {"weighting": "GradOPS", "gradops_alpha": float("inf")},
            "--gradops_alpha",
            "finite number",
        ),
    ],
)
def test_wrong_values_end_as_argparse_ends_them(
    changes: dict[str, object], named: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from LibMTL.config import prepare_args

    with pytest.raises(SystemExit) as ended:
        prepare_args(params(**changes))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"error: {named} must be" in message
    assert said in message


def test_the_callers_namespace_is_not_changed() -> None:
    from LibMTL.config import prepare_args

    given = params(weighting="GradOPS", arch="Recon", recon_k=1)
    before = dict(vars(given))
    prepare_args(given)
    assert vars(given) == before


class Settings:
    """Arguments that no parser made, and that know nothing of our flags."""

    weighting, arch, optim, scheduler = "GradOPS", "HPS", "adam", None
    lr, weight_decay, seed, gpu_id = 0.1, 0.0, 0, "0"
    rep_grad = multi_input = False
    mode = save_path = load_path = None


def test_arguments_may_come_from_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    from LibMTL.config import prepare_args

    kwargs, optimizer, scheduler = prepare_args(params=Settings())
    assert kwargs == {"weight_args": {"gradops_alpha": 0.0}, "arch_args": {}}
    assert optimizer == {"optim": "adam", "lr": 0.1, "weight_decay": 0.0}
    assert scheduler is None
    assert "Wighting: GradOPS" in capsys.readouterr().out


def test_libmtls_own_errors_stay_what_they_are() -> None:
    from LibMTL.config import prepare_args

    with pytest.raises(ValueError, match="No support optim method") as raised:
        prepare_args(params(optim="nosuch"))
    assert not isinstance(raised.value, UsageError)
