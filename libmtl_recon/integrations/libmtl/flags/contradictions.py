"""Refuse flags of ``--arch Recon`` that contradict the checkpoint of the network."""

from __future__ import annotations

import sys
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.flags import idle
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_params
from libmtl_recon.integrations.libmtl.split_source import SplitSource
from libmtl_recon.integrations.libmtl.splits import base_of


def refuse_contradictions(split: SplitSource, params: Any) -> None:
    """Refuse flags that were given and contradict a checkpoint.

    The layers in ``--recon_layers`` are compared once the network is built.

    Args:
        split: The split recorded in the checkpoint.
        params: A script's arguments.

    Raises:
        UsageError: A flag contradicts the checkpoint.
    """
    spec, origin = split.spec, split.spec.origin
    known = {
        "recon_k": origin.get("K", len(spec.layers)),
        "recon_s": origin.get("S"),
        "recon_select": origin.get("select"),
        "recon_select_seed": origin.get("select_seed"),
        "recon_base": base_of(spec),
        "recon_bn": spec.bn,
        "recon_init": spec.init,
    }
    for dest, value in known.items():
        if value is not None and given(params, dest) and getattr(params, dest) != value:
            raise UsageError(
                f"--{dest}",
                f"must be {value}, as for the network in {split.source}",
                getattr(params, dest),
                "Leave it out: the network is built as recorded in the checkpoint.",
            )


def given(params: Any, dest: str) -> bool:
    """Return whether a flag was given explicitly.

    It was if its value is not the default, if it is on the command line, or if the script creates
    its arguments without ``prepare_args``.

    Args:
        params: A script's arguments.
        dest: The flag's.
    """
    value = getattr(params, dest, None)
    if value is None:
        return False
    config = sys.modules.get("LibMTL.config")
    if config is None or not prepared_params():
        return True
    parser = config.LibMTL_args
    return value != parser.get_default(dest) or dest in idle.given_flags(parser, sys.argv[1:])
