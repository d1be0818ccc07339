"""Match layer names with those of a network, with or without wrappers or by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.fingerprint import sizes
from libmtl_recon.conflicts.layers import Layer, layer_name
from libmtl_recon.errors import UsageError
from libmtl_recon.texts import did_you_mean, shorten

NAMES, ORDER = "names", "order"
ORDER_OF = f"{ORDER}:"  # and a file with names
# Modules around a module, wherever they stand in a path: of DataParallel, torch.compile, FSDP and
# activation checkpoints.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_ENCODER = "encoder"  # before everything else
_COPIES = ["m_list", "0"]  # the first of the tasks' copies, in the program of Recon's authors


@dataclass(frozen=True)
class Matching:
    """The pairs of a source's layer names and a network's layer names.

    Attributes:
        pairs: A mapping from the source's names to the network's names, in the source's order.
        missing: The source's names that the network lacks.
        by_order: Whether the names were matched by position.
    """

    pairs: Mapping[str, str]
    missing: tuple[str, ...] = ()
    by_order: bool = False

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """The pairs of different names."""
        return tuple((theirs, ours) for theirs, ours in self.pairs.items() if theirs != ours)

    @property
    def note(self) -> str:
        """A clause about changes of names, to be appended to a line; empty if there are none."""
        found = ""
        if self.by_order:
            found += ", matched with this network's layers by position"
        elif self.renamed:
            theirs, ours = self.renamed[0]
            found += f", whose names were matched without wrappers ({theirs} is {ours})"
        if self.missing:
            word = "layer" if len(self.missing) == 1 else "layers"
            found += (
                f", without {len(self.missing)} {word} that this network lacks "
                f"({shorten(self.missing)})"
            )
        return found


def check_match(parameter: str, match: object) -> None:
    """Check a value of ``match``.

    Raises:
        UsageError: It is not ``names``, ``order`` or ``order:FILE``.
    """
    file = match.removeprefix(ORDER_OF) if isinstance(match, str) else ""
    if match in (NAMES, ORDER) or file not in ("", match):
        return
    raise UsageError(
        parameter,
        "must be names, order or order:FILE",
        match,
        f"{did_you_mean(match, (NAMES, ORDER))}names: the same names, with or without wrappers "
        "such as module. around them; order: the same positions in the network; order:FILE: "
        "the same, where FILE is a JSON list of the source's names in network order.",
    )


def without_wrappers(name: str) -> str:
    """Return a layer's name without the wrappers that programs put around a network.

    Example:
        >>> without_wrappers("module.encoder.layer1.0.bn1.m_list.0")
        'layer1.0.bn1'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if parts[-len(_COPIES) :] == _COPIES:
        del parts[-len(_COPIES) :]
    while parts[:1] == [_ENCODER]:
        del parts[0]
    return layer_name(".".join(parts))


def match_names(names: Sequence[str], layers: Sequence[Layer], title: str) -> Matching:
    """Match names with those of a network, with or without wrappers.

    Args:
        names: The source's names.
        layers: The network's layers.
        title: The name of the source in messages.

    Raises:
        UsageError: A name is given twice, two names match the same layer, or one name matches
            several layers.
    """
    ours = {layer.name for layer in layers}
    bare: dict[str, list[str]] = {}
    for layer in layers:
        bare.setdefault(without_wrappers(layer.name), []).append(layer.name)
    pairs: dict[str, str] = {}
    of: dict[str, str] = {}
    missing = []
    for name in names:
        found = [name] if name in ours else bare.get(without_wrappers(name), [])
        if len(found) > 1:
            raise UsageError(
                "source",
                "must name layers that can be told apart without wrappers",
                name,
                f"In this network it could be {' or '.join(found[:3])}. Write the names in "
                f"{title} as the network has them.",
            )
        for layer_ in found:
            _refuse_twice(name, of.setdefault(layer_, name), layer_, again=name in pairs)
            pairs[name] = layer_
        if not found:
            missing.append(name)
    return Matching(pairs, tuple(missing))


