"""What messages may say: library code names arguments, and every message has an end."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import libmtl_recon

PACKAGE = Path(libmtl_recon.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z]")
CORE = sorted(
    file
    for room in ("gradients", "weighting", "conflicts", "profiles", "splitting")
    for file in (PACKAGE / room).rglob("*.py")
)


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """The strings of a module that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from () if id(node) in docstrings else (node,)


def test_the_core_rooms_are_found() -> None:
    assert {file.parent.name for file in CORE} >= {
        "gradients",
        "weighting",
        "conflicts",
        "profiles",
        "splitting",
    }
    assert len(CORE) > 50


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_library_code_names_no_flag(file: Path) -> None:
    found = [
        f"line {text.lineno}: {text.value}"
        for text in texts(ast.parse(file.read_text()))
        if FLAG.search(text.value)
    ]
    assert found == []


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_library_code_does_not_speak_of_libmtl(file: Path) -> None:
    """In messages and docstrings, which who has no LibMTL reads as well; comments may."""
    found = [
        f"line {node.lineno}: {node.value}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"\bLibMTL\b|\bTrainer\b", node.value)
    ]
    assert found == []


def test_a_flag_would_be_found() -> None:
    module = '''
def f():
    """A docstring may speak of --recon_k."""
    raise UsageError("alpha", f"must fit {x}, see --gradops_alpha", 1, "Or -- maybe --- not.")
'''
    found = [text.value for text in texts(ast.parse(module)) if FLAG.search(text.value)]
    assert found == [", see --gradops_alpha"]


def calls(name: str) -> list[tuple[str, ast.Call]]:
    return [
        (f"{file.relative_to(PACKAGE)}:{node.lineno}", node)
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def plain(node: ast.expr) -> str | None:
    """A text of the source, with X for what is filled in; None for what is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(p.value if isinstance(p, ast.Constant) else "X" for p in node.values)
    return None


RULE = re.compile(r"(must|needs|cannot|can)\b.*[^.]$|X$")


def test_every_usage_error_is_a_sentence() -> None:
    """ "{parameter} {rule} (got ...). {way out}": a clause with a verb, then a sentence."""
    found = calls("UsageError")
    assert len(found) > 80
    for place, call in found:
        _, rule, _, way_out = map(plain, call.args)
        assert rule is None or RULE.match(rule), (place, rule)
        if way_out is not None:
            assert way_out[:1].isupper() or way_out.startswith(("X", "0", "1", "fp16", "`")), (
                place,
                way_out,
            )
            assert way_out.endswith((".", "X")), (place, way_out)


def test_a_flag_is_never_said_to_be_true() -> None:
    """True, False and None are no values that a user gave for these rules."""
    silent = ("must be given", "cannot be combined", "needs ")
    for place, call in calls("UsageError"):
        rule, value = plain(call.args[1]), call.args[2]
        if isinstance(value, ast.Constant) and value.value in (True, False, None):
            assert rule is not None, place
            assert rule.startswith(silent), (place, rule)


def test_every_paragraph_ends() -> None:
    found = calls("ReconError")
    assert len(found) > 80
    for place, call in found:
        text = plain(call.args[0]) if call.args else None
        if text is not None:
            assert text.endswith((".", "X")), (place, text)
            assert len(text) < 700, place
