"""What counting conflicts costs: a scored step against T bare backward passes.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --tasks 10 --weightings EW

LibMTL's own Trainer trains a ResNet18 of T tasks in two processes that take turns, step by step:
scored, and with T bare backward passes in place of a weighting, each of its own task's loss, after
which the task's gradients are read once. A conflict of two tasks in a layer needs the gradients of
both, so nothing that counts conflicts can cost less. A third one trains without being scored.

The times are the CPU time of one thread (on a GPU: seconds), of the weighting alone, without the
forward pass and the optimiser. Ratios are of steps of the same round, and their median counts. The
memory is the highest use of the whole process above that of the bare backward passes, in units of
the matrix [T, d] of all gradients.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from gradients import Worker, add_setting, print_table
from gradients_worker import ARGUMENTS, Setting

_LABELS = ("weighting", "T", "bare ms", "scored ms", "scored / bare", "unscored ms", "memory")
_WAYS = ("bare", "scored", "ours")


def measure(setting: Setting) -> list[str]:
    """One line of the table."""
    workers = {way: Worker(way, setting) for way in _WAYS}
    rounds = []
    for index in range(setting.steps):
        took = {way: worker.step().weighting for way, worker in workers.items()}
        if index:  # the first is for warming up
            rounds.append(took)
    memory = {way: worker.end() for way, worker in workers.items()}

    def ms(way: str) -> str:
        return f"{1e3 * statistics.median(took[way] for took in rounds):.0f}"

    ratios = [took["scored"] / took["bare"] for took in rounds]
    above = (memory["scored"].peak - memory["bare"].peak) / memory["bare"].matrix
    shown = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})"
    numbers = [ms("bare"), ms("scored"), shown, ms("ours"), f"{above:.2f}"]
    return [setting.weighting, str(setting.tasks), *numbers]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weightings", nargs="+", choices=ARGUMENTS, default=["EW", "PCGrad"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 10, 40], metavar="T")
    parser.add_argument("--rounds", type=int, default=7, help="steps timed, after one that is not")
    add_setting(parser)
    parser.set_defaults(multi_input=False)
    print_table(parser.parse_args(arguments), _LABELS, measure)


if __name__ == "__main__":
    main()
