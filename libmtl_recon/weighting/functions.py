"""The function of the Gramian that a weighting is or has."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
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
        UsageError: It is neither, it needs other arguments than the Gramian (a method may need the
            losses as well), or it is a class or of a refused kind.
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
    _check_arguments(parameter, weighting, found)
    return found  # type: ignore[no-any-return]


def _check_arguments(parameter: str, weighting: Any, function: Callable[..., Any]) -> None:
    try:
        arguments = list(signature(function).parameters.values())
    except (TypeError, ValueError):  # of a function in C, which does not tell its arguments
        return
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if not any(one.kind in (*by_place, Parameter.VAR_POSITIONAL) for one in arguments):
        rule = "must take the Gramian as its first argument"
        raise UsageError(parameter, rule, weighting, "Give it the argument `gramian`.")
    first = next((one for one in arguments if one.kind in by_place), None)
    open_ended = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    more = [
        one.name
        for one in arguments
        if one is not first
        and one.default is Parameter.empty
        and one.kind not in open_ended
        and not (one.name == "losses" and function is not weighting)
    ]
    if more:
        raise UsageError(
            parameter,
            f"must need the Gramian alone, but also needs {', '.join(more)}",
            weighting,
            "Fix these by functools.partial; where they change from step to step, pass an object "
            "with a method `weights(gramian)` that keeps them, such as GradVac() in the place of "
            "gradvac_weights. A method may also take `losses`.",
        )
