"""Messages of a run, by `logging`: every module logs below ``libmtl_recon``, and this shows it.

The package as a library attaches no handler: its messages go where the caller's `logging`
configuration sends them. Where LibMTL is registered, and in the ``libmtl-recon`` command,
:func:`show` has them appear among what LibMTL and the script print.
"""

from __future__ import annotations

import logging
import sys

from libmtl_recon.output import warn, write
from libmtl_recon.texts import printable

ROOT = "libmtl_recon"
_PREFIX = "libmtl-recon: "


class _Shown(logging.Handler):
    """Writes what is to be known to stdout, and from warnings on to stderr.

    The streams are looked up for each message, since scripts and test runners replace them. A
    stdout that cannot be written to fails as it does for ``print``; a stderr never does.
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

    Nothing changes where the caller has given the logger ``libmtl_recon`` a handler. A level that
    it was given stays, and with our handler it passes nothing on to the root logger, which would
    show all twice.
    """
    logger = logging.getLogger(ROOT)
    if logger.handlers:
        return
    logger.addHandler(_shown)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def hide() -> None:
    """Take the handler of :func:`show` away, for a `logging` configuration of one's own."""
    logger = logging.getLogger(ROOT)
    if _shown in logger.handlers:
        logger.removeHandler(_shown)
        logger.propagate = True
