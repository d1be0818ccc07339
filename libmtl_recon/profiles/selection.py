"""Choose the layers that become task-specific: the K worst or, for comparison, a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from libmtl_recon.conflicts import baselines
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import check_reached, check_split_count
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.profiles.cache import ProfileCache
from libmtl_recon.profiles.fitting import fitted_profile
from libmtl_recon.profiles.given import given_by, of_entry
from libmtl_recon.profiles.layer_names import NAMES, check_match
from libmtl_recon.profiles.sources import Selection, from_cache, from_source
from libmtl_recon.texts import did_you_mean

__all__ = ["Selection", "check_select", "select_layers"]


def select_layers(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str | None = None,
    cache: ProfileCache | None = None,
    command: str = "libmtl-recon score SCRIPT ARGS...",
    *,
    select: str = "conflict",
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    match: str = NAMES,
    skip_missing: bool = False,
) -> Selection:
    """Return the K layers of a network that conflict most, or those of a baseline.

    Args:
        layers: The network's layers.
        K: The number of layers.
        S: The severity. It is used only if the layers come from a profile.
        source: The source of the layers; see
            :func:`~libmtl_recon.profiles.sources.from_source`. By default the newest profile in
            the cache that fits the network or, if none fits, an imported ranking or a built-in
            profile.
        cache: The cache of profiles. By default the user's cache.
        command: The command that creates a profile of this network, for error messages.
        select: One of :data:`~libmtl_recon.conflicts.baselines.SELECTIONS`. Only ``conflict`` and
            ``random_params``, whose number of parameters is that of the K worst, need scores. The
            others leave out layers that fewer than two tasks reach according to the source, if it
            is a profile, or else to the newest profile in the cache that fits; without one, they
            choose from all layers.
        seed: The seed of the random selections.
        tasks: The tasks of this run. If the profile has others, the note lists them; they do not
            change the choice of layers.
        match: The way to match the source's names with the network's: ``names``, ``order`` or
            ``order:FILE``; see :func:`~libmtl_recon.profiles.sources.from_source`.
        skip_missing: Whether to ignore layers of the source that the network lacks.

    Raises:
        UsageError: K leaves no layer shared, or is above the number of layers that two tasks reach;
            S is not a valid severity, the source names a layer that the network lacks or its names
            cannot be matched, or the selection is unknown.
        ReconError: No profile fits this network, the profile in the source belongs to another
            network, or the source cannot be read.
    """
    check_split_count("K", K, len(layers))
    check_select("select", select)
    check_match("match", match)
    cache = cache or ProfileCache()
    if select in _UNMEASURED:
        met, title = _reached(layers, source, cache, match, skip_missing=skip_missing)
        check_reached("K", K, len(met), title)
        names, note = _UNMEASURED[select](met, K, seed)
        if len(met) < len(layers):
            note += f", of the {len(met)} that two tasks reach by {title}"
        elif source is not None:
            note += "; `source` is not used"
        return Selection(names, note)
    if source is None:
        worst = from_cache(layers, K, S, cache, command, tasks)
    else:
        worst = from_source(
            layers, K, S, source, cache, tasks, match=match, skip_missing=skip_missing
        )
    if select == "conflict":
        return worst
    size = {layer.name: layer.parameters for layer in layers}
    wanted = sum(size[name] for name in worst.names)
    met, _ = _reached(layers, source, cache, match, skip_missing=skip_missing)
    names = tuple(baselines.random_parameters(met, wanted, seed))
    if not names:
        raise UsageError(
            "select",
            f"can be random_params only if a layer has at most {wanted:,} parameters, the number "
            f"of the {K} worst together",
            select,
            "Raise `K`.",
        )
    found = sum(size[name] for name in names)
    return Selection(
        names,
        f"layers chosen at random (seed {seed}) with {found:,} parameters, where the {K} worst "
        f"have {wanted:,} ({worst.note})",
        worst.doubt,
        worst.profile,
        worst.places,
    )


def _reached(
    layers: Sequence[Layer],
    source: str | None,
    cache: ProfileCache,
    match: str,
    *,
    skip_missing: bool,
) -> tuple[Sequence[Layer], str]:
    """Return the layers that two tasks reach by a profile, and its title; all without a profile."""
    found = cache.find(layers) if source is None else None
    given = None if found is None else of_entry(found.entry)
    if source is not None:
        try:
            given = given_by(source, cache, layers)
        except ReconError:  # it is not what the layers are chosen by, as the note says
            return layers, ""
    if given is None or given.profile is None:
        return layers, ""
    try:
        profile, _ = fitted_profile(given, layers, match, skip_missing)
    except ReconError:
        return layers, ""
    met = {layer.name for layer in profile.reached}
    unknown = {layer.name for layer in layers} - set(profile.layer_names)
    return [layer for layer in layers if layer.name in met | unknown], given.title


def check_select(parameter: str, select: object) -> None:
    """Check the name of a selection.

    Raises:
        UsageError: No selection has this name.
    """
    if select not in baselines.SELECTIONS:
        known = "; ".join(f"{name}: {what}" for name, what in baselines.SELECTIONS.items())
        raise UsageError(
            parameter,
            f"must be one of {', '.join(baselines.SELECTIONS)}",
            select,
            f"{did_you_mean(select, baselines.SELECTIONS)}{known}.",
        )


_UNMEASURED: dict[str, Callable[[Sequence[Layer], int, int], tuple[tuple[str, ...], str]]] = {
    "random": lambda layers, K, seed: (
        tuple(baselines.random_layers(layers, K, seed)),
        f"{K} layers chosen at random (seed {seed})",
    ),
    "first": lambda layers, K, _: (
        tuple(baselines.first_layers(layers, K)),
        f"the first {K} layers, independently of conflicts",
    ),
    "last": lambda layers, K, _: (
        tuple(baselines.last_layers(layers, K)),
        f"the last {K} layers, independently of conflicts",
    ),
    "norms": lambda layers, K, _: (
        tuple(baselines.norms_first(layers, K)),
        f"{K} layers, normalisation layers first and then in network order, independently of "
        "conflicts",
    ),
}
