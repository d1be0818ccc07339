"""One wrapper around a member of LibMTL's, made of ordered, named hooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

_MARK = "_libmtl_recon_hooks"


@dataclass
class Call:
    """One call of a wrapped member, as the hooks before and after it see it.

    Attributes:
        owner: The object whose member is called (a Trainer, a meter, a model).
        arguments: What was given, by the parameters' names, ``self`` among them. A hook before
            LibMTL's own code may put other values in.
        result: What LibMTL's own code returned, once it has. A hook after it may put another in.
    """

    owner: Any
    arguments: dict[str, Any]
    result: Any = None


@dataclass(frozen=True)
class Hook:
    """What is done at one place of a wrapper.

    Attributes:
        name: By which the wrapper's order is told; no two of one row have the same.
        function: For a hook before or after LibMTL's own code ``function(call)``, with a
            :class:`Call`. For one around it ``function(proceed, owner, ...)`` with the member's own
            parameters: ``proceed(owner, ...)`` goes on to the next hook, at last to LibMTL's own
            code, as often as it is called.
        why: What it is for and, where that matters, why it stands where it does.
        ahead_of: Hooks of the same kind and row that must come later.
        patch: The patch that it belongs to, without which it is left out; None if it always holds.
    """

    name: str
    function: Callable[..., Any]
    why: str
    ahead_of: tuple[str, ...] = ()
    patch: str | None = None


@dataclass(frozen=True)
class Row:
    """All that is done at one member of LibMTL's, in the order in which it happens.

    Attributes:
        member: Its dotted name within LibMTL.
        before: Done first, from the first to the last.
        around: Entered next, from the first to the last.
        after: Done once LibMTL's own code has returned, from the first to the last; not if it, or
            a hook before, has raised.

    Raises:
        ValueError: A hook stands after one that it must be ahead of, or two have one name.
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
                        f"{self.member}: the hook {hook.name} must stand before "
                        f"{', '.join(sorted(late))}. {hook.why}"
                    )
                seen.add(hook.name)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All of them, in the order in which they begin."""
        return (*self.before, *self.around, *self.after)

    def in_force(self, patches: Collection[str]) -> Row:
        """The row with the hooks of these patches only, and those that belong to none."""
        kinds = [
            tuple(hook for hook in hooks if hook.patch is None or hook.patch in patches)
            for hooks in (self.before, self.around, self.after)
        ]
        return Row(self.member, *kinds)


def wrap(original: Callable[..., Any], row: Row) -> Callable[..., Any]:
    """A function that does what the row says, around LibMTL's own.

    Its name, text and signature are the original's, which is its ``__wrapped__``.

    Args:
        original: LibMTL's own.
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
                # As Python itself says it, which names the function.
                raise TypeError(f"{original.__qualname__}() {error}") from None
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
    """Put the row's wrapper in the place of a class's or a module's member, once.

    One that a class inherits is looked up anew in each call, as Python does it.
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
    """The names of the hooks in a wrapper, in their order; none of any other function."""
    names: tuple[str, ...] = getattr(function, _MARK, ())
    return names
