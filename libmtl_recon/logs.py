"""Show the messages of a run, which all modules log with loggers below ``libmtl_recon``.

As a library, the package attaches no handler: the caller's `logging` configuration handles its
messages. If LibMTL is registered, and in the ``libmtl-recon`` command, :func:`show` prints them
between the lines of LibMTL and the script.
"""

from __future__ import annotations

import logging
import sys

from libmtl_recon.output import warn, write
from libmtl_recon.texts import printable

ROOT = "libmtl_recon"
_PREFIX = "libmtl-recon: "


class _Shown(logging.Handler):
    """Handler that writes messages to stdout, and warnings and errors to stderr.

    The streams are looked up for each message, since scripts and test runners replace them. A
    failing stdout raises an error, as for ``print``; a failing stderr does not.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.format(record), keep="\n\t")
        if record.levelno >= logging.WARNING:
            warn(f"{_PREFIX}{text}")
        elif sys.stdout is not None:
            write(f"{text}\n", sys.stdout)


_shown = _Shown()


def show() -> None:
    """Show messages from level INFO on, on stdout and stderr; further calls have no effect.

    Nothing changes if the caller has given the logger ``libmtl_recon`` a handler. A level that was
    set is kept. With our handler, messages are not passed on to the root logger, which would show
    them twice.
    """
    logger = logging.getLogger(ROOT)
    if logger.handlers:
        return
    logger.addHandler(_shown)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def hide() -> None:
    """Remove the handler of :func:`show`, to use your own `logging` configuration."""
    logger = logging.getLogger(ROOT)
    if _shown in logger.handlers:
        logger.removeHandler(_shown)
        logger.propagate = True
