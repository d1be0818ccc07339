"""The laws of the rooms that import-linter cannot tell: which libraries, and whose names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import libmtl_recon

PACKAGE = Path(libmtl_recon.__file__).parent
ROOMS = ("gradients", "weighting", "conflicts", "profiles", "splitting")
CORE = sorted(
    file
    for room in ROOMS
    for file in (PACKAGE / room).rglob("*.py")
    if file != PACKAGE / "weighting" / "libmtl.py"  # an old name, which goes with the next release
)
LIBRARIES = {"numpy", "scipy", "torch"}
# What else is imported, and where.
MORE = {
    "conflicts/distribution.py": {"matplotlib"},
    "conflicts/plot.py": {"matplotlib"},
    "profiles/cache.py": {"platformdirs"},
    "profiles/recovery.py": {"filelock"},
    "profiles/scoring_lock.py": {"filelock"},
    "profiles/stores.py": {"filelock", "fsspec"},
    "weighting/gradops_plot.py": {"matplotlib"},
}
# Of LibMTL's own, which no other code has.
THEIRS = re.compile(
    r"\b(LibMTL\w*|MTLmodel|prepare_args|task_num|rep_grad|rep_tasks|multi_input|encoder_class"
    r"|weight_args|arch_args|get_share_params|zero_grad_share_params|train_loss_buffer"
    r"|_prepare_model|_compute_loss)\b"
)


def imported(tree: ast.AST) -> set[str]:
    """The packages that a module imports anywhere, but for the standard library and ours."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"libmtl_recon", "__future__"}


def words(tree: ast.AST) -> Iterator[str]:
    """Return the identifiers and texts of a module, without docstrings."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "value"):
            word = getattr(node, field, None)
            if isinstance(word, str) and id(node) not in docstrings:
                yield word


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_core_room_imports_its_libraries_alone(file: Path) -> None:
    name = file.relative_to(PACKAGE).as_posix()
    assert imported(ast.parse(file.read_text())) - LIBRARIES == MORE.get(name, set())


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_core_room_knows_no_name_of_libmtls(file: Path) -> None:
    assert [word for word in words(ast.parse(file.read_text())) if THEIRS.search(word)] == []


def test_what_is_looked_for_would_be_found() -> None:
    module = '''
import numpy as np, torchvision.models
def f(model):
    """LibMTL's model may be meant here."""
    from rich.table import Table
    raise ReconError(f"LibMTL's {model.task_num} tasks")
'''
    tree = ast.parse(module)
    assert imported(tree) == {"numpy", "torchvision", "rich"}
    assert [word for word in words(tree) if THEIRS.search(word)] == ["LibMTL's ", "task_num"]
    assert len(CORE) > 60
