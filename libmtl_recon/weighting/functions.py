"""The function of the Gramian that a weighting is or has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libmtl_recon.errors import UsageError


def weight_function(
    parameter: str, weighting: Any, refused: tuple[type, ...] = ()
) -> Callable[..., Any]:
    """Return the method ``weights`` of an object, or the callable itself.

    Args:
        parameter: How the error message names the weighting.
        weighting: A function of the Gramian, or an object with a method ``weights``.
        refused: Kinds of callables that are not functions of the Gramian.

    Raises:
        UsageError: It is neither, or it is a class or of a refused kind.
    """
    method = getattr(weighting, "weights", None)
    found = method if callable(method) else weighting
    if isinstance(weighting, (type, *refused)) or not callable(found):
        raise UsageError(
            parameter,
            "must be a function of the Gramian, or an object with a method `weights`",
            weighting,
            "Pass one of libmtl_recon.weighting, such as upgrad_weights or GradVac().",
        )
    return found  # type: ignore[no-any-return]
