"""Claims in a database that assign work to workers, with the outcome of the work."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.lasting import TOKEN, LastingStorage, new_token
from libmtl_recon_search.study_store import open_study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

KEY = "key"
# One attribute has all published data, since each costs a transaction; long data are in chunks.
_OUTCOME, _MORE = "outcome", "content"
_CONTENT, _CHUNKS, _REASON = "content", "chunks", "reason"
_SIZE = 48_000  # characters of a chunk; MySQL's text columns hold 65,535 bytes
_STATES = {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Claim:
    """A worker's claim of the work with a key.

    Attributes:
        number: The number of its trial.
        trial_id: The id of its trial in Optuna's storage.
        key: The key of the work.
        state: ``running``, ``finished`` or ``failed``.
        attrs: The attributes published with it; for a failed one, the ``reason``.
        mine: Whether it belongs to this :class:`Claims`.
        trial: The trial as it was read.
    """

    number: int
    trial_id: int
    key: str
    state: str
    attrs: Mapping[str, Any]
    mine: bool
    trial: FrozenTrial = field(repr=False)


class Claims:
    """Claims of work, in a separate study.

    A claim is a trial that is added as running, with its key, in one transaction. The claim with
    the lowest number of those of a key that have not failed is the owner: numbers only increase and
    a failed claim stays failed, so a worker that finds no such claim below its own owns the key.

    Args:
        storage: The storage.
        study_name: The name of the study.
        beats: The heartbeats of this worker's claims.
    """

    def __init__(self, storage: LastingStorage, study_name: str, beats: Beats) -> None:
        self.storage, self.beats = storage, beats
        self.study = open_study(storage, study_name, ["minimize"])
        self._id = storage.get_study_id_from_name(study_name)
        self._worker = new_token()

    def find(self, key: str) -> Claim | None:
        """Return the claim that owns a key; if none, the last one that failed with a reason."""
        failed = None
        for trial in self._trials():
            if trial.user_attrs.get(KEY) != key:
                continue
            if trial.state != TrialState.FAIL:
                return self._claim(trial)
            if _has_reason(trial):
                failed = trial
        return None if failed is None else self._claim(failed)

    def keys(self) -> dict[str, Claim]:
        """Return the claims by key, as :meth:`find` returns them."""
        found: dict[str, Claim] = {}
        for trial in self._trials():
            key = trial.user_attrs.get(KEY)
            if key is None or (trial.state == TrialState.FAIL and not _has_reason(trial)):
                continue
            if key not in found or found[key].state == "failed":
                found[key] = self._claim(trial)
        return found

    def claim(self, key: str) -> Claim | None:
        """Claim a key; return None if another worker owns it."""
        token = f"{self._worker}-{new_token()}"
        self._add(key, token, TrialState.RUNNING)
        own = owner = None
        for trial in self._trials():
            if trial.user_attrs.get(KEY) != key or trial.state == TrialState.FAIL:
                continue
            owner = owner or trial
            if trial.user_attrs.get(TOKEN) == token:
                own = trial
        if own is None:
            return None  # already failed, since this process was suspended
        if owner is own:
            self.beats.hold(own._trial_id)
            return self._claim(own)
        self._end(own._trial_id, TrialState.FAIL)
        return None

    def post(self, key: str, content: bytes) -> Claim:
        """Publish data without previous work, in one transaction, and return the owner."""
        self._add(key, new_token(), TrialState.COMPLETE, _written(content, {}))
        found = self.find(key)
        assert found is not None
        return found

    def publish(self, claim: Claim, content: bytes, **attrs: Any) -> bool:
        """End a claim of this worker with its outcome.

        Args:
            claim: The claim.
            content: The outcome.
            attrs: Further attributes of the claim.

        Returns:
            False if it was taken away from this worker; then nothing is published.
        """
        written = _written(content, attrs)
        return self._end(claim.trial_id, TrialState.COMPLETE, written, [float(len(content))])

    def fail(self, claim: Claim, reason: str, **attrs: Any) -> bool:
        """End a claim of this worker as failed, with a reason for other workers.

        Returns:
            False if it was taken away from this worker.
        """
        written = {_OUTCOME: {_REASON: reason, **attrs}}
        return self._end(claim.trial_id, TrialState.FAIL, written)

    def withdraw(self, claim: Claim) -> None:
        """Withdraw a claim of this worker, so that others can do the work at once."""
        self._end(claim.trial_id, TrialState.FAIL)

    def content(self, claim: Claim) -> bytes:
        """Return the data published with a finished claim."""
        attrs = claim.trial.user_attrs
        outcome = attrs[_OUTCOME]
        more = (attrs[f"{_MORE}:{place}"] for place in range(1, outcome[_CHUNKS]))
        return zlib.decompress(base64.b64decode("".join((outcome[_CONTENT], *more))))

    def _add(
        self, key: str, token: str, state: TrialState, attrs: Mapping[str, Any] | None = None
    ) -> None:
        value = 0.0 if state == TrialState.COMPLETE else None
        trial = create_trial(
            state=state, value=value, user_attrs={KEY: key, TOKEN: token, **(attrs or {})}
        )
        self.storage.create_new_trial(self._id, trial)

    def _end(
        self,
        trial_id: int,
        state: TrialState,
        attrs: Mapping[str, Any] | None = None,
        values: list[float] | None = None,
    ) -> bool:
        """End a claim; return False if another worker has ended it."""
        try:
            for name, value in (attrs or {}).items():
                self.storage.set_trial_user_attr(trial_id, name, value)
            return self.storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            return False
        finally:
            self.beats.release(trial_id)

    def _trials(self) -> list[FrozenTrial]:
        # By number; Optuna keeps ended trials in memory, and does not read them again.
        return self.study.get_trials(deepcopy=False)

    def _claim(self, trial: FrozenTrial) -> Claim:
        attrs = trial.user_attrs
        return Claim(
            trial.number,
            trial._trial_id,
            attrs[KEY],
            _STATES.get(trial.state, "running"),
            attrs.get(_OUTCOME, {}),
            str(attrs.get(TOKEN)).startswith(self._worker),
            trial,
        )


def _has_reason(trial: FrozenTrial) -> bool:
    # A worker that was killed between publishing and ending may leave an outcome.
    return _REASON in trial.user_attrs.get(_OUTCOME, {})


def _written(content: bytes, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a finished claim's trial; the one that is read first comes last."""
    text = base64.b64encode(zlib.compress(content)).decode("ascii")
    first, *more = [text[start : start + _SIZE] for start in range(0, len(text), _SIZE)]
    outcome = {_CONTENT: first, _CHUNKS: 1 + len(more), **attrs}
    parts: dict[str, Any] = {f"{_MORE}:{place}": part for place, part in enumerate(more, 1)}
    return parts | {_OUTCOME: outcome}
