"""The matrix as Markdown: one table, and the reasons for its refusals below it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compatibility.record import dump

_TRAINS, _MOVES = "✓", "○"
_OVER = "Recon over "
_DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def render(record: Mapping[str, Any]) -> str:
    """Return Markdown: a summary, a table of weightings and architectures, and the reasons."""
    grid, tasks = _grid(record)
    weightings = list(dict.fromkeys(weighting for weighting, _ in grid))
    columns = {
        arch: [_cell(grid.get((weighting, arch), {})) for weighting in weightings]
        for arch in dict.fromkeys(arch for _, arch in grid)
    }
    columns = _join(columns)
    lines = [
        " | ".join(["| weighting", *columns]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for weighting, *texts in zip(weightings, *columns.values(), strict=True):
        lines.append(" | ".join([f"| **{weighting}**", *texts]) + " |")
    notes = [
        f"{number}. {'**Fails.** ' if note['kind'] == 'fails' else ''}{_as_code(note['reason'])}"
        for number, note in record["reasons"].items()
    ]
    return "\n".join([_summary(record, tasks), "", *lines, "", *notes, ""])


def put_section(text: str, name: str, section: str) -> str:
    """Return a document with one of its generated sections replaced.

    Args:
        text: The document, with the lines ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
        name: The name of the section.
        section: The new text between these lines.

    Raises:
        ValueError: The document does not have these lines.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"The document has no lines {begin.strip()!r} and {end!r}.")
    return f"{before}{begin}\n{section}\n{end}{after}"


def write_documents(record: Mapping[str, Any], name: str, docs: Path) -> None:
    """Write a record to the documentation: its table, and the JSON file with the results."""
    page = docs / "compatibility.md"
    page.write_text(
        put_section(page.read_text(encoding="utf-8"), name, render(record)), encoding="utf-8"
    )
    file = docs / "results" / f"compatibility-{name}.json"
    file.write_text(dump(record), encoding="utf-8")


Rows = dict[str, tuple[str, ...]]


def _grid(record: Mapping[str, Any]) -> tuple[dict[tuple[str, str], Rows], list[str]]:
    """Return the marks of all combinations of flags, by weighting and architecture, and by T."""
    grid: dict[tuple[str, str], Rows] = {}
    tasks: list[str] = []
    for name, row in record["cells"].items():
        pair, _, count = name.rpartition(", T=")
        weighting, _, arch = pair.partition(" x ")
        grid.setdefault((weighting, arch), {})[count] = tuple(_mark(word, record) for word in row)
        if count not in tasks:
            tasks.append(count)
    return grid, tasks


def _mark(word: Any, record: Mapping[str, Any]) -> str:
    if word is None:
        return ""
    if isinstance(word, str):
        return _TRAINS if word == "trains" else _MOVES
    number = str(word).translate(_DIGITS)
    return f"✗{number}" if record["reasons"][str(word)]["kind"] == "fails" else number


def _join(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Merge the columns of Recon over other architectures into one if all of them are equal."""
    over = [arch for arch in columns if arch.startswith(_OVER)]
    if len(over) < 2 or any(columns[arch] != columns[over[0]] for arch in over):
        return columns
    title = _OVER + ", ".join(arch.removeprefix(_OVER) for arch in over)
    return {arch: c for arch, c in columns.items() if arch not in over} | {title: columns[over[0]]}


def _cell(rows: Rows) -> str:
    by_marks: dict[tuple[str, ...], list[str]] = {}
    for count, marks in rows.items():
        by_marks.setdefault(marks, []).append(count)
    if len(by_marks) == 1:
        return _flags(next(iter(by_marks)))
    return "; ".join(f"T={','.join(counts)}: {_flags(m)}" for m, counts in by_marks.items())


def _flags(marks: tuple[str, ...]) -> str:
    """Return the marks of no flag, ``--multi_input``, ``--rep_grad`` and both, if they differ."""
    none, multi, rep, both = marks
    parts = [none]
    parts += [f"m {multi}"] * (multi != none)
    parts += [f"r {rep}"] * (rep != none)
    if none in (multi, rep):
        expected = {rep if multi == none else multi}
    else:
        expected = {multi, rep} - {_TRAINS, _MOVES}  # refused for either reason
    parts += [f"rm {both}"] * (both not in expected)
    return " · ".join(parts)


def _as_code(text: str) -> str:
    """Return a text with its flags as code, since Markdown turns two dashes into one."""
    return re.sub(r"--\w+", r"`\g<0>`", text)


def _summary(record: Mapping[str, Any], tasks: list[str]) -> str:
    count: Counter[str] = Counter()
    for row in record["cells"].values():
        for word in row:
            if isinstance(word, str):
                count[word] += 1
            elif word is not None:
                count[record["reasons"][str(word)]["kind"]] += 1
    of = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    counted = {
        "train as their closed form prescribes": count["trains"],
        "train and have no closed form to compare with": count["moves"],
        "are refused with a reason": count["refused"],
        "fail": count["fails"],
    }
    said = ", ".join(f"{number:,} {what}" for what, number in counted.items() if number)
    total = sum(count.values())
    return (
        f"Results with {of}, for T = {', '.join(tasks)} tasks. Of {total:,} cells, {said}"
        f"{'' if count['fails'] else ', and none fails'}."
    )
