"""Heartbeats of a worker's trials, and the end of trials whose worker is gone."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable

from libmtl_recon_search.database.lasting import TOKEN, LastingStorage
from libmtl_recon_search.process import Interrupted
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import TrialState

from libmtl_recon import ReconError

STARTED = "started"
"""The attribute of a trial with a heartbeat; for Optuna, a trial without one is never stale."""
EVERY, GRACE = 15.0, 120.0

# Without the warning of each call, from several threads, that the function is experimental.
_fail_stale_trials = inspect.unwrap(fail_stale_trials)


class Beats:
    """Heartbeats that tell other workers that this one is working on its trials.

    A worker that was suspended, or had no connection to the database, has missed the heartbeats of
    others. Therefore it does not fail the trials of others for some time afterwards.

    Args:
        storage: The storage of the trials.
        say: A function that is called when a trial was taken away from this worker.
        every: Seconds between heartbeats.
        grace: Seconds without a heartbeat after which a trial's worker counts as gone.
    """

    def __init__(
        self,
        storage: LastingStorage,
        say: Callable[[str], None] = lambda _: None,
        every: float = EVERY,
        grace: float = GRACE,
    ) -> None:
        self.every, self.grace = every, grace
        self._storage, self._say = storage, say
        # As attributes: Optuna's argument warns that it is experimental, and needs whole seconds.
        storage.heartbeat_interval = every  # type: ignore[assignment]
        storage.grace_period = grace  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._lost: set[int] = set()
        # Running trials without a heartbeat, and the time since when they are watched.
        self._watched: dict[int, float] = {}
        self._swept: dict[str, float] = {}
        self._round = _Clock()
        self._calm_since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeats", daemon=True)
        self._thread.start()

    def hold(self, trial_id: int) -> None:
        """Write a trial's first heartbeat, and further ones until it is released."""
        self._storage.record_heartbeat(trial_id)
        try:
            self._storage.set_trial_user_attr(trial_id, STARTED, True)
        except UpdateFinishedTrialError:
            self._lose(trial_id)
            return
        with self._lock:
            self._held.add(trial_id)

    def release(self, trial_id: int) -> None:
        """Stop the heartbeats of a trial."""
        with self._lock:
            self._held.discard(trial_id)

    def lost(self, trial_id: int) -> bool:
        """Return whether another process has ended a trial of this worker."""
        return trial_id in self._lost

    def sweep(self, study: Study) -> None:
        """Fail the trials of a study whose worker is gone; at most once between heartbeats."""
        now = time.monotonic()
        with self._lock:
            asleep = self._round.since() > 2 * self.every
            if asleep or now < self._calm_since + 2 * self.every:
                self._watched.clear()
                return
            away = self._storage.outage.last
            if away is not None and now < away + 2 * self.every:
                self._watched.clear()
                return
            if now < self._swept.get(study.study_name, 0.0) + self.every / 2:
                return
            self._swept[study.study_name] = now
        _fail_stale_trials(study)
        self._fail_unstarted(study, now)

    def close(self) -> None:
        """Stop all heartbeats."""
        self._closed.set()
        self._thread.join(1.0)

    def _fail_unstarted(self, study: Study, now: float) -> None:
        """Fail trials of a worker that died before its first heartbeat.

        Trials of other programs have no token, and perhaps no heartbeats; they are not changed.
        """
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if TOKEN not in trial.user_attrs or STARTED in trial.user_attrs:
                continue
            number = trial._trial_id
            since = self._watched.setdefault(number, now)
            if now - since > self.grace:
                del self._watched[number]
                try:
                    self._storage.set_trial_state_values(number, TrialState.FAIL)
                except UpdateFinishedTrialError:
                    continue  # another worker has done so

    def _go_on(self) -> None:
        while not self._closed.wait(self.every):
            if self._round.since() > 2 * self.every:
                with self._lock:
                    self._calm_since = time.monotonic()
            self._round.start()
            with self._lock:
                held = tuple(self._held)
            try:
                for trial_id in held:
                    self._beat(trial_id)
            except Interrupted:
                return
            except ReconError:
                continue  # the callers of other operations report it

    def _beat(self, trial_id: int) -> None:
        self._storage.record_heartbeat(trial_id)
        if self._storage.get_trial(trial_id).state.is_finished() and trial_id in self._held:
            self._lose(trial_id)

    def _lose(self, trial_id: int) -> None:
        with self._lock:
            self._held.discard(trial_id)
            self._lost.add(trial_id)


class _Clock:
    """A clock that includes the time in which the machine or this process was suspended."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._running, self._of_day = time.monotonic(), time.time()

    def since(self) -> float:
        return max(time.monotonic() - self._running, time.time() - self._of_day)
