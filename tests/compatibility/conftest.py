from __future__ import annotations

import sys
from pathlib import Path

# The matrix is a script among the benchmarks, at the root of the repository.
sys.path.insert(0, str(Path(__file__).parents[2]))
