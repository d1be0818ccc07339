"""Modules that a test writes, so that their functions have a source of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def written_module(folder: Path, source: str) -> ModuleType:
    """Import a new file of a folder, which stays."""
    file = folder / f"module{len(list(folder.iterdir()))}.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