def match_order(
    names: Sequence[str],
    order: Sequence[str],
    layers: Sequence[Layer],
    title: str,
    theirs: Sequence[Layer] | None = None,
) -> Matching:
    """Match names with those of a network by position.

    Args:
        names: The source's names.
        order: The names of all layers of the source's network, in network order.
        layers: The network's layers.
        title: The name of the source in messages.
        theirs: The layers named in ``order``, or None if their types and shapes are not known.

    Raises:
        UsageError: The networks have different numbers of layers, layers at the same position
            have different types or shapes, both networks have the same names in another order, or
            a name is given twice.
    """
    for parameter, given in (("match", order), ("source", names)):
        for twice in (name for name, times in Counter(given).items() if times > 1):
            _refuse_twice(twice, twice, twice, again=True, parameter=parameter)
    ours = [layer.name for layer in layers]
    if len(order) != len(ours):
        raise UsageError(
            "match",
            "can be order only for a network with as many layers, and the source has "
            f"{len(order)} where this network has {len(ours)}",
            ORDER,
            f"If {title} names layers that this network lacks, list the others in network order "
            "in a JSON file, give it as `match` order:FILE, and leave the rest out by "
            "`skip_missing`.",
        )
    bare = [[without_wrappers(name) for name in both] for both in (order, ours)]
    if bare[0] != bare[1] and sorted(bare[0]) == sorted(bare[1]):
        place = next(i for i, (a, b) in enumerate(zip(*bare, strict=True)) if a != b)
        raise UsageError(
            "match",
            "cannot be order for layers of the same names in another order: at position "
            f"{place + 1} is {order[place]} there and {ours[place]} here",
            ORDER,
            "Leave `match` out, to match the layers by their names.",
        )
    for place, (other, own) in enumerate(zip(theirs or (), layers, strict=False), start=1):
        there, here = (f"{layer.type} {sizes(layer)}" for layer in (other, own))
        if there != here:
            raise UsageError(
                "match",
                f"can be order only for layers of the same types and shapes: at position {place} "
                f"is {other.name} there ({there}) and {own.name} here ({here})",
                ORDER,
                "Give the profile of the same network, or one with the same names, whose shapes "
                "may differ.",
            )
    by_place = dict(zip(order, ours, strict=True))
    pairs = {name: by_place[name] for name in names if name in by_place}
    return Matching(pairs, tuple(name for name in names if name not in by_place), by_order=True)


def refuse_missing(
    matching: Matching, names: Sequence[str], layers: Sequence[Layer], title: str, match: str
) -> None:
    """Check that the network, or the file with its names in order, has all names.

    Args:
        matching: The matching of the names.
        names: The source's names.
        layers: The network's layers.
        title: The name of the source in messages.
        match: The value of ``match``.

    Raises:
        UsageError: The network, or the file in ``match``, lacks a name.
    """
    if not matching.missing:
        return
    if matching.by_order:
        file = match.removeprefix(ORDER_OF)
        more = " Or ignore them by `skip_missing`." if matching.pairs else ""
        raise UsageError(
            "source",
            "must name layers that `match` order:FILE lists",
            matching.missing[0],
            f"{file} lacks {len(matching.missing)} of the {len(names)} layers in {title}. Write "
            f"the names in it as {title} has them.{more}",
        )
    way_out = (
        f"{len(matching.missing)} of the {len(names)} layers in {title} do not exist here. "
        + hint(names, {layer.name for layer in layers}, [layer.name for layer in layers])
    )
    if matching.pairs:
        way_out += " Or take the others by `skip_missing`."
    elif len(names) == len(layers):
        way_out += " The same network under other names is matched by `match` order."
    rule = "must name layers of this network"
    raise UsageError("source", rule, matching.missing[0], way_out)


def hint(names: Sequence[str], known: set[str], listed: Sequence[str]) -> str:
    """Suggest a prefix to add to or remove from all names, or else some existing names.

    Args:
        names: The names that were given.
        known: The network's names.
        listed: The network's names in network order.
    """
    longer = [k.removesuffix(names[0]) for k in listed if k.endswith(f".{names[0]}")]
    for prefix in longer:
        if all(prefix + name in known for name in names):
            return f"All of them exist under {prefix!r}: add this prefix to each name."
    parts = names[0].split(".")
    for cut in range(1, len(parts)):
        prefix = ".".join(parts[:cut]) + "."
        if all(n.startswith(prefix) and n.removeprefix(prefix) in known for n in names):
            return f"All of them exist without {prefix!r}: remove this prefix from each name."
    near = did_you_mean(next((name for name in names if name not in known), names[0]), listed)
    return f"{near}The network's layers are {', '.join(listed[:4])}, ..."


def _refuse_twice(
    name: str, other: str, layer: str, *, again: bool, parameter: str = "source"
) -> None:
    if again:
        raise UsageError(parameter, "must name each layer once", name, "Name it once.")
    if other != name:
        raise UsageError(
            "source",
            "must name each layer once",
            name,
            f"Without wrappers, {other} and {name} are one layer, {layer}. Name it once.",
        )
