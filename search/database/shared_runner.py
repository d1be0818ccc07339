"""Runs that several workers need, each of which is run by one worker."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import Protocol

from libmtl_recon_search.child import Job
from libmtl_recon_search.database.claims import Claim, Claims
from libmtl_recon_search.process import Follow, Interrupted, RunError
from libmtl_recon_search.record import Damaged, read_record
from libmtl_recon_search.result import Result, read_events

from libmtl_recon import ReconError
from libmtl_recon.files import write_atomically

_POLL = 0.5  # seconds between checks of another worker's run
_TURN = 0.05  # seconds between checks whether to stop
# Attributes of a finished run's claim: the bytes of its record, followed by the profile; whether
# its worker ended it early; and the text of a failure, as its own worker reports it.
_RECORD, _EARLY, _PROFILE, _TEXT = "record", "ended_early", "profile", "text"
_HOST = "host"


class AnyRunner(Protocol):
    """The interface of a runner; see :class:`libmtl_recon_search.process.Runner`."""

    def run(self, job: Job, follow: Follow = ...) -> Result:
        """Run a job to its end, or return an existing result."""

    def busy(self, job: Job) -> bool:
        """Return whether another process is running the job."""

    def stop(self) -> None:
        """End all runs in progress."""


class SharedRunner:
    """Runner of jobs that no other worker runs or has run, which waits for the others' runs.

    A run that finished, or was ended early since it was worse than others, is published: its
    record, and the profile of a scoring run. A worker that needs a published run gets both files in
    its own folder. A run that failed after this worker started is not tried again by it, but by
    workers that start later.

    Args:
        runner: The runner of this worker.
        claims: The claims, which assign runs to workers.
        say: A function that is called with warnings, from any thread.
        asked_to_stop: A function that returns whether to end the search; called repeatedly.
    """

    def __init__(
        self,
        runner: AnyRunner,
        claims: Claims,
        say: Callable[[str], None] = lambda _: None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._runner, self._claims, self._say = runner, claims, say
        self._asked_to_stop, self._stopped = asked_to_stop, False
        before = (claim for claim in claims.keys().values() if claim.state == "failed")
        self._failed_before = {claim.number for claim in before}
        self._there: set[str] = set()  # keys whose files are in this worker's folder

    def stop(self) -> None:
        """End all runs in progress here; their callers get :class:`Interrupted`."""
        self._stopped = True
        self._runner.stop()

    def busy(self, job: Job) -> bool:
        """Return whether another worker is running the job, so that :meth:`run` would wait."""
        key = job.events.stem
        claim = None if key in self._there else self._claims.find(key)
        return claim is not None and claim.state == "running"

    def run(self, job: Job, follow: Follow = lambda _: True) -> Result:
        """Run a job to its end, or use the result of this or another worker.

        Args:
            job: The job to run.
            follow: A function that is called with each new partial result; false ends the run. For
                another worker's run that was ended early, it is called at once.

        Raises:
            RunError: The run failed, here or elsewhere.
            MachineError: The run could not write, or the database stays unavailable.
            Interrupted: :meth:`stop` was called.
        """
        if job.start or job.describe:  # takes a moment, and is not published
            return self._runner.run(job, follow)
        key = job.events.stem
        while True:
            if self._stops():
                raise Interrupted
            found = self._result_here(job) if key in self._there else None
            if found is not None:
                return found
            claim = self._claims.find(key)
            if claim is not None and claim.state == "finished":
                return self._taken(job, claim, follow)
            if claim is not None and claim.state == "failed":
                if claim.number not in self._failed_before:
                    raise _failure(claim)
                claim = None
            if claim is None:
                own = self._claims.claim(key)
                result = None if own is None else self._made(job, follow, own)
                if result is not None:
                    return result
                continue
            self._claims.beats.sweep(self._claims.study)
            self._pause(_POLL * random.uniform(0.8, 1.4))

    def _made(self, job: Job, follow: Follow, claim: Claim) -> Result | None:
        """Run a job, and publish it; None if another worker has taken it over."""
        lost = self._claims.beats.lost

        def watched(result: Result) -> bool:
            return not lost(claim.trial_id) and follow(result)

        try:
            result = self._runner.run(job, watched)
            if lost(claim.trial_id):
                self._say_lost(claim)
                return None
            early = "ended early" in result.notes
            record = job.events.read_bytes()
            profile = job.profile.read_bytes() if job.profile and job.profile.exists() else b""
            about = {
                _RECORD: len(record),
                _EARLY: early,
                _PROFILE: bool(profile),
                _HOST: socket.gethostname(),
            }
            if not self._claims.publish(claim, record + profile, **about):
                self._say_lost(claim)
                return None
        except RunError as error:
            about = {_TEXT: str(error), _HOST: socket.gethostname()}
            if not self._claims.fail(claim, error.reason, **about):
                self._say_lost(claim)
                return None
            raise
        except BaseException:
            self._claims.withdraw(claim)
            raise
        self._there.add(job.events.stem)
        return result

    def _taken(self, job: Job, claim: Claim, follow: Follow) -> Result:
        """Write the files of a published run into this worker's folder, and read them."""
        content = self._claims.content(claim)
        record, profile = content[: claim.attrs[_RECORD]], content[claim.attrs[_RECORD] :]
        job.events.parent.mkdir(parents=True, exist_ok=True)
        if job.profile is not None and profile:
            write_atomically(job.profile, profile.decode())
        write_atomically(job.events, record.decode())
        if claim.attrs[_EARLY]:
            return _replayed(job, follow)
        result = self._result_here(job)
        if result is None:
            raise ReconError(
                f"The record of a run that another worker published, {job.events}, cannot be "
                "used: it is damaged, or belongs to another script. Give this search another "
                "`name`."
            )
        self._there.add(job.events.stem)
        return result

    def _result_here(self, job: Job) -> Result | None:
        try:
            return read_record(job.events, job.search)
        except Damaged:
            return None

    def _say_lost(self, claim: Claim) -> None:
        self._say(
            f"The run {claim.key} was taken over by another worker because this one did not "
            "respond, so its result here is discarded."
        )

    def _stops(self) -> bool:
        return self._stopped or self._asked_to_stop()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._stops():
                raise Interrupted
            time.sleep(_TURN)


def profile_of(claims: Claims) -> str | None:
    """Return the profile that a scoring run has published; None if there is none."""
    for claim in claims.keys().values():
        if claim.state == "finished" and claim.attrs.get(_PROFILE):
            return claims.content(claim)[claim.attrs[_RECORD] :].decode()
    return None


def _replayed(job: Job, follow: Follow) -> Result:
    """Report a run that another worker ended early as if it were run here."""
    result = Result()
    for event, _ in read_events(job.events, 0):
        result.add(event)
        follow(result)
    result.notes["ended early"] = True
    return result


def _failure(claim: Claim) -> RunError:
    host = claim.attrs.get(_HOST, "another machine")
    return RunError(f"{claim.attrs[_TEXT]} (on {host})", claim.attrs["reason"])
