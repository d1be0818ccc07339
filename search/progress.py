"""Show the progress of a search: a bar on a terminal, and lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """The display of a search; it may be called from several threads."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, SystemExit):  # if the terminal is closed
            self._progress.stop()

    def line(self, text: str) -> None:
        """Print a line above the bar; a closed terminal does not stop the search."""
        if not self.console.quiet:
            try:
                self.console.print(text, markup=False, soft_wrap=True)
            except (OSError, SystemExit):  # rich ends a program whose pipe is closed
                self.console.quiet = True

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Phase]:
        """Show a part of the search with its own bar."""
        bar = self._progress.add_task(title, total=total)
        if not self.console.is_terminal:
            self.line(f"{title} ...")
        yield Phase(self, self._progress, bar)


class Phase:
    """One bar."""

    def __init__(self, display: Display, progress: Progress, bar: object) -> None:
        self._display, self._progress, self._bar = display, progress, bar

    def done(self, text: str | None = None) -> None:
        """Advance the bar by one unit, and print a line."""
        self._progress.advance(self._bar)  # type: ignore[arg-type]  # rich's TaskID
        if text:
            self._display.line(text)

    def skip(self, units: int) -> None:
        """Advance the bar by units that were done in an earlier session."""
        if units:
            self._progress.advance(self._bar, units)  # type: ignore[arg-type]
            self._display.line(f"{units} trials exist from an earlier session.")
