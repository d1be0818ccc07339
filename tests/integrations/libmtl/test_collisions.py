"""A script that adds one of our flags is told so, once, by name."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import pytest
from LibMTL.config import LibMTL_args

from libmtl_recon import UsageError, run_script
from libmtl_recon.integrations.libmtl.flags import collisions

ADDS = {
    "parser": "LibMTL_args.add_argument('--recon_k', type=int)",
    "alias": "LibMTL_args.add_argument('--mine', '--recon_k')",
    "dest": "LibMTL_args.add_argument('--mine', dest='recon_k')",
    "group": "LibMTL_args.add_argument_group('own').add_argument('--recon_k')",
    "exclusive": "LibMTL_args.add_mutually_exclusive_group().add_argument('--recon_k')",
    "copy": "import copy; copy.deepcopy(LibMTL_args).add_argument('--recon_k')",
    "child": "import argparse\n"
    "argparse.ArgumentParser(parents=[LibMTL_args], add_help=False).add_argument('--recon_k')",
}


@pytest.mark.parametrize("way", ADDS)
def test_a_script_that_adds_a_flag_of_ours_is_told(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "own.py"
    script.write_text(f"from LibMTL.config import LibMTL_args\n{ADDS[way]}\n", encoding="utf-8")
    assert run_script(script) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 1
    for part in (
        "error: --recon_k must not be added by a script, because libmtl-recon adds this flag "
        "(got 'added by own.py')",
        "Give the script's flag another name",
        "LibMTL_args.set_defaults(recon_k=...)",
    ):
        assert part in shown


def test_a_conflict_that_is_not_ours_stays_argparses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "own.py"
    text = "from LibMTL.config import LibMTL_args\nLibMTL_args.add_argument('--lr')\n"
    script.write_text(text, encoding="utf-8")
    assert run_script(script) == 1
    assert "argparse.ArgumentError: argument --lr: conflicting" in capsys.readouterr().err


def test_a_flag_that_was_there_before_us_is_named_at_our_import() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recon_k")
    with (
        pytest.raises(UsageError, match=r"--recon_k must not be added by a script"),
        collisions.claiming(parser),
    ):
        parser.add_argument("--recon_k")


def test_a_copy_of_the_parser_adds_to_itself() -> None:
    before = LibMTL_args.format_help()
    twin = copy.deepcopy(LibMTL_args)
    twin.add_argument("--own_flag")
    twin.add_argument_group("own").add_argument("--other_flag")
    assert twin.parse_args(["--own_flag", "x"]).own_flag == "x"
    assert LibMTL_args.format_help() == before
