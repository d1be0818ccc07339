"""The arguments that a script has handed to LibMTL's ``prepare_args``, for who needs them later."""

from __future__ import annotations

from typing import Any

_params: dict[str, Any] = {}
_training: dict[str, Any] = {}


def prepared_params() -> dict[str, Any]:
    """The arguments that the script last handed to ``prepare_args``; empty if it has not yet."""
    return dict(_params)


def prepared_training() -> dict[str, Any]:
    """The checked values of our training flags in these arguments; empty before that.

    A Trainer has no place for them: its ``kwargs`` go to the weighting and the architecture.
    """
    return dict(_training)


def keep(params: Any) -> None:
    """Keep a script's arguments, in place of earlier ones.

    Args:
        params: What the script has handed over, such as a namespace of argparse's.
    """
    forget()
    _params.update(getattr(params, "__dict__", {}))


def keep_training(values: dict[str, Any]) -> None:
    """Keep the checked values of our training flags in them."""
    _training.update(values)


def forget() -> None:
    """Forget them."""
    _params.clear()
    _training.clear()
