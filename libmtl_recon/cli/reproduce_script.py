"""The script of ``libmtl-recon reproduce`` and the words after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from libmtl_recon.errors import UsageError

if TYPE_CHECKING:
    from libmtl_recon.reproduction.asked import Weighting

# Flags of the script that these commands give themselves, and what gives them here.
_OURS = {
    "--weighting": "--weightings or --weighting before SCRIPT",
    "--seed": "--seed or --seeds before SCRIPT",
    "--recon_k": "--k before SCRIPT",
    "--recon_s": "--s before SCRIPT",
    "--recon_select": "--select before SCRIPT",
    "--recon_select_seed": "--seed before SCRIPT",
    "--recon_layers": "--profile before SCRIPT",
    "--recon_base": "--arch after SCRIPT",
}


def refuse_demonstration(script: str) -> None:
    """Refuse a script that does not exist, or that trains nothing with LibMTL's Trainer.

    Raises:
        UsageError: It is such a script.
    """
    from libmtl_recon.launcher import Target, find_script

    find_script(script)
    if Target(script).demonstration:
        raise UsageError(
            "SCRIPT",
            "must be a script that trains with LibMTL's Trainer",
            script,
            f"This one can only be run as `libmtl-recon run {script}`.",
        )


def of_the_script(words: Sequence[str], asked: Sequence[Weighting]) -> tuple[str, list[str]]:
    """Return LibMTL's architecture that the script's words name, and the other words.

    Raises:
        UsageError: A word is a flag that the command itself gives.
    """
    for word in [*words, *(flag for one in asked for flag in one.flags)]:
        _refuse_ours(word)
    for word in (flag for one in asked for flag in one.flags):
        if word.partition("=")[0] == "--arch":
            raise UsageError(
                "--arch",
                "must be one for all weightings",
                word,
                "Give it after SCRIPT.",
            )
    architecture, kept = "HPS", list(words)
    for place, word in enumerate(words):
        if word == "--arch" and place + 1 < len(words):
            architecture = words[place + 1]
            kept[place : place + 2] = []
            break
        if word.startswith("--arch="):
            architecture = word.partition("=")[2]
            del kept[place]
            break
    if architecture == "Recon":
        raise UsageError(
            "--arch",
            "must name an architecture whose layers are shared",
            architecture,
            "The command itself splits its layers: leave --arch out.",
        )
    return architecture, kept


def _refuse_ours(word: str) -> None:
    flag = word.partition("=")[0]
    if not flag.startswith("--") or len(flag) < 4:
        return
    for ours, how in _OURS.items():
        if ours.startswith(flag):  # argparse accepts abbreviations
            raise UsageError(
                ours,
                "cannot be a flag of the script here, since the command itself gives it",
                word,
                f"Use {how}.",
            )
