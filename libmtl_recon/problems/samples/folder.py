"""A sample's folder, which is written whole or not at all, and never over other data.

Beside its data it has a list of its files with their digests. A folder is replaced only if it has
exactly these files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from libmtl_recon.errors import ReconError

LIST = "libmtl-recon-sample.json"


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Give an empty folder, which becomes the target at the end of the ``with`` block.

    Raises:
        ReconError: The target is there and is no sample, or cannot be written.
    """
    try:
        _refuse_other_data(target)
        made = target.parent / f".{target.name}-{uuid4().hex[:8]}"
        made.mkdir(parents=True)
    except OSError as error:
        raise ReconError(f"{target} cannot be written ({error}). Name another folder.") from error
    try:
        yield made
        files = {_name(path, made): _digest(path) for path in _files(made)}
        (made / LIST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        _remove(target)
        made.rename(target)
    except OSError as error:
        raise ReconError(f"{target} cannot be written ({error}). Name another folder.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _refuse_other_data(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        what = "is a link" if target.is_symlink() else "is no folder"
        raise ReconError(f"{target} {what}, so no sample is written there. Name another folder.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    listed = _listed(target)
    if listed is None:
        raise ReconError(
            f"{target} has data that are no sample of libmtl-recon, and they are not overwritten. "
            "Name another folder, or remove it yourself."
        )
    found = {_name(path, target) for path in _files(target)} - {LIST}
    other = sorted(found - set(listed))
    other += sorted(name for name in found & set(listed) if _digest(target / name) != listed[name])
    if other:
        raise ReconError(
            f"{target} was a sample of libmtl-recon, but {other[0]} was added or changed since"
            f"{f', and {len(other) - 1} more files' if len(other) > 1 else ''}, so it is not "
            "overwritten. Name another folder, or remove it yourself."
        )


def _remove(target: Path) -> None:
    """Remove a sample: its files one by one, so that nothing that was added since goes with it."""
    if not target.is_dir():
        return
    for name in [*(_listed(target) or {}), LIST]:
        (target / name).unlink(missing_ok=True)
    for folder, _, _ in os.walk(target, topdown=False):
        Path(folder).rmdir()


def _listed(target: Path) -> dict[str, str] | None:
    try:
        found: Any = json.loads((target / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _files(folder: Path) -> list[Path]:
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
