"""Handling of output that cannot be written: a closed pipe, a full disk, a closed descriptor."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What a shell reports for a program ended by Ctrl-C, and for one ended by SIGPIPE.
INTERRUPTED, _ENDED_BY_PIPE = 130, 141
# What writing to a file fails by.
_OF_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class OutputError(Exception):
    """Standard output cannot be written to. Not an ``OSError``, which scripts may catch.

    Attributes:
        exit_status: As for Unix tools: that of SIGPIPE if a pipe was closed, otherwise 1.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"Cannot write to standard output: {cause.strerror or cause}.")
        self.exit_status = _ENDED_BY_PIPE if cause.errno == errno.EPIPE else 1

    @property
    def quiet(self) -> bool:
        """Whether no message is needed, because a pipe was closed."""
        return self.exit_status == _ENDED_BY_PIPE


def warn(text: str) -> None:
    """Write a line to stderr; an error while writing is ignored."""
    if sys.stderr is not None:  # it is where the process began without one
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def write(text: str, stream: Any) -> None:
    """Write a text to a stream; characters that its encoding does not have are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def guarded(command: Callable[[], int], *, own_process: bool) -> int:
    """Run a command with controlled failures of stdout and stderr, and return its exit status.

    If stdout fails, :class:`OutputError` is raised, which ends the command and is reported here. If
    stderr fails, nothing more is written to it.

    Args:
        command: A function that returns an exit status, or raises ``SystemExit``.
        own_process: Whether the process ends with the command. Python's own message about output
            that it cannot write is then suppressed.
    """
    streams = sys.stdout, sys.stderr
    if own_process:
        _reserve_descriptors()
    sys.stdout, sys.stderr = out, err = _Out(streams[0]), _Err(streams[1])
    status, request = 0, None
    try:
        try:
            status = command()
        except SystemExit as asked:
            request = asked
        out.flush()
    except OutputError as error:
        status = status or error.exit_status
        if request is not None and not request.code:
            request = None
        if not error.quiet:
            warn(f"libmtl-recon: error: {error}")
    except KeyboardInterrupt:  # while a pipe took nothing more
        request, status = None, INTERRUPTED
    finally:
        if own_process:
            out.settle()
            err.settle()
        sys.stdout, sys.stderr = out.left, err.left
    if request is not None:
        raise request
    return status


def end_by_pipe(status: int) -> None:
    """End the process by SIGPIPE if this is what the status says."""
    if status == _ENDED_BY_PIPE and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)


@contextmanager
def released() -> Iterator[None]:
    """Give a script the process's own stdout and stderr inside the ``with`` block.

    If the script replaces them, its replacements are restored at the end of the process, for its
    threads and ``atexit`` handlers.
    """
    guards = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (g.stream if isinstance(g, _Guard) else g for g in guards)
    try:
        yield
    finally:
        for guard, left in zip(guards, (sys.stdout, sys.stderr), strict=True):
            if isinstance(guard, _Guard):
                guard.left = left
        sys.stdout, sys.stderr = guards


def of_stdout(error: BaseException) -> OutputError | None:
    """Return a script's error if stdout cannot be written to; None for other errors."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    try:
        sys.stdout.flush()
        if error.errno == errno.EPIPE:
            # Where Python does not buffer, nothing waits to be written.
            return OutputError(error) if _has_no_reader(sys.stdout.fileno()) else None
        if error.errno in _OF_FILES:
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError as again:
        return OutputError(error) if again.errno == error.errno else None
    except (AttributeError, ValueError):
        pass  # closed, or a script's own
    return None


class _Guard:
    """A text stream that raises :class:`OutputError` for every kind of failure."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.left = stream  # what a script has put in its place
        self._behind = _Closed() if stream is None else stream

    def write(self, text: str) -> int:
        return self._do(lambda: self._written(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._do(lambda: self._behind.flush() or 0)

    def settle(self) -> None:
        """Make sure that remaining output does not fail again when Python ends."""
        try:
            self._behind.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._behind.fileno())
                os.close(nowhere)

    def _written(self, text: str) -> int:
        try:
            return int(self._behind.write(text))
        except UnicodeEncodeError:
            coding = self._behind.encoding
            return int(self._behind.write(text.encode(coding, "backslashreplace").decode(coding)))

    def _do(self, what: Callable[[], int]) -> int:
        try:
            return what()
        except OSError as error:
            return self._failed(error)
        except ValueError:
            if not self._behind.closed:
                raise
            return self._failed(OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def _failed(self, error: OSError) -> int:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


class _Out(_Guard):
    def _failed(self, error: OSError) -> int:
        raise OutputError(error) from error


class _Err(_Guard):
    def _failed(self, error: OSError) -> int:
        self._behind = io.StringIO()  # nobody reads it
        return 0


class _Closed(io.TextIOBase):
    """The replacement of a stream that was closed when the process began."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _reserve_descriptors() -> None:
    """Prevent files from getting the descriptors, and thus the output, of closed streams."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _has_no_reader(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
