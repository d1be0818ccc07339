"""The arguments that a script has passed to LibMTL's ``prepare_args``, kept for later use."""

from __future__ import annotations

from typing import Any

_params: dict[str, Any] = {}
_training: dict[str, Any] = {}


def prepared_params() -> dict[str, Any]:
    """Return the arguments that the script last passed to ``prepare_args``; empty before that."""
    return dict(_params)


def prepared_training() -> dict[str, Any]:
    """Return the checked values of our training flags in these arguments; empty before that.

    A Trainer has no parameter for them: its ``kwargs`` go to the weighting and the architecture.
    """
    return dict(_training)


def keep(params: Any) -> None:
    """Store a script's arguments, replacing earlier ones.

    Args:
        params: The arguments that the script has passed, such as an argparse namespace.
    """
    forget()
    _params.update(getattr(params, "__dict__", {}))


def keep_training(values: dict[str, Any]) -> None:
    """Store the checked values of our training flags in these arguments."""
    _training.update(values)


def forget() -> None:
    """Forget the stored arguments."""
    _params.clear()
    _training.clear()
