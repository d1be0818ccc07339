from __future__ import annotations

import sys
from pathlib import Path

# The helpers beside the tests, which are no package; and the root, for those of the benchmarks.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
