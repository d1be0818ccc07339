"""The costs of per-task gradients: our step, other steps, and lower bounds.

    python benchmarks/gradients.py --table --out gradients.json
    python benchmarks/gradients.py --tasks 10 --weightings MGDA --multi_input
    python benchmarks/gradients.py --network vit --batch 4 --size 128 --columns stored ours ghost

LibMTL's own Trainer trains a network of T tasks in several ways, in separate processes that take
turns, step by step. The columns:

    bare          T bare backward passes instead of a weighting, one per task's loss, after each of
                  which the task's gradients are read once. No method that computes one gradient
                  per task can cost less.
    stored        our step, with --recon_gradients stored
    ours          our step, with --recon_gradients auto, the default
    autojac       TorchJD's mtl_backward and jac_to_grad, with their default arguments
    autojac-1     the same with parallel_chunk_size=1 and optimize_gramian_computation=True: one
                  task after the other, and without concatenation of the Jacobians
    autogram      TorchJD's Engine, and one backward pass below the heads
    libmtl        LibMTL's own step: our patch `fast-gradients` is switched off (LibMTL needs the
                  other patches to run)
    ghost         our step, with --recon_gradients ghost
    recording     libmtl_recon.gradients.recording, used as outside LibMTL
    limit         T backward passes that only compute the gradients of layers' inputs, and one
                  ordinary pass. No method that weights the tasks by all their gradients, without
                  computing gradients of weights per task, can cost less.

A cell is empty if a column does not apply (LibMTL has no GradOPS; TorchJD is measured with GradOPS,
PCGrad and MGDA, and not with separate inputs per task), or if TorchJD refuses the network; its
error is then below the table. In all columns, heads get the gradients of their own tasks' losses.

The times are the CPU time of one thread (on a GPU: seconds) of the weighting only,
`model.backward`, without the forward pass and the optimiser. The time of a column in the forward
pass and the losses beyond that of `bare` in the same round is added, since TorchJD's engine and
recordings have hooks there. Only `LibMTL / ours` compares whole steps. `TorchJD / ours` uses the
faster of `autojac` and `autogram`; `autojac-1 / ours` is next to it, since its options are faster
on a CPU. Ratios are of the same round; the table has their median, with the range in brackets.

The memory is the peak above that of the bare backward passes, in units of the matrix [T, d] of all
gradients: on a CPU the counted bytes of the tensors in the first step, and on a GPU those of all
steps, both above the memory before the first step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from gradients_ways import TORCHJD_WEIGHTINGS
from gradients_worker import ARGUMENTS, ENGINES, Setting
from side_by_side import add_setting, chosen_columns, print_table, settings_of

COLUMNS = (
    *("bare", "stored", "ours", "autojac", "autojac-1", "autogram", "libmtl"),
    *("ghost", "recording", "limit"),
)
_USUAL = 7
# Network, batch, size, rounds, numbers of tasks.
_ROWS = (
    ("resnet18", 32, 32, 5, (2, 10, 40)),
    ("resnet18", 32, 64, 3, (2, 10)),
    ("resnet18", 8, 224, 3, (2, 10)),
    ("resnet50", 8, 64, 3, (2, 10)),
    ("vit", 4, 128, 5, (2, 10)),
    ("mlp", 1024, 1, 3, (2, 10)),
    ("lstm", 32, 64, 3, (2, 10)),
    ("segnet", 8, 64, 3, (2, 10)),
)


def applies(way: str, setting: Setting) -> bool:
    """Return whether a column applies to a setting."""
    if way == "libmtl":
        return setting.weighting != "GradOPS"
    if way in (*ENGINES, "recording"):
        return setting.weighting in TORCHJD_WEIGHTINGS and not setting.multi_input
    return True


def table(device: str, columns: Sequence[str]) -> Iterator[tuple[Setting, list[str]]]:
    """Iterate over the published table: GradOPS on all networks, PCGrad on the first."""
    for network, batch, size, rounds, numbers in _ROWS:
        for tasks in numbers:
            one = Setting("GradOPS", tasks, False, network, batch, size, device, rounds + 1)
            yield one, [way for way in columns if applies(way, one)]
    network, batch, size, rounds, numbers = _ROWS[0]
    for tasks in numbers:
        one = Setting("PCGrad", tasks, False, network, batch, size, device, rounds + 1)
        yield one, [way for way in columns if way in ("bare", "stored", "ours", "libmtl")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weightings",
        nargs="+",
        choices=ARGUMENTS,
        default=list(ARGUMENTS),
        metavar="NAME",
        help=f"of {', '.join(ARGUMENTS)} (default: all)",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        type=int,
        default=[2, 10, 40],
        metavar="T",
        help="numbers of tasks (default: 2 10 40; with 40, LibMTL's own PCGrad and GradVac take "
        "minutes per step, and its IMTL 12 GB)",
    )
    parser.add_argument(
        "--multi_input", action="store_true", help="give each task a separate batch"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of timed steps, after one that is not timed"
    )
    add_setting(parser, COLUMNS, _USUAL)
    parser.set_defaults(scored=False)
    options = parser.parse_args(arguments)
    columns = chosen_columns(options, COLUMNS)
    if options.table:
        print_table(table(options.device, columns), columns, options.out)
    else:
        print_table(settings_of(options, applies, columns), columns, options.out)


if __name__ == "__main__":
    main()
