"""The search space, and Optuna's choices from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from libmtl_recon_search.config import Config
from libmtl_recon_search.flags import FlagSpace, flag_space, spell
from libmtl_recon_search.plan import MEASURED, Flags, Plan
from libmtl_recon_search.ranges import Range
from libmtl_recon_search.suggesting import label, suggest

from libmtl_recon import ConflictProfile, Layer, select_layers

_MOST_CORNERS = 16  # starts of the script to check that its parser accepts the values
_MOST_LISTED = 5_000  # the largest number of plans of a space that is listed
_ALPHA_FIRST, _S_FIRST = 0.0, -0.1  # typical values, used in the first trials


@dataclass(frozen=True)
class Network:
    """The known facts about the network whose layers may be split.

    Attributes:
        layers: Its shared layers, in network order.
        profile: Its conflict profile; None if no scores are used.
        file: The profile's file.
    """

    layers: tuple[Layer, ...] = ()
    profile: ConflictProfile | None = None
    file: str = ""


class SearchSpace:
    """The space of one search.

    The name of a parameter is that of its key in the configuration: ``weighting``, ``alpha``,
    ``k``, ``select``, ``s``; ``flags.lr`` for a flag, and ``RotoGrad.rotograd_lr`` for a flag of
    one weighting.

    Args:
        config: The configuration.
        several: The script's flags that accept several values; a list is one value of these.

    Attributes:
        network: The network whose layers are split; set once it is known.
    """

    def __init__(self, config: Config, several: Collection[str] | None = ()) -> None:
        self._config, self._space = config, config.space
        self.network = Network()
        self.flags = flag_space(config.flags, several)
        self.own = {
            name: flag_space(flags, several, where=f"space.flags.{name}")
            for name, flags in config.space.flags.items()
        }
        self._every: dict[object, dict[str, Any]] | None = None
        self._chosen: dict[tuple[str, float | None, int], tuple[str, ...]] = {}

    def of(self, weighting: str) -> FlagSpace:
        """Return the flags of one weighting only."""
        return self.own.get(weighting, FlagSpace({}, {}))

    def fixed(self, weighting: str | None = None) -> dict[str, Any]:
        """Return the fixed flags of all runs, or of all runs of one weighting."""
        return {**self.flags.fixed, **(self.of(weighting).fixed if weighting else {})}

    def defaults(self, weighting: str | None = None) -> Flags:
        """Return the values of the searched flags for runs that are not tuned."""
        found = _searched(self.flags)
        if weighting is not None:
            found |= _searched(self.of(weighting))
        return _frozen(found)

    def line(
        self, plan: Plan, *more: Mapping[str, Any], seed: int, own: bool = True
    ) -> tuple[str, ...]:
        """Return the script's command line for a plan.

        Args:
            plan: The plan.
            *more: Further flags; later ones replace earlier ones.
            seed: The seed.
            own: Whether to include the flags of its weighting.
        """
        flags = {**self.fixed(plan.weighting if own else None), **dict(plan.flags)}
        for other in more:
            flags |= other
        return (
            *self._config.arguments,
            *spell({name: _thawed(value) for name, value in flags.items()}),
            *plan.arguments(self.network.file),
            *("--seed", str(seed)),
        )

    def untuned(self, weighting: str) -> Plan:
        """Return the plan of a weighting with plain sharing and the flags' defaults."""
        return Plan(weighting, flags=self.defaults(weighting))

    @property
    def searches_flags(self) -> bool:
        """Return whether any flag is searched."""
        return bool(self.flags.searched or any(own.searched for own in self.own.values()))

    def suggest(self, trial: optuna.trial.BaseTrial) -> Plan:
        """Let Optuna choose a plan."""
        plan = self.draw(trial)
        if not plan.K:
            return plan
        return replace(plan, layers=self._layers(plan.select, plan.S, plan.K))

    def draw(self, trial: optuna.trial.BaseTrial) -> Plan:
        """Let Optuna choose the values of a plan whose layers are not known yet."""
        space = self._space
        weighting = trial.suggest_categorical("weighting", space.weighting)
        alpha = None
        if weighting == "GradOPS":
            alpha = float(suggest(trial, "alpha", space.alpha))
        plan = self._split(trial, Plan(weighting, alpha))
        return replace(plan, flags=self.suggest_flags(trial, weighting))

    def suggest_flags(self, trial: optuna.trial.BaseTrial, weighting: str | None) -> Flags:
        """Let Optuna choose the flags that are searched.

        Args:
            trial: The trial.
            weighting: The weighting whose own flags are chosen as well; None for a single task.
        """
        found = {
            name: suggest(trial, f"flags.{name}", among)
            for name, among in self.flags.searched.items()
        }
        if weighting is not None:
            for name, among in self.of(weighting).searched.items():
                found[name] = suggest(trial, f"{weighting}.{name}", among)
        return _frozen(found)

    def corners(self, weighting: str) -> list[Flags]:
        """Return settings of the searched flags with all listed values and the ends of ranges.

        Together they contain every value of each list.
        """
        among = {**self.flags.searched, **self.of(weighting).searched}
        values = {
            name: [one.low, one.high] if isinstance(one, Range) else list(one)
            for name, one in among.items()
        }
        most = min(max(map(len, values.values()), default=0), _MOST_CORNERS)
        return [
            _frozen({name: own[min(at, len(own) - 1)] for name, own in values.items()})
            for at in range(most)
        ]

    def settings(self, weighting: str | None, count: int) -> list[Flags]:
        """Return different values of the searched flags for tuning a baseline; the defaults first.

        They are drawn with the search's seed, equal for every baseline, and in every process.

        Args:
            weighting: The weighting whose own flags are tuned as well; None for a single task.
            count: The largest number of settings.
        """
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self._config.seed))
        found = {self.defaults(weighting): None}
        for _ in range(10 * count):
            if len(found) == count:
                break
            found[self.suggest_flags(study.ask(), weighting)] = None
        return list(found)

    def anchors(self) -> list[dict[str, Any]]:
        """Return the first trials: each weighting with and without a split, at typical values."""
        space = self._space
        found: list[dict[str, Any]] = []
        for weighting in space.weighting:
            for K in self._first_counts():
                values: dict[str, Any] = {"weighting": weighting}
                if weighting == "GradOPS":
                    values["alpha"] = _nearest(space.alpha, _ALPHA_FIRST)
                if K is not None:
                    values["k"] = K
                if K:
                    select = space.select[len(found) // 2 % len(space.select)]
                    values["select"] = select
                    if select in MEASURED:
                        values["s"] = _nearest(space.s, _S_FIRST)
                for name, among in self.flags.searched.items():
                    values[f"flags.{name}"] = label(self.flags.defaults()[name], among)
                own = self.of(weighting)
                for name, among in own.searched.items():
                    values[f"{weighting}.{name}"] = label(own.defaults()[name], among)
                found.append(values)
        return found

    def every(self) -> dict[object, dict[str, Any]] | None:
        """Return all plans of the space by key, as values of an Optuna trial.

        Returns:
            The values; None if there are too many plans to list.
        """
        if self._every is None:
            self._every = self._listed()
        return self._every or None

    def _listed(self) -> dict[object, dict[str, Any]]:
        found: dict[object, dict[str, Any]] = {}
        open_: list[dict[str, Any]] = [{}]
        looked = 0
        while open_:
            values = open_.pop()
            looked += 1
            if looked > _MOST_LISTED:
                return {}
            try:
                plan = self.suggest(_Listing(values))
            except _AskedError as asked:
                if asked.among is None or len(asked.among) > _MOST_LISTED:
                    return {}
                open_ += [{**values, asked.name: one} for one in reversed(asked.among)]
            else:
                found.setdefault(plan.key, values)
        return found

    def _first_counts(self) -> list[int | None]:
        if self._space.k is None:
            return [None]
        counts = self._space.ks
        # For an even number, the larger of the two in the middle.
        return list(dict.fromkeys((counts[len(counts) // 2], counts[0])))

    def _split(self, trial: optuna.trial.BaseTrial, plan: Plan) -> Plan:
        space = self._space
        if space.k is None:
            return plan
        K = int(suggest(trial, "k", space.k))
        if K == 0:
            return plan
        select = space.select[0]
        if len(space.select) > 1:
            select = trial.suggest_categorical("select", space.select)
        S = float(suggest(trial, "s", space.s)) if select in MEASURED else None
        return replace(plan, S=S, select=select, K=K, seed=self._config.seed)

    def _layers(self, select: str, S: float | None, K: int) -> tuple[str, ...]:
        known = select, S, K
        if known not in self._chosen:
            if select == "conflict":
                assert self.network.profile is not None  # scored, if this is possible
                assert S is not None
                found = tuple(self.network.profile.layers(S, K))
            else:
                source = self.network.file if select in MEASURED else None
                found = select_layers(
                    self.network.layers,
                    K,
                    0.0 if S is None else S,
                    source,
                    select=select,
                    seed=self._config.seed,
                ).names
            self._chosen[known] = found
        return self._chosen[known]


def _nearest(among: Sequence[float] | Range, value: float) -> float:
    if isinstance(among, Range):
        if among.values is None:
            return min(max(value, among.low), among.high)
        among = among.values
    return min(among, key=lambda candidate: abs(candidate - value))


def _searched(flags: FlagSpace) -> dict[str, Any]:
    defaults = flags.defaults()
    return {name: defaults[name] for name in flags.searched}


class _AskedError(Exception):
    """A value was requested that is not known yet."""

    def __init__(self, name: str, among: Sequence[Any] | None) -> None:
        super().__init__(name)
        self.name, self.among = name, among


class _Listing(optuna.trial.FixedTrial):
    """A trial with some values, which raises an error for any other."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._values = values

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._known(name, choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        found: int = self._known(name, range(low, high + 1, step))
        return found

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        count = 0 if step is None else round((high - low) / step)
        found: float = self._known(
            name, None if step is None else [low + at * step for at in range(count + 1)]
        )
        return found

    def _known(self, name: str, among: Sequence[Any] | None) -> Any:
        if name not in self._values:
            raise _AskedError(name, among)
        return self._values[name]


def _thawed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(flags: Mapping[str, Any]) -> Flags:
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value) for name, value in flags.items()
    )
