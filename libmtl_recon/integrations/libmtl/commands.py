"""Commands that messages suggest to the user."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_PROBLEMS = Path(__file__).parents[2] / "problems"


def scoring_command(architecture: str) -> str:
    """Return the command that scores the running script, with its own arguments.

    Args:
        architecture: LibMTL's name of the unsplit architecture.
    """
    script = Path(sys.argv[0])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = [str(script)]
    if script.parent == _PROBLEMS:
        name = [script.stem]
    elif spec is not None:  # Python was started with -m
        name = ["-m", spec.name.removesuffix(".__main__")]
    # Of a flag that is given twice, argparse takes the second.
    plain = ("--weighting", "EW", "--arch", architecture)
    return shlex.join(["libmtl-recon", "score", *name, *sys.argv[1:], *plain])
