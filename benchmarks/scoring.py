"""The cost of counting conflicts: a scored step compared with T bare backward passes.

    python benchmarks/scoring.py --table --out scoring.json
    python benchmarks/scoring.py --tasks 10 --weightings EW

LibMTL's own Trainer trains a network of T tasks in processes that take turns, step by step. The
columns:

    bare      T bare backward passes instead of a weighting, one per task's loss, after each of
              which the task's gradients are read once
    stored    scored, with --recon_gradients stored
    ours      scored, with --recon_gradients auto, the default
    unscored  the same without being scored
    ghost     scored, with --recon_gradients ghost

The times are the CPU time of one thread (on a GPU: seconds), of the weighting only, without the
optimiser and the time of the forward pass in the column `bare`. Ratios are of steps of the same
round; the table has their median. The memory is the peak above that of the bare backward passes, in
units of the matrix [T, d] of all gradients (see `benchmarks/gradients.py --help`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gradients_worker import ARGUMENTS, Setting
from side_by_side import add_setting, chosen_columns, print_table, settings_of

COLUMNS = ("bare", "stored", "ours", "unscored", "ghost")
_USUAL = 4
_ROWS = ((32, 32), (256, 36))  # batch and size


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weightings", nargs="+", choices=ARGUMENTS, default=["EW", "PCGrad"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 10, 40], metavar="T")
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of timed steps, after one that is not timed"
    )
    add_setting(parser, COLUMNS, _USUAL)
    parser.set_defaults(multi_input=False, scored=True)
    options = parser.parse_args(arguments)
    columns = chosen_columns(options, COLUMNS)
    if options.table:
        steps = options.rounds + 1
        settings = [
            (Setting("EW", 10, False, "resnet18", *row, options.device, steps, True), columns)
            for row in _ROWS
        ]
    else:
        settings = settings_of(options, lambda *_: True, columns)
    print_table(settings, columns, options.out)


if __name__ == "__main__":
    main()
