"""Report flags that were given and have no effect: results may wrongly be attributed to one.

Only flags on the command line are considered, not values that a script sets itself, in its
parser's defaults or in the parsed arguments.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

_logger = logging.getLogger(__name__)

# The flag and the method's name without which one of our flags has no effect, by its dest.
_owners: dict[str, tuple[str, str]] = {}
_libmtls: set[str] = set()  # dests
# Those that `prepare_args` turns into arguments, in one of the two LibMTLs or both. Flags that a
# script reads itself (--seed, --rep_grad) are not among them, nor flags of an unknown LibMTL.
_OF_METHODS = """
    lr momentum weight_decay step_size gamma
    T dist mgda_gn beta alpha leak calpha rescale GradVac_beta GradVac_group_type
    update_weights_every optim_niter max_norm
    MoCo_beta MoCo_beta_sigma MoCo_gamma MoCo_gamma_sigma MoCo_rho DB_beta DB_beta_sigma
    STCH_mu STCH_warmup_epoch robust_step_size FairGrad_alpha FAMO_w_lr FAMO_w_gamma
    MoDo_gamma MoDo_rho SDMGrad_lamda SDMGrad_niter UPGrad_norm_eps UPGrad_reg_eps
    outer_lr inner_lr inner_step FORUM_phi
    img_size num_experts num_nonzeros kgamma
"""
OF_METHODS = frozenset(_OF_METHODS.split())
_said: set[str] = set()


def remember_libmtls(parser: argparse.ArgumentParser) -> None:
    """Remember which flags are LibMTL's, before this package or a script adds any."""
    _libmtls.update(action.dest for action in parser._actions)


def add_owned(
    parser: argparse.ArgumentParser, chooser: str, methods: Mapping[str, ModuleType]
) -> None:
    """Add the flags of some methods to a parser, and remember to which method each belongs.

    Args:
        parser: LibMTL's.
        chooser: The flag that chooses one of these methods.
        methods: The modules of their flags, by name.
    """
    for name, method in methods.items():
        before = len(parser._actions)
        method.add(parser)
        for action in parser._actions[before:]:
            _owners[action.dest] = chooser, name


def say_idle(
    parser: argparse.ArgumentParser,
    params: Any,
    methods: Mapping[str, ModuleType],
    read: Collection[str],
) -> None:
    """Report on stderr, once, which flags of the command line have no effect.

    Args:
        parser: LibMTL's.
        params: The script's parsed arguments.
        methods: The modules of our flags, by the methods' names.
        read: The dests of LibMTL's flags that ``prepare_args`` uses in this run.
    """
    line = idle_line(given_flags(parser, sys.argv[1:]), params, methods, read)
    if line and line not in _said:
        _said.add(line)
        _logger.warning("%s", line)


def forget_said() -> None:
    """Forget the messages about a script that has ended, for the next one in this process."""
    _said.clear()


def given_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, str]:
    """Return the dests of the flags on a command line and their names, by argparse's rules.

    Args:
        parser: The parser that defines the flags.
        words: The command line.
    """
    known = parser._option_string_actions
    found = {}
    for word in words:
        if word == "--":
            break
        if not word.startswith("--"):
            continue
        name = word.partition("=")[0]
        near = [flag for flag in known if flag.startswith(name)] if parser.allow_abbrev else []
        flag = name if name in known or len(near) != 1 else near[0]
        if flag in known:
            found[known[flag].dest] = flag
    return found


def idle_line(
    given: Mapping[str, str],
    params: Any,
    methods: Mapping[str, ModuleType],
    read: Collection[str],
) -> str:
    """Return the message about flags without effect; empty if each has one.

    Args:
        given: The given flags, by dest.
        params: The script's parsed arguments.
        methods: See :func:`say_idle`.
        read: See :func:`say_idle`.
    """
    reasons: dict[str, list[str]] = {}
    chosen = {"--weighting": params.weighting, "--arch": params.arch}
    for dest, flag in given.items():
        # A script may create its arguments with another parser, which does not know our flags.
        if not hasattr(params, dest):
            continue
        chooser, method = _owners.get(dest, ("", ""))
        if method and chosen[chooser] != method:
            reasons.setdefault(f"without {chooser} {method}", []).append(flag)
        elif method and hasattr(methods[method], "idle"):
            why = methods[method].idle(params).get(dest)
            if why:
                reasons.setdefault(why, []).append(flag)
        elif dest in OF_METHODS and dest in _libmtls and dest not in read:
            reasons.setdefault(_rest(params), []).append(flag)
    clauses = [
        f"{', '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect {why}"
        for why, flags in reasons.items()
    ]
    return f"{'; '.join(clauses)}." if clauses else ""


def _rest(params: Any) -> str:
    """Describe what LibMTL's own flags are for."""
    scheduler = getattr(params, "scheduler", None)
    last = "no --scheduler" if scheduler is None else f"--scheduler {scheduler}"
    chosen = f"--weighting {params.weighting}, --arch {params.arch}, --optim {params.optim}"
    return f"with {chosen} and {last}"
