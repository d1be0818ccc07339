"""Wrappers around members of LibMTL, which consist of ordered, named hooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

_MARK = "_libmtl_recon_hooks"


@dataclass
class Call:
    """One call of a wrapped member, which the hooks before and after it receive.

    Attributes:
        owner: The object whose member is called (a Trainer, a meter, a model).
        arguments: The call's arguments by the parameters' names, including ``self``. A hook before
            LibMTL's own code may replace values.
        result: The result of LibMTL's own code, once it has run. A hook after it may replace it.
    """

    owner: Any
    arguments: dict[str, Any]
    result: Any = None


@dataclass(frozen=True)
class Hook:
    """One function that runs at one place of a wrapper.

    Attributes:
        name: Identifies the hook in the wrapper's order; unique within a row.
        function: For a hook before or after LibMTL's own code ``function(call)``, with a
            :class:`Call`. For one around it ``function(proceed, owner, ...)`` with the member's own
            parameters, where each call of ``proceed(owner, ...)`` runs the next hook or, after the
            last, LibMTL's own code.
        why: Its purpose, or the reason for its place among the others.
        ahead_of: Hooks of the same kind and row that must come later.
        patch: The patch that it belongs to, without which it is left out; None if it always runs.
    """

    name: str
    function: Callable[..., Any]
    why: str
    ahead_of: tuple[str, ...] = ()
    patch: str | None = None


@dataclass(frozen=True)
class Row:
    """All hooks of one member of LibMTL, in the order in which they run.

    Attributes:
        member: Its dotted name within LibMTL.
        before: The hooks that run first, in this order.
        around: The hooks that are entered next, in this order.
        after: The hooks that run when LibMTL's own code has returned, in this order; they do not
            run if that code or an earlier hook has raised an error.

    Raises:
        ValueError: A hook comes after one that it must be ahead of, or two have the same name.
    """

    member: str
    before: tuple[Hook, ...] = ()
    around: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        names = [hook.name for hook in self.hooks]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.member} has two hooks of one name: {', '.join(names)}.")
        for hooks in (self.before, self.around, self.after):
            seen: set[str] = set()
            for hook in hooks:
                late = seen.intersection(hook.ahead_of)
                if late:
                    raise ValueError(
                        f"{self.member}: the hook {hook.name} must come before "
                        f"{', '.join(sorted(late))}. {hook.why}"
                    )
                seen.add(hook.name)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Return all hooks, in the order in which they begin."""
        return (*self.before, *self.around, *self.after)

    def in_force(self, patches: Collection[str]) -> Row:
        """Return the row with only the hooks of these patches and those that belong to none."""
        kinds = [
            tuple(hook for hook in hooks if hook.patch is None or hook.patch in patches)
            for hooks in (self.before, self.around, self.after)
        ]
        return Row(self.member, *kinds)


def wrap(original: Callable[..., Any], row: Row) -> Callable[..., Any]:
    """Return a function that runs the row's hooks around LibMTL's own code.

    Its name, docstring and signature are the original's, which is its ``__wrapped__``.

    Args:
        original: LibMTL's own member.
        row: The hooks.
    """
    before = tuple(hook.function for hook in row.before)
    after = tuple(hook.function for hook in row.after)
    run = original
    for hook in reversed(row.around):
        run = functools.partial(hook.function, run)
    if not before and not after:  # called in every step: nothing is bound

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return run(*args, **kwargs)

    else:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                # That message does not name the function.
                raise TypeError(f"{error} (of {original.__qualname__})") from None
            call = Call(args[0] if args else None, bound.arguments)
            for function in before:
                function(call)
            call.result = run(*bound.args, **bound.kwargs)
            for function in after:
                function(call)
            return call.result

    vars(wrapper)[_MARK] = tuple(hook.name for hook in row.hooks)
    return wrapper


def wrap_member(owner: Any, row: Row) -> None:
    """Replace a member of a class or module by the row's wrapper, once.

    A member that a class inherits is looked up again in each call, as Python does it.
    """
    name = row.member.rpartition(".")[2]
    original = getattr(owner, name)
    if not row.hooks or hook_names(vars(owner).get(name)):
        return
    if name not in vars(owner):

        @functools.wraps(original)
        def inherited(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(super(owner, self), name)(*args, **kwargs)

        setattr(owner, name, wrap(inherited, row))
    else:
        setattr(owner, name, wrap(original, row))


def hook_names(function: Any) -> tuple[str, ...]:
    """Return the names of the hooks in a wrapper, in order; none for any other function."""
    names: tuple[str, ...] = getattr(function, _MARK, ())
    return names
