"""Storage of the results: while the matrix is trained, and for the documentation."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL

from benchmarks.compatibility.cells import Cell, Verdict
from libmtl_recon.integrations.libmtl.features import detect

Found = Mapping[Cell, Verdict]

# The combinations of the two flags, as (rep_grad, multi_input), in the order of a record's rows.
FLAGS = ((False, False), (False, True), (True, False), (True, True))
_REPOSITORY = Path(__file__).parents[2]
# Files that only write results, and do not affect them.
_WRITING = ("__main__.py", "record.py", "table.py")


def plain(cell: Cell, verdict: Verdict) -> Verdict:
    """Return the verdict with a reason that does not name the cell, for comparing reasons."""
    reason = verdict.reason.replace(f"--weighting {cell.weighting}", "this weighting")
    reason = reason.replace(f"--arch {cell.arch}", "this architecture")
    reason = re.sub(r" \(got (True|False)\)(?=\.)", "", reason)
    return Verdict(verdict.kind, reason, verdict.checked)


def label() -> str:
    """Return which LibMTL is installed: ``pypi`` or ``main``."""
    return detect(LibMTL).label


def versions() -> dict[str, str]:
    """Return the versions of the packages on which the results depend."""
    folder = Path(LibMTL.__file__).parent
    commit = subprocess.run(
        ["git", "-C", folder, "rev-parse", "--short=7", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if label() == "main" and commit.returncode == 0:
        libmtl = f"GitHub main, commit {commit.stdout.strip()}"
    else:
        libmtl = f"{version('LibMTL')} ({'GitHub main' if label() == 'main' else 'PyPI'})"
    return {
        "LibMTL": libmtl,
        **{name: version(name) for name in ("libmtl-recon", "torch", "numpy")},
    }


def fingerprint() -> str:
    """Return a hash of the code and the versions on which the results depend."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    here, libmtl = Path(__file__).parent, Path(LibMTL.__file__).parent
    for folder in (_REPOSITORY / "libmtl_recon", here, libmtl):
        for file in sorted(folder.rglob("*.py")):
            if folder != here or file.name not in _WRITING:
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Notebook:
    """Verdicts in a file, one per line, each written as soon as it is known.

    Args:
        file: The file. It is read if it was written by the same code, and otherwise started anew.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[Cell, Verdict] = {}
        head = json.dumps({"code": fingerprint()})
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        known = lines[1:] if lines[:1] == [head] else []
        self.begun_anew = bool(lines) and lines[0] != head
        # Without an incomplete last line, whose cell is trained again.
        whole = [line for line in known if self._read(line)]
        file.write_text("".join(f"{line}\n" for line in [head, *whole]), encoding="utf-8")

    def _read(self, line: str) -> bool:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return False
        self.found[Cell(**entry["cell"])] = Verdict(**entry["verdict"])
        return True

    def write(self, cell: Cell, verdict: Verdict) -> None:
        """Store one verdict."""
        self.found[cell] = verdict
        entry = {"cell": asdict(cell), "verdict": asdict(verdict)}
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")


def to_record(found: Found) -> dict[str, Any]:
    """Return the results that the documentation needs, for JSON.

    Returns:
        A dict with ``versions``, ``reasons`` and ``cells``. ``cells["EW x HPS, T=2"]`` has one
        entry per combination of flags, in the order of :data:`FLAGS`: ``trains`` (as its closed
        form prescribes), ``moves`` (trains; there is no closed form), None if it was not tried, or
        the number of a reason.
    """
    reasons: dict[tuple[str, str], int] = {}
    cells: dict[str, list[Any]] = {}
    for cell, verdict in found.items():
        row = cells.setdefault(_row(cell), [None] * len(FLAGS))
        known = plain(cell, verdict)
        if known.kind == "trains":
            word: Any = "trains" if known.checked else "moves"
        else:
            word = reasons.setdefault((known.kind, known.reason), len(reasons) + 1)
        row[FLAGS.index((cell.rep_grad, cell.multi_input))] = word
    return {
        "versions": versions(),
        "reasons": {
            str(number): {"kind": kind, "reason": reason}
            for (kind, reason), number in reasons.items()
        },
        "cells": cells,
    }


def from_record(record: Mapping[str, Any], cells: Iterable[Cell]) -> dict[Cell, Verdict]:
    """Return the record's verdicts on those of these cells that it contains, with plain reasons."""
    found = {}
    for cell in cells:
        row = record["cells"].get(_row(cell), [None] * len(FLAGS))
        word = row[FLAGS.index((cell.rep_grad, cell.multi_input))]
        if isinstance(word, str):
            found[cell] = Verdict("trains", checked=word == "trains")
        elif word is not None:
            found[cell] = Verdict(**record["reasons"][str(word)])
    return found


def dump(record: Mapping[str, Any]) -> str:
    """Return the record as text, with one line per row."""
    rows = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in record["cells"].items()
    )
    head = json.dumps({k: v for k, v in record.items() if k != "cells"}, indent=2)
    return f'{head.removesuffix(chr(10) + "}")},\n  "cells": {{\n{rows}\n  }}\n}}\n'


def _row(cell: Cell) -> str:
    return f"{cell.weighting} x {cell.arch}, T={cell.tasks}"
