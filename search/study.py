"""The Optuna study: choosing plans, training each once, going on after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from libmtl_recon_search.choosing import Chooser
from libmtl_recon_search.config import Config
from libmtl_recon_search.progress import Phase
from libmtl_recon_search.space import Plan
from libmtl_recon_search.storage import StudyFile
from libmtl_recon_search.trials import TrialLine, in_words
from libmtl_recon_search.trouble import MachineError
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ConflictProfile, ReconError

Train = Callable[[Plan, Callable[[int, float], bool]], float]
"""Trains a plan; reports (epoch, Δm) as it goes and ends early when told False; returns Δm."""

# Attributes of trials. Every trial of ours has the first from its beginning.
_PLAN, _SAME_AS, _FAILED, _AGAIN = "plan", "same_as", "failed", "again"
_FAILURES = 3
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_IN_WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "ended early"}


class Pruned(Exception):  # noqa: N818  # no error, but how a training may end
    """The plan's training was ended early, as worse than the others."""


@dataclass(frozen=True)
class _Ending:
    """How a plan's training ended, for every trial that stands for the plan."""

    state: TrialState
    value: float | None = None
    trial: int | str | None = None

    @property
    def values(self) -> list[float] | None:
        return None if self.value is None else [self.value]


class Study:
    """An Optuna study in an SQLite file.

    Trials are added and told from one thread; only the training itself runs in others. Trials that
    another program added are left out.

    Args:
        file: The SQLite file.
        config: The search.
        profile: From which S and K become layers.
        train: Trains a plan; called from several threads at a time.
        epochs: How many epochs a training has.
        identity: A digest of the search, by which its study is known.
        say: Told what is not as it should be.
    """

    def __init__(
        self,
        file: Path,
        config: Config,
        profile: ConflictProfile,
        train: Train,
        epochs: int,
        identity: str = "",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config, self._train, self._say = config, train, say
        self._chooser = Chooser(config, profile, epochs)
        self._file = StudyFile(file, identity, say)
        self._plans: dict[int, Plan | None] = {}  # of trials by number; None for others' trials
        self._endings: dict[object, _Ending] = {}
        # For a plan that is just being trained: by which trial, and the trials that wait for it.
        self._running: dict[object, tuple[int, list[int]]] = {}
        # Trials that an earlier session was at, and trials to be made once more.
        self._left: list[tuple[int | FrozenTrial, Plan]] = []
        self._recover()
        # Why the first trainings failed; None once one went well.
        self._failures: list[str] | None = None if self._worked else []

    def know(self, plan: Plan, value: float) -> None:
        """Take a plan as trained, with this Δm."""
        self._endings[plan.key] = _Ending(TrialState.COMPLETE, value, "a baseline")

    def optimize(self, phase: Phase, stop: Callable[[], None]) -> None:
        """Train plans until there are as many as the configuration asks for.

        Args:
            phase: Told of each trial that ends.
            stop: Ends the runs that are going on; called on Ctrl-C and when trials keep failing.

        Raises:
            ReconError: All trials failed, or all of the first; the last one's reason.
        """
        phase.skip(self.finished)
        left = self._config.trials - self.finished
        running: dict[Future[float], tuple[int, Plan]] = {}
        with ThreadPoolExecutor(self._config.workers) as pool:
            try:
                while left > 0 or running:
                    while left > 0 and len(running) < self._config.workers:
                        chosen = self._next()
                        if chosen is None:
                            left = 0
                            break
                        left -= 1
                        running[pool.submit(self._trained, *chosen)] = chosen
                    # In short turns, so that Ctrl-C is heard on every system.
                    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._conclude(*running.pop(future), future, phase)
            except BaseException:
                stop()
                raise
        for trial, _ in self._left:  # there are enough without them
            if isinstance(trial, int):
                self._file.tell(trial, TrialState.FAIL)
        reasons = self.failures
        if reasons and not self._worked:
            raise ReconError(f"None of the {len(reasons)} trials went well. {reasons[-1]}")

    def top(self, count: int) -> list[Plan]:
        """The plans with the highest Δm, best first.

        Raises:
            ReconError: No trial was finished.
        """
        finished = [t for t in self._ours() if t.state == TrialState.COMPLETE]
        if not finished:
            raise ReconError("No trial was finished, so there is nothing to report.")
        # Equal values stay in the order of the trials.
        ranked = sorted(finished, key=lambda t: math.inf if t.value is None else -t.value)
        plans: dict[object, Plan] = {}
        for trial in ranked:
            plan = self._plan_of(trial)
            plans.setdefault(plan.key, plan)
        return list(plans.values())[:count]

    def plans(self) -> list[Plan]:
        """All plans that were trained, to their end or not, each once."""
        ended = [trial for trial in self._ours() if trial.state in _ENDED]
        return list({plan.key: plan for plan in map(self._plan_of, ended)}.values())

    def lines(self) -> list[TrialLine]:
        """All trials in words, each plan once; what was made again, or cut off, is left out."""
        again: dict[int | str, list[int]] = {}
        ours = self._ours()
        for trial in ours:
            if not _is_no_repeat(trial):
                again.setdefault(trial.user_attrs[_SAME_AS], []).append(trial.number)
        once_more = {trial.user_attrs.get(_AGAIN) for trial in ours}
        found = [
            TrialLine(None, f"EW, HPS ({name})", None, "", again=tuple(numbers))
            for name, numbers in again.items()
            if isinstance(name, str)
        ]
        for trial in ours:
            failed = trial.user_attrs.get(_FAILED, "")
            cut_off = trial.state not in _ENDED and not failed
            if _is_no_repeat(trial) and trial.number not in once_more and not cut_off:
                ended = "failed" if failed else _IN_WORDS[trial.state]
                value = trial.value if trial.state == TrialState.COMPLETE else None
                repeats = tuple(again.get(trial.number, ()))
                title = self._plan_of(trial).title
                found.append(TrialLine(trial.number, title, value, ended, failed, repeats))
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def finished(self) -> int:
        """How many trials have ended, repeats not counted.

        Failed ones are counted once a training went well; before that, they are made again.
        """
        ended = sum(trial.state in _ENDED for trial in self._ours() if _is_no_repeat(trial))
        return ended and ended + len(self.failures)

    @property
    def failures(self) -> list[str]:
        """Why trials failed, those that were made again not counted."""
        ours = self._ours()
        again = {trial.user_attrs.get(_AGAIN) for trial in ours}
        return [
            trial.user_attrs[_FAILED]
            for trial in ours
            if trial.state == TrialState.FAIL
            and _FAILED in trial.user_attrs
            and _is_no_repeat(trial)
            and trial.number not in again
        ]

    @property
    def _worked(self) -> bool:
        """Whether any training went well."""
        return self.finished > 0

    def _next(self) -> tuple[int, Plan] | None:
        """A trial whose plan was never trained; None if Optuna keeps repeating itself."""
        # A repeat costs nothing and does not count; but a space that is used up must end.
        repeats: list[int] = []
        for _ in range(10 * self._config.trials):
            trial, plan = self._left.pop(0) if self._left else self._asked_for() or self._chosen()
            number, repeats_another = self._enter(trial, plan)
            if not repeats_another:
                self._say_repeats(repeats)
                return number, plan
            repeats.append(number)
        self._say_repeats(repeats)
        self._say(
            f"Optuna has found nothing in the space that was not trained already, so the search "
            f"ends with fewer than its {self._config.trials} trials."
        )
        return None

    def _say_repeats(self, numbers: list[int]) -> None:
        if numbers:
            those = "trial" if len(numbers) == 1 else "trials"
            self._say(
                f"{those} {in_words(numbers)}: chose what was trained already, or is just being "
                "trained; not counted"
            )

    def _asked_for(self) -> tuple[int, Plan] | None:
        """A trial that somebody put into the queue, if its values are of this space."""
        for trial in self._file.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            found = self._chooser.complete(fixed, self._ours())
            if found is None:
                self._say(
                    f"Trial {trial.number}, which another program put into the queue, is left out: "
                    f"its values ({fixed}) are not of this search's space."
                )
                self._file.tell(trial.number, TrialState.FAIL)
                self._plans[trial.number] = None
            elif self._file.begin(trial, found[0]):
                self._plans[trial.number] = found[1]
                return trial.number, found[1]
        return None

    def _chosen(self) -> tuple[FrozenTrial, Plan]:
        ours = self._ours()
        place = sum(
            _AGAIN not in trial.user_attrs and "fixed_params" not in trial.system_attrs
            for trial in ours
        )
        return self._chooser.choose(ours, place)

    def _enter(self, trial: int | FrozenTrial, plan: Plan) -> tuple[int, bool]:
        """Have a plan trained by a trial, a new one or one that is there.

        Returns:
            The trial's number, and whether it only repeats another.
        """
        ending, running = self._endings.get(plan.key), self._running.get(plan.key)
        first = ending.trial if ending is not None else running and running[0]
        if isinstance(trial, int):
            number = trial
            if first is not None:
                self._file.note(number, _SAME_AS, first)
        else:
            same = {} if first is None else {_SAME_AS: first}
            trial.user_attrs = {**trial.user_attrs, **same}
            if ending is not None:
                trial.state, trial.value = ending.state, ending.value
                trial.datetime_complete = trial.datetime_start
            number = self._file.add(trial)
            self._plans[number] = plan
        if ending is not None:
            if isinstance(trial, int):
                self._file.tell(number, ending.state, ending.values)
            return number, True
        if running is not None:
            running[1].append(number)
            return number, True
        self._running[plan.key] = number, []
        return number, False

    def _trained(self, number: int, plan: Plan) -> float:
        reached: dict[int, float] = {}

        def report(epoch: int, improvement: float) -> bool:
            self._file.report(number, improvement, epoch)
            reached[epoch] = improvement
            trials = self._file.study.get_trials(deepcopy=False)
            ours = [trial for trial in trials if self._plans.get(trial.number) is not None]
            return not self._chooser.gives_up(ours, reached)

        return self._train(plan, report)

    def _conclude(self, number: int, plan: Plan, future: Future[float], phase: Phase) -> None:
        """Tell Optuna, and the user, how a training ended."""
        error = future.exception()
        if error is None:
            value = future.result()
            ending, said = _Ending(TrialState.COMPLETE, value), f"Δm {value:+.2f} %"
        elif isinstance(error, Pruned):
            ending, said = _Ending(TrialState.PRUNED), "ended early"
        elif isinstance(error, ReconError) and not isinstance(error, MachineError):
            ending, said = _Ending(TrialState.FAIL), f"failed: {error}"
            self._file.note(number, _FAILED, str(error))
        else:
            raise error
        self._endings[plan.key] = replace(ending, trial=number)
        for other in (number, *self._running.pop(plan.key)[1]):
            self._file.tell(other, ending.state, ending.values)
        phase.done(f"trial {number}: {plan.title}: {said}")
        if not isinstance(error, ReconError):
            self._failures = None
        elif self._failures is not None:
            self._failures.append(getattr(error, "reason", str(error)))
            if len(self._failures) == _FAILURES:
                same = ", all for the same reason" if len(set(self._failures)) == 1 else ""
                raise ReconError(f"The first {_FAILURES} trials failed{same}. The last: {error}")

    def _ours(self) -> list[FrozenTrial]:
        """The search's own trials; says which others there are."""
        ours, others = [], []
        for trial in self._file.study.get_trials(deepcopy=False):
            if trial.number not in self._plans:
                if trial.state == TrialState.WAITING:
                    continue
                plan = self._chooser.plan(trial.params) if _PLAN in trial.user_attrs else None
                self._plans[trial.number] = plan
                if plan is None:
                    others.append(str(trial.number))
            if self._plans[trial.number] is not None:
                ours.append(trial)
        if others:
            self._say(
                f"The study has trials that were not made by this search, or do not fit it: "
                f"{', '.join(others)}. They are left out, and left as they are."
            )
        return ours

    def _plan_of(self, trial: FrozenTrial) -> Plan:
        plan = self._plans[trial.number]
        assert plan is not None  # of ours
        return plan

    def _recover(self) -> None:
        """Take up what an earlier session left: ended plans, and trials cut off in between."""
        ours = self._without_conflicts(self._ours())
        again = {trial.user_attrs.get(_AGAIN) for trial in ours}
        worked = self._worked
        for trial in ours:
            plan = self._plan_of(trial)
            if trial.state == TrialState.RUNNING:
                # Only we are at work here (the folder is locked): its process is gone.
                if not _is_no_repeat(trial):
                    self._file.note(trial.number, _SAME_AS, None)  # it may be the first now
                self._left.append((trial.number, plan))
            elif trial.state in _ENDED or (_FAILED in trial.user_attrs and worked):
                # Optuna gives a pruned trial the value that it reached; it must not be told one.
                value = trial.value if trial.state == TrialState.COMPLETE else None
                first = trial.user_attrs.get(_SAME_AS)
                first = trial.number if first is None else first
                self._endings[plan.key] = _Ending(trial.state, value, first)
            elif _FAILED in trial.user_attrs and trial.number not in again:
                # Nothing went well so far; perhaps what was in the way is gone.
                attributes = {_PLAN: plan.title, "layers": list(plan.layers), _AGAIN: trial.number}
                once_more = create_trial(
                    state=TrialState.RUNNING,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=attributes,
                )
                self._left.append((once_more, plan))

    def _without_conflicts(self, ours: list[FrozenTrial]) -> list[FrozenTrial]:
        """See that trials of ours can be added at all; the trials, with their new numbers."""
        numbers = {trial.number for trial in ours}
        expected = self._chooser.distributions()
        for trial in self._file.study.get_trials(deepcopy=False):
            for name in expected.keys() & trial.distributions.keys():
                if trial.number not in numbers and _differ(
                    trial.distributions[name], expected[name]
                ):
                    self._file.renew(
                        f"has a trial ({trial.number}) of another program that uses the name "
                        f"{name!r} in another way, so that this search could add none",
                        ours,
                    )
                    self._plans.clear()
                    return self._ours()
        return ours


def _is_no_repeat(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(_SAME_AS) is None


def _differ(one: BaseDistribution, other: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(one, other)
    except ValueError:
        return True
    return False
