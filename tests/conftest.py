"""What must be so before torch is loaded, here and in the processes that tests start."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# The networks are so small that threads would only wait for one another.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# A shell that runs tests in the background has them ignore Ctrl-C, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def shown() -> None:
    """Log messages appear on stdout and stderr, as they do where LibMTL is registered."""
    from libmtl_recon import logs

    logs.show()
