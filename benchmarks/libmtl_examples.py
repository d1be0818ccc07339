"""LibMTL main's own examples, unmodified, scored and then trained with GradOPS and Recon.

    python benchmarks/libmtl_examples.py FOLDER --checkout PATH/LibMTL

writes small data in the examples' formats to FOLDER, and then runs for each example, from its own
folder, `libmtl-recon score main.py ...` and `libmtl-recon run main.py --weighting GradOPS --arch
Recon ...`. It prints the commands, and at the end a table of the results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from libmtl_examples_data import (
    link_checkout,
    write_cityscapes,
    write_nyu,
    write_office,
    write_pretrained,
)

EXAMPLES = ("nyu", "cityscapes", "office")


def commands(example: str, data: Path, k: int, steps: int) -> list[list[str]]:
    """Return the two commands for an example, without the program's name."""
    own = {
        "nyu": ["--train_bs", "2", "--test_bs", "2", "--scheduler", "step"],
        "cityscapes": ["--train_bs", "2", "--test_bs", "2", "--scheduler", "step"],
        "office": ["--multi_input", "--bs", "4"],
    }[example]
    script = ["main.py", *own, "--dataset_path", str(data), "--gpu_id", "0", "--epochs", "1"]
    return [
        ["score", "--steps", str(steps), "--dataset-name", example, *script],
        ["run", *script, "--weighting", "GradOPS", "--arch", "Recon", "--recon_k", str(k)],
    ]


def run(command: list[str], folder: Path, example: str) -> str:
    """Run a command of this project in an example's folder, and return its output.

    Raises:
        SystemExit: The command failed; its output has been printed.
    """
    checkout = folder / "checkout"
    where = checkout / "examples" / example
    python_path = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])
    print(f"\n$ cd {where} && libmtl-recon {shlex.join(command)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "libmtl_recon", *command],
        cwd=where,
        env={
            **os.environ,
            "PYTHONPATH": python_path,
            "TORCH_HOME": str(folder / "torch"),
            "LIBMTL_RECON_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    if done.returncode:
        print(done.stderr)
        raise SystemExit(f"{example}: exit status {done.returncode}")
    return done.stdout


def outcome(example: str, shown: str) -> dict[str, object]:
    """Return the split and the losses from the output of a training run."""
    split = re.search(r"(\d+) of (\d+) layers are task-specific now:\n\t(.*)", shown)
    grown = re.search(r"encoder parameters ([\d,]+) -> ([\d,]+)", shown)
    row = re.search(r"^Epoch: 0000 \| TRAIN: (.*?) \| Time", shown, re.MULTILINE)
    if split is None or grown is None or row is None:
        raise SystemExit(f"{example}: the run did not say what it split, or no loss:\n{shown}")
    return {
        "example": example,
        "layers": split[3].split(", "),
        "of": int(split[2]),
        "parameters": [int(count.replace(",", "")) for count in grown.groups()],
        "losses": [float(field.split()[0]) for field in row[1].split(" | ")],
    }


def main() -> None:
    """Write the data, run the examples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="the folder for data, caches and replacement modules"
    )
    parser.add_argument("--checkout", type=Path, default=os.environ.get("LIBMTL_MAIN"))
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument(
        "--images", type=int, default=8, help="number of training images (office: per domain)"
    )
    parser.add_argument(
        "--scale", type=float, default=0.5, help="scale of the images; 1 is the full size"
    )
    parser.add_argument("--steps", type=int, default=4, help="number of steps to score")
    parser.add_argument("--k", type=int, default=10, help="number of layers to split")
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    options = parser.parse_args()
    if options.checkout is None:
        parser.error(
            "a checkout of LibMTL's main branch is required: use --checkout, or set LIBMTL_MAIN"
        )
    folder = options.folder.resolve()
    link_checkout(options.checkout.resolve(), folder / "checkout")
    write_pretrained(folder / "torch")
    lists = folder / "checkout" / "examples" / "office" / "data_txt" / "office-31"
    found = []
    for example in options.only:
        data = folder / example
        if example == "nyu":
            write_nyu(data, options.images, options.scale)
        elif example == "cityscapes":
            write_cityscapes(data, options.images, options.scale)
        else:
            write_office(data, lists, options.images)
        score, train = commands(example, data, options.k, options.steps)
        run(score, folder, example)
        found.append(outcome(example, run(train, folder, example)))
    print(f"\n{'example':12} {'split':>9} {'encoder parameters':>26}  losses after an epoch")
    for one in found:
        split = f"{len(one['layers'])} of {one['of']}"
        grown = " -> ".join(f"{count:,}" for count in one["parameters"])
        losses = ", ".join(f"{loss:.4f}" for loss in one["losses"])
        print(f"{one['example']:12} {split:>9} {grown:>26}  {losses}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
