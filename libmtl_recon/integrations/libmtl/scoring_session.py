"""One scoring run of a script with a profile cache: the hook, the lock and the recovery file."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.schedule import Schedule
from libmtl_recon.integrations.libmtl.hooks import StopRun
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.profiles.cache import Entry, ProfileCache
from libmtl_recon.profiles.recovery import Recovered, RecoveryFile, recover
from libmtl_recon.profiles.scoring_lock import ScoringLock


class ScoringSession:
    """Scores one Trainer; if another process is scoring the same, waits for it.

    Until :meth:`end` the counts are written to a file every minute; the lock is held until the
    ``with`` block ends.

    Args:
        cache: The cache of profiles.
        schedule: Which steps to score.
        say: Called with messages: what is waited for, and what cannot be written.
        on_recovered: Called with what was saved of a killed run of this network.
        on_step: Called with the number of scored steps after each.
        on_other: Called, once, if another model trains, which is not scored.
        dataset: See :class:`~libmtl_recon.integrations.libmtl.scoring.ScoringHook`.
        trainer: As for :class:`~libmtl_recon.integrations.libmtl.scoring.ScoringHook`.

    Attributes:
        hook: The hook to run the script with.
        found: The profile that another process stored while this one waited for it; the run was
            then ended before its first step.
    """

    def __init__(
        self,
        cache: ProfileCache,
        schedule: Schedule,
        say: Callable[[str], None],
        *,
        on_recovered: Callable[[Recovered], None] = lambda _: None,
        on_step: Callable[[int], None] = lambda _: None,
        on_other: Callable[[], None] = lambda: None,
        dataset: str | None = None,
        trainer: int = 1,
    ) -> None:
        self.found: Entry | None = None
        self.hook = ScoringHook(
            schedule,
            dataset=dataset,
            on_step=self._scored,
            on_built=self._built,
            trainer=trainer,
            on_other=on_other,
        )
        self._cache = cache
        self._say = say
        self._on_recovered = on_recovered
        self._on_step = on_step
        self._lock = ScoringLock(cache, say)
        self._recovery: RecoveryFile | None = None

    def __enter__(self) -> ScoringSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def end(self) -> None:
        """Mark the run as ended by itself: its counts are stored, or are not to be."""
        if self._recovery is not None:
            self._recovery.end()

    def _built(self, layers: tuple[Layer, ...]) -> None:
        self.found = self._lock.acquire(layers)
        if self.found is not None:
            raise StopRun
        if self._lock.held:
            left = recover(self._cache, layers)
            if left is not None:
                self._on_recovered(left)
            self._recovery = RecoveryFile(self._cache, layers, self._say)

    def _scored(self, step: int) -> None:
        self._on_step(step)
        if self._recovery is not None:
            self._recovery.note(self.hook.profile)
