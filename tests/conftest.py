"""Before torch is loaded: one thread, here and in the processes that tests start.

The networks are so small that threads would only wait for one another.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
