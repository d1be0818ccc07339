"""Flags that were given and change nothing are said at the start, once, and only these."""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import python

import libmtl_recon  # noqa: F401  # before LibMTL

# isort: split
import LibMTL
from LibMTL.config import LibMTL_args, prepare_args

from libmtl_recon.cli import main
from libmtl_recon.integrations.libmtl.arguments import forget_prepared
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.flags.idle import OF_METHODS, given_flags

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_tasks.py"
Said = Callable[..., str]


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    forget_prepared()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Return the messages for a script with these flags on its command line."""

    def ask(*flags: str, arguments: argparse.Namespace | None = None) -> str:
        monkeypatch.setattr(sys, "argv", ["main.py", *flags])
        prepare_args(LibMTL_args.parse_args() if arguments is None else arguments)
        return capsys.readouterr().err

    return ask


PLAIN = "with --weighting EW, --arch HPS, --optim adam and no --scheduler"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--recon_k 3", "--recon_k has no effect without --arch Recon"),
        (
            "--recon_k 3 --recon_s=-0.1 --recon_base MTAN",
            "--recon_k, --recon_s, --recon_base have no effect without --arch Recon",
        ),
        ("--gradops_alpha -1", "--gradops_alpha has no effect without --weighting GradOPS"),
        ("--rotograd_lr 1e-4", "--rotograd_lr has no effect without --weighting RotoGrad"),
        (
            "--weighting GradOPS --rotograd_mode scale --arch HPS --recon_bn mixed",
            "--rotograd_mode has no effect without --weighting RotoGrad; --recon_bn has no effect "
            "without --arch Recon",
        ),
        ("--calpha 0.3", f"--calpha has no effect {PLAIN}"),
        ("--calpha 0.3 --gamma 0.1", f"--calpha, --gamma have no effect {PLAIN}"),
        (
            "--weighting CAGrad --calpha 0.3 --leak 0.1 --optim rmsprop --momentum 0.5",
            "--leak, --momentum have no effect with --weighting CAGrad, --arch HPS, --optim "
            "rmsprop and no --scheduler",
        ),
        (
            "--scheduler exp --gamma 0.9 --step_size 3",
            "--step_size has no effect with --weighting EW, --arch HPS, --optim adam and "
            "--scheduler exp",
        ),
        (
            "--arch Recon --recon_k 3 --recon_select_seed 4",
            "--recon_select_seed has no effect with --recon_select conflict, which is not random",
        ),
        (
            "--arch Recon --recon_k 3 --recon_select last --recon_s -0.05",
            "--recon_s has no effect with --recon_select last, which does not use conflicts",
        ),
        (
            "--arch Recon --recon_k 3 --recon_select norms --recon_layers a --recon_select_seed 4",
            "--recon_layers has no effect with --recon_select norms, which does not use "
            "conflicts; --recon_select_seed has no effect with --recon_select norms, which is "
            "not random",
        ),
        (
            "--arch Recon --recon_k 3 --recon_match order --recon_skip_missing",
            "--recon_match, --recon_skip_missing have no effect without --recon_layers, which "
            "gives the names",
        ),
        (
            "--weighting RotoGrad --rotograd_mode scale --rotograd_map matrix_exp",
            "--rotograd_map has no effect with --rotograd_mode scale",
        ),
        (
            "--weighting RotoGrad --rotograd_alpha 2",
            "--rotograd_alpha has no effect with --rotograd_mode full",
        ),
        # argparse takes shortened names
        ("--recon_select_s 3", "--recon_select_seed has no effect without --arch Recon"),
    ],
)
def test_a_flag_without_effect_is_said(said: Said, flags: str, line: str) -> None:
    assert said(*flags.split()) == f"libmtl-recon: {line}.\n"


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--weighting GradOPS --gradops_alpha -1 --seed 3 --lr 0.1 --weight_decay 0",
        "--weighting RotoGrad --rotograd_mode gradnorm --rotograd_alpha 2 --rotograd_lr 1e-5",
        "--weighting RotoGrad --rotograd_mode scale --rotograd_burn_in 5",
        "--weighting RotoGrad --rotograd_mode rotate --rotograd_map matrix_exp --rotograd_every 2",
        "--arch Recon --recon_k 3 --recon_s -0.05 --recon_layers a,b --recon_base HPS",
        "--arch Recon --recon_k 3 --recon_layers a,b --recon_match order --recon_skip_missing",
        "--arch Recon --recon_k 3 --recon_select random --recon_select_seed 4",
        "--arch Recon --recon_k 3 --recon_select random_params --recon_s -0.05",
        "--weighting CAGrad --calpha 0.3 --rescale 0 --optim sgd --momentum 0.5",
        "--scheduler cos --step_size 3",
        "--scheduler step --step_size 3 --gamma 0.1",
        "--recon_amp bf16 --rep_grad --multi_input --gpu_id 0",
        "--arch DSelect_k --img_size 3 8 8 --num_experts 2 --kgamma 1 --num_nonzeros 1",
        "--arch Recon --recon_base MMoE --recon_k 2 --img_size 3 8 8 --num_experts 2",
    ],
)
def test_a_flag_with_effect_is_not_said(said: Said, flags: str) -> None:
    assert said(*flags.split()) == ""


def test_what_a_script_sets_by_itself_is_not_said(said: Said) -> None:
    defaults = LibMTL_args.get_default("recon_k"), LibMTL_args.get_default("calpha")
    LibMTL_args.set_defaults(recon_k=3, calpha=0.1)
    try:
        assert said("--seed", "3") == ""
        assert said(arguments=LibMTL_args.parse_args(["--recon_k", "3"])) == ""
    finally:
        LibMTL_args.set_defaults(recon_k=defaults[0], calpha=defaults[1])


def test_a_script_that_chooses_the_method_itself_is_believed(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", "--recon_k", "3"])
    arguments = LibMTL_args.parse_args()
    arguments.arch = "Recon"
    assert said("--recon_k", "3", arguments=arguments) == ""


def test_a_script_with_a_parser_of_its_own_is_let_alone(said: Said) -> None:
    """Its flags may be called like ours."""
    known = vars(LibMTL_args.parse_args([]))
    own = argparse.Namespace(**{k: v for k, v in known.items() if not k.startswith("recon_")})
    assert said("--recon_k", "3", arguments=own) == ""


def test_a_scripts_own_flag_is_never_ours(said: Said) -> None:
    LibMTL_args.add_argument("--format")  # a name that LibMTL's code has in it
    try:
        assert said("--format", "x") == ""
    finally:
        action = LibMTL_args._option_string_actions.pop("--format")
        LibMTL_args._remove_action(action)


def test_it_is_said_once_a_run(said: Said) -> None:
    assert said("--recon_k", "3") != ""
    assert said("--recon_k", "3") == ""
    forget_prepared()
    assert said("--recon_k", "3") != ""


def test_words_behind_two_dashes_are_no_flags() -> None:
    assert given_flags(LibMTL_args, ["--recon_k", "3", "--", "--gradops_alpha"]) == {
        "recon_k": "--recon_k"
    }
    assert given_flags(LibMTL_args, ["--recon_s=-0.1", "-1", "x", "--recon_"]) == {
        "recon_s": "--recon_s"
    }


@pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the script is written for LibMTL's release"
)
def test_it_is_said_under_the_launcher_before_the_training(
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags = ["--recon_k", "3", "--epochs", "1", "--weighting", "EW"]
    assert main(["run", str(SCRIPT), *flags]) == 0
    line = "libmtl-recon: --recon_k has no effect without --arch Recon.\n"
    assert capfd.readouterr().err.count(line) == 1


def test_it_is_said_where_a_script_imports_us() -> None:
    code = (
        "import libmtl_recon\n"
        "from LibMTL.config import LibMTL_args, prepare_args\n"
        "prepare_args(LibMTL_args.parse_args())\n"
    )
    words = [*python(), "-c", code, "--gradops_alpha", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "--gradops_alpha has no effect without --weighting GradOPS." in done.stderr


def test_libmtls_flags_of_methods_are_those_that_its_own_code_reads() -> None:
    read = set(inspect.unwrap(prepare_args).__code__.co_names)
    chosen = {"weighting", "arch", "optim", "scheduler"}
    own = {action.dest for action in LibMTL_args._actions} & read
    assert OF_METHODS & own == own - chosen
