"""The command-line flags of this package, added to LibMTL's parser: one file per method.

Each of these modules has ``add(parser)``, ``values(params)`` (checked, as LibMTL's ``weight_args``
or ``arch_args``) and ``HOME``, the module of the LibMTL class of the method's name. Those of
architectures have ``refuse_idle(params)``, which refuses flags that make no sense without them; if
some of the method's flags have no effect in some of its modes, ``idle(params)`` returns the
reasons, by dest. Flags for any method are in ``training``.
"""

from __future__ import annotations

import argparse
from types import ModuleType

from libmtl_recon.integrations.libmtl.flags import (
    collisions,
    gradops,
    idle,
    recon,
    rotograd,
    training,
)

WEIGHTINGS: dict[str, ModuleType] = {"GradOPS": gradops, "RotoGrad": rotograd}
ARCHITECTURES: dict[str, ModuleType] = {"Recon": recon}


def add_flags(libmtl: ModuleType) -> None:
    """Add the flags of this package to ``LibMTL_args``, once.

    Raises:
        UsageError: A script has added one of them before.
    """
    parser: argparse.ArgumentParser = libmtl.config.LibMTL_args
    idle.remember_libmtls(parser)
    with collisions.claiming(parser):
        idle.add_owned(parser, "--weighting", WEIGHTINGS)
        idle.add_owned(parser, "--arch", ARCHITECTURES)
        training.add(parser)
