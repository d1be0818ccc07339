"""The Optuna study of a search of several workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.lasting import TOKEN, LastingStorage, new_token
from libmtl_recon_search.study_store import StudyStore, open_study
from libmtl_recon_search.trouble import GOES_ON, first_line
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ReconError


class SharedStudy(StudyStore):
    """The study of one search in a database, for all its workers.

    Args:
        storage: The database, which the caller that opened it closes.
        name: The name of the study.
        directions: The directions of the objectives: ``maximize`` or ``minimize``.
        beats: The heartbeats of this worker's trials.
        say: A function that is called with warnings.

    Raises:
        ReconError: There is a study of this name with other objectives.
    """

    shared = True

    def __init__(
        self,
        storage: LastingStorage,
        name: str,
        directions: Sequence[str],
        beats: Beats,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(say)
        self._storage, self._name, self._beats = storage, name, beats
        self._where = f"the study {name!r} in {storage.address.shown}"
        self.study = open_study(storage, name, directions)
        found = self._found_directions
        if found != list(directions):
            raise ReconError(
                f"T{self._where[1:]} has other objectives ({', '.join(found)}) than this search "
                f"({', '.join(directions)}). Give this search another `name`, or another "
                "database."
            )
        self._study_id = storage.get_study_id_from_name(name)

    def add(self, trial: FrozenTrial) -> int:
        """Add a trial, with heartbeats from now on if it is running, and return its number.

        Raises:
            ReconError: Another program uses a parameter name of the trial with a different space.
        """
        trial.user_attrs = {**trial.user_attrs, TOKEN: new_token()}
        number = super().add(trial)
        if trial.state == TrialState.RUNNING:
            self._beats.hold(self._trial(number))
        return number

    def begin(self, waiting: FrozenTrial, chosen: FrozenTrial) -> bool:
        """Turn a waiting trial into a running one, with heartbeats from now on.

        Returns:
            False if another worker or program was faster.
        """
        trial_id = self._trial(waiting.number)
        # The token identifies a trial of the search whose worker dies before its first heartbeat.
        self._storage.set_trial_user_attr(trial_id, TOKEN, new_token())
        # First: if two workers wrote their parameters before this, one would train a mixture.
        if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return False
        self._beats.hold(trial_id)
        self._write(trial_id, waiting, chosen)
        return True

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial, with one value per objective if it is complete."""
        self._beats.release(self._trial(number))
        super().tell(number, state, values)

    def renew(self, why: str, keep: Sequence[FrozenTrial]) -> None:
        """Refuse: a study that other workers use cannot be renamed.

        Raises:
            ReconError: Always.
        """
        raise ReconError(
            f"T{self._where[1:]} {why}. Other workers may be using it, so it is not changed: "
            "give this search another `name`, or another database."
        )

    def lost(self, number: int) -> bool:
        """Return whether another worker has ended a running trial of this one as stale."""
        return self._beats.lost(self._trial(number))

    def sweep(self) -> None:
        """Fail the running trials of workers that are gone."""
        self._beats.sweep(self.study)

    def close(self) -> None:
        """Leave the study to other workers; the caller that opened the database closes it."""

    def _cannot_be_together(self, error: ValueError) -> ReconError:
        return ReconError(
            f"Another program has added trials to {self._where} that are incompatible with those "
            f"of this search: {first_line(error)}. Give this search another `name`, or another "
            f"database. {GOES_ON}"
        )
