"""Made-up people in the format of the Census-Income files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libmtl_recon.problems.census_income_data import (
    COLLEGE,
    CONTINUOUS,
    EDUCATION,
    FIELDS,
    INCOME,
    MARITAL,
    WEIGHT,
)


def make_rows(count: int, seed: int = 0) -> list[list[str]]:
    """People whose labels can be guessed from their age, trade and sex."""
    rng = np.random.default_rng(seed)
    rows = []
    words = rng.choice(["Not in universe", "?", "a", "b"], size=(count, FIELDS)).tolist()
    for number, row in enumerate(words):
        for field in CONTINUOUS:
            row[field] = str(rng.integers(0, 90))
        old, trade, sex = int(row[0]) > 45, rng.random() < 0.5, rng.random() < 0.5
        row[1], row[12] = ("Private" if trade else "Never worked"), ("Female" if sex else "Male")
        row[WEIGHT] = f"{1000 + number}.25"  # tells records apart
        row[INCOME] = "50000+" if trade else "- 50000"
        row[MARITAL] = "Divorced" if old else "Never married"
        row[EDUCATION] = COLLEGE[number % len(COLLEGE)] if sex else "10th grade"
        rows.append(row)
    return rows


def write_rows(file: Path, rows: list[list[str]]) -> None:
    """Write rows in UCI's format: a comma and a blank between fields, a full stop at the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{', '.join(row)}.\n" for row in rows), "ascii")
