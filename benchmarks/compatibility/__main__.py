"""Train every weighting with every architecture of the installed LibMTL, and say what became of it.

python -m benchmarks.compatibility [--tasks 2 3] [--weighting EW ...] [--arch HPS ...]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from benchmarks.compatibility.cells import TASKS, all_cells, run_cell


def main() -> None:
    """Run the cells that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--weighting", nargs="+")
    parser.add_argument("--arch", nargs="+")
    given = parser.parse_args()
    count: Counter[str] = Counter()
    for cell in all_cells(tuple(given.tasks)):
        if given.weighting and cell.weighting not in given.weighting:
            continue
        if given.arch and cell.arch not in given.arch:
            continue
        begin = time.perf_counter()
        verdict = run_cell(cell)
        count[verdict.kind] += 1
        took = time.perf_counter() - begin
        print(f"{took:5.2f}s  {cell}: {verdict.kind} {verdict.reason[:200]}", flush=True)
    print(dict(count))


if __name__ == "__main__":
    main()
