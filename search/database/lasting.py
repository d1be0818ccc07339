"""A storage that survives outages of its database."""

from __future__ import annotations

import functools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.words import StorageError, driver_errors, trouble_of
from libmtl_recon_search.process import Interrupted
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

PATIENCE = 600.0  # seconds for which a database may be unavailable
TOKEN = "token"
"""The attribute by which a trial of ours is known, the same in all attempts to add it."""


def new_token() -> str:
    """Return a unique token."""
    return uuid.uuid4().hex


_TURN = 0.05  # seconds between checks whether to stop
_LONGEST = 5.0  # seconds between attempts
# Methods of the storage, and those that Optuna's cache calls.
_READING = (
    "get_all_studies", "get_all_trials", "get_best_trial", "get_study_directions",
    "get_study_id_from_name", "get_study_name_from_id", "get_study_system_attrs",
    "get_study_user_attrs", "get_trial", "get_trial_id_from_study_id_trial_number",
    "get_trial_param", "get_trial_system_attrs", "get_trial_user_attrs", "_get_trials",
    "_get_best_trial_id", "_get_stale_trial_ids",
)  # fmt: skip
# Methods that may be repeated.
_WRITING = (
    "record_heartbeat", "set_study_system_attr", "set_study_user_attr", "set_trial_param",
    "set_trial_intermediate_value", "set_trial_system_attr", "set_trial_user_attr",
    "_set_trial_param",
)  # fmt: skip


class Outage:
    """The handling of outages: wait until a database is available again.

    Args:
        address: The database.
        say: A function that is called once at the start and once at the end of an outage.
        stopped: A function that returns whether to stop; called repeatedly.
        patience: Seconds after which waiting ends with an error.

    Attributes:
        last: The time of the last outage, in seconds of :func:`time.monotonic`; None if there was
            none.
        count: The number of failed attempts.
    """

    def __init__(
        self,
        address: Address,
        say: Callable[[str], None],
        stopped: Callable[[], bool],
        patience: float = PATIENCE,
    ) -> None:
        self._address, self._say, self._stopped, self._patience = address, say, stopped, patience
        self._lock = threading.Lock()
        self._said = False
        self.last: float | None = None
        self.count = 0

    def survive(self, operation: Callable[[], T]) -> T:
        """Return the result of an operation, retried while the database is unavailable.

        Raises:
            StorageError: It stays unavailable, or refuses the operation.
            Interrupted: The search was asked to stop.
        """
        began, attempt = time.monotonic(), 0
        errors: tuple[type[Exception], ...]
        errors = (SQLAlchemyError, StorageInternalError, *driver_errors(self._address))
        while True:
            try:
                found = operation()
            except errors as error:
                trouble = trouble_of(error, self._address)
                # The driver's message may contain the whole URL, so it is not part of the chain.
                if trouble is None or not trouble.passing:
                    raise StorageError(trouble.text if trouble else str(error)) from None
                if time.monotonic() - began > self._patience:
                    raise StorageError(trouble.text) from None
                self._away(trouble.text)
            else:
                if attempt:
                    self._back()
                return found
            self._pause(min(_LONGEST, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))
            attempt += 1

    def _away(self, text: str) -> None:
        with self._lock:
            self.last, self.count = time.monotonic(), self.count + 1
            said, self._said = self._said, True
        if not said:
            limit = f"{self._patience / 60:g} minutes"
            self._say(f"{text.split(' Check that ')[0]} Waiting for it, for up to {limit}.")

    def _back(self) -> None:
        with self._lock:
            self.last = time.monotonic()
            said, self._said = self._said, False
        if said:
            self._say("The database is available again.")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._stopped():
                raise Interrupted
            time.sleep(_TURN)


class LastingStorage(RDBStorage):
    """Optuna's storage in a database that may be temporarily unavailable.

    Args:
        address: The database.
        outage: The handling of outages.
        engine_kwargs: The arguments of SQLAlchemy's engine.
        **kwargs: The arguments of Optuna's storage.
    """

    def __init__(
        self, address: Address, outage: Outage, engine_kwargs: dict[str, Any], **kwargs: Any
    ) -> None:
        self.address, self.outage = address, outage
        self._ready = False
        self._thread = threading.local()
        try:
            super().__init__(address.url, engine_kwargs, **kwargs)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()  # otherwise its connections would stay open
            raise
        self._ready = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.shown!r})"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Mark, inside the ``with`` block, that this thread does not write to the database."""
        before, self._thread.reads = self.reads, True
        try:
            yield
        finally:
            self._thread.reads = before

    @property
    def reads(self) -> bool:
        """Whether this thread is only reading."""
        return getattr(self._thread, "reads", False)

    def survive_outages(self) -> None:
        """From now on, wait for the database whenever a connection is opened."""

        def connect(dialect: Any, record: Any, cargs: Any, cparams: Any) -> Any:
            return self.outage.survive(lambda: dialect.connect(*cargs, **cparams))

        event.listen(self.engine, "do_connect", connect)
        self.engine.dispose()  # existing connections do not wait

    def lasting(self, operation: Callable[[], T]) -> T:
        """Return the result of an operation that may be repeated.

        Raises:
            StorageError: The database stays unavailable, or refuses the operation.
        """
        return self.outage.survive(operation) if self._ready else operation()

    def close(self) -> None:
        """Close all connections."""
        self.remove_session()
        self.engine.dispose()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:  # noqa: D102
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return super(LastingStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # An earlier attempt may have succeeded without an answer.
                if attempts > 1 and self.get_trial(trial_id).state == state:
                    return True
                raise

        return self.lasting(attempt)

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        failed = self.outage.count
        whole = super()._create_new_trial
        trial = self.lasting(lambda: whole(study_id, template_trial))
        token = trial.user_attrs.get(TOKEN)
        if token is None or failed == self.outage.count:
            return trial
        # An earlier attempt may have succeeded without an answer: the first one counts.
        first, *more = [
            one
            for one in self.get_all_trials(study_id, deepcopy=False)
            if one.user_attrs.get(TOKEN) == token and one.state != TrialState.FAIL
        ]
        for twin in more:
            if not twin.state.is_finished():
                self.set_trial_state_values(twin._trial_id, TrialState.FAIL)
        return first


def _again(name: str, *, reads: bool) -> Callable[..., Any]:
    whole = getattr(RDBStorage, name)

    @functools.wraps(whole)
    def method(self: LastingStorage, *args: Any, **kwargs: Any) -> Any:
        with self.reading() if reads else nullcontext():
            return self.lasting(lambda: whole(self, *args, **kwargs))

    return method


for _name in _READING:
    setattr(LastingStorage, _name, _again(_name, reads=True))
for _name in _WRITING:
    setattr(LastingStorage, _name, _again(_name, reads=False))
