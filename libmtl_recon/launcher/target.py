"""Find the script to run and make it the main module, as Python does."""

from __future__ import annotations

import builtins
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from libmtl_recon.errors import UsageError
from libmtl_recon.files import exists, is_file, is_folder
from libmtl_recon.problems import BUILT_IN, DEMONSTRATIONS, path_of
from libmtl_recon.texts import did_you_mean


@dataclass(frozen=True)
class Target:
    """A script, or a module as for ``python -m``.

    Attributes:
        name: A path or a built-in problem; for a module, its dotted name.
        module: Whether it is a module.
    """

    name: str
    module: bool = False

    @property
    def words(self) -> list[str]:
        """Return the words that name it on the command line."""
        return ["-m", self.name] if self.module else [self.name]

    @property
    def demonstration(self) -> bool:
        """Return whether it is a built-in script that needs no LibMTL Trainer."""
        return not self.module and self.name in DEMONSTRATIONS and not is_file(self.name)

    def __str__(self) -> str:
        return " ".join(self.words)


@contextmanager
def as_main(target: Target, args: Sequence[str]) -> Iterator[tuple[CodeType, ModuleType]]:
    """Set ``sys.argv``, ``sys.path[0]`` and ``__main__`` to the target's inside the ``with`` block.

    Yields:
        Its code, and the new main module in which to run it.

    Raises:
        UsageError: The script or module does not exist, or it is not Python source.
        SyntaxError: It is Python source, but cannot be compiled.
    """
    saved = sys.argv, sys.path[:], sys.modules["__main__"]
    try:
        yield (_module if target.module else _script)(target.name, args)
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = saved


def find_script(script: str | Path) -> Path:
    """Return the file of a script given by its path or, for a built-in problem, by its name.

    Raises:
        UsageError: The file or problem does not exist, or it is not Python source.
    """
    path = Path(script)
    if is_file(path):
        _refuse_what_is_no_source(path)
        return path
    name = str(script)
    if name in BUILT_IN or name in DEMONSTRATIONS:
        return path_of(name)
    if is_folder(path):
        raise UsageError(
            "SCRIPT",
            "must be a Python source file",
            name,
            "This is a folder: give the script in it, e.g. its main.py.",
        )
    if name == "-" or exists(path):
        raise UsageError(
            "SCRIPT",
            "must be a file on disk, because the processes that a script starts read it again",
            name,
            "Write the text from standard input, or from a pipe, to a .py file first.",
        )
    problems = [*BUILT_IN, *DEMONSTRATIONS]
    raise UsageError(
        "SCRIPT",
        "must be the path of a LibMTL script or the name of a built-in problem",
        name,
        f"{did_you_mean(name, problems)}There is no such file; the built-in problems are "
        f"{', '.join(problems)}. To run a module, use -m and its dotted name.",
    )


def _refuse_what_is_no_source(path: Path) -> None:
    try:
        text = importlib.util.decode_source(path.read_bytes())
    except OSError as error:
        raise UsageError(
            "SCRIPT",
            "must be a file that can be read",
            str(path),
            f"The system reports: {error.strerror}.",
        ) from error
    except (SyntaxError, UnicodeDecodeError):  # an unknown encoding is a SyntaxError
        text = "\0"
    if "\0" in text:
        raise UsageError(
            "SCRIPT",
            "must be a Python source file",
            str(path),
            "This is not text in UTF-8 or in the encoding that it declares: give the script's "
            ".py file.",
        )


def _script(name: str, args: Sequence[str]) -> tuple[CodeType, ModuleType]:
    path = find_script(name)
    file = os.path.abspath(path)  # noqa: PTH100  # as Python: links are kept in __file__
    sys.argv = [str(path), *args]
    _look_first_in(str(path.resolve().parent))
    main = _new_main(file, SourceFileLoader("__main__", file))
    # With its own source's settings and not ours, which postpone annotations.
    return compile(path.read_bytes(), file, "exec", dont_inherit=True), main


def _module(name: str, args: Sequence[str]) -> tuple[CodeType, ModuleType]:
    sys.argv = ["-m", *args]  # what Python has there while it looks for the module
    _look_first_in(str(Path.cwd()))
    spec = _find_spec(name)
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else get_code(spec.name)
    if code is None:
        raise _no_module(name, "It exists, but is not written in Python.")
    file = str(spec.origin)
    sys.argv[0] = file
    main = _new_main(file, spec.loader)
    vars(main).update(__spec__=spec, __package__=spec.parent, __cached__=spec.cached)
    return code, main


def _find_spec(name: str) -> ModuleSpec:
    """Find a module or a package's ``__main__``; the packages that contain it are imported."""
    try:
        # Neither a relative name nor a path, which `find_spec` does not accept.
        spec = importlib.util.find_spec(name) if _may_be_dotted(name) else None
    except ModuleNotFoundError as error:
        # An existing package around it may itself miss something, which is its own fault.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    except (ImportError, ValueError) as error:
        raise _no_module(name, f"Python says: {error}.") from error
    if spec is None:
        raise _no_module(
            name,
            "It was not found in the working directory or among the installed packages. To run "
            "a file, give its path without -m.",
        )
    if spec.submodule_search_locations is None:
        return spec
    if name.endswith(".__main__"):
        raise _no_module(name, "It is a package.")
    inner = importlib.util.find_spec(f"{name}.__main__")
    if inner is None:
        raise _no_module(
            name, f"It is a package without a __main__; give a module, e.g. {name}.main"
        )
    return inner


def _may_be_dotted(name: str) -> bool:
    return all(name.split(".")) and os.sep not in name


def _no_module(name: str, way_out: str) -> UsageError:
    return UsageError("-m", "must name a module that can be run", name, way_out)


def _look_first_in(folder: str) -> None:
    if not sys.flags.safe_path:  # with `python -P` no script's folder is on the path
        sys.path[:] = [folder, *sys.path[1:]]


def _new_main(file: str, loader: object) -> ModuleType:
    main = ModuleType("__main__")
    vars(main).update(__file__=file, __builtins__=builtins, __loader__=loader, __cached__=None)
    sys.modules["__main__"] = main
    return main
