"""Store texts in a folder of this machine, or at a URL."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from libmtl_recon.errors import ReconError
from libmtl_recon.files import exists, is_file, read_text, refusal, write_atomically


class Store(Protocol):
    """A flat set of named texts, written atomically."""

    @property
    def place(self) -> Path | str:
        """The location of the store."""

    def prepare(self) -> None:
        """Check that the store is writable."""

    def names(self) -> list[str]:
        """Return all names, newest first; none if nothing was ever stored."""

    def where(self, name: str) -> Path | str:
        """Return the location of a text, for messages."""

    def read(self, name: str) -> str:
        """Return a text. Raises ``OSError`` or ``UnicodeDecodeError``."""

    def write(self, name: str, text: str) -> None:
        """Store a text."""

    def rename(self, name: str, to: str) -> None:
        """Rename a text."""

    def remove(self, name: str) -> None:
        """Delete a text, if it exists."""

    def lock(self, name: str) -> Any:
        """Return a lock between processes, a ``filelock`` lock; None where locks are impossible."""


class FolderStore:
    """A folder, on this machine or shared between several."""

    def __init__(self, folder: Path) -> None:
        self.place = folder

    def prepare(self) -> None:
        """Check that the store is writable."""
        self.place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.place):
            pass

    def names(self) -> list[str]:
        """Return all names, newest first."""
        if not self.place.exists():
            return []
        return [file.name for file in sorted(self.place.iterdir(), key=_age, reverse=True)]

    def where(self, name: str) -> Path:
        """Return the location of a text."""
        return self.place / name

    def read(self, name: str) -> str:
        """Return a text."""
        file = self.where(name)
        if exists(file) and not is_file(file):  # a pipe would be waited for
            raise OSError("it is not a regular file")
        return read_text(file)

    def write(self, name: str, text: str) -> None:
        """Store a text."""
        self.place.mkdir(parents=True, exist_ok=True)
        write_atomically(self.where(name), text)

    def rename(self, name: str, to: str) -> None:
        """Rename a text."""
        self.where(name).replace(self.where(to))

    def remove(self, name: str) -> None:
        """Delete a text."""
        self.where(name).unlink(missing_ok=True)

    def lock(self, name: str) -> Any:
        """Return a lock that ends with its process."""
        from filelock import FileLock

        self.place.mkdir(parents=True, exist_ok=True)
        # In a shared folder the next may be another user's.
        return FileLock(self.where(name), mode=0o666)


class UrlStore:
    """A folder at a URL that ``fsspec`` supports: ``s3://``, ``gs://``, ``ssh://``, ``memory://``.

    Errors of its package (missing credentials, no network) are converted to ``OSError``.

    Args:
        url: The URL of the folder.

    Raises:
        ReconError: No package for this kind of URL is installed, or the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.place = url
        try:
            self._system, self._folder = url_to_fs(url)
        except Exception as error:
            raise ReconError(
                f"The folder of conflict profiles, {url}, cannot be reached: {error}. Install "
                "the package that fsspec needs for it, or give another folder."
            ) from error

    def prepare(self) -> None:
        """Check that the store is writable."""
        self.write(".probe", "")
        self.remove(".probe")

    def names(self) -> list[str]:
        """Return all names, newest first."""
        with _as_os_error():
            try:
                # What other machines have written since the last look counts, too.
                self._system.invalidate_cache()
                found = self._system.ls(self._folder, detail=False)
            except FileNotFoundError:
                return []
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in self._by_age(found)]

    def _by_age(self, paths: list[str]) -> list[str]:
        def age(path: str) -> tuple[float, str]:
            try:
                return self._system.modified(path).timestamp(), path
            except (NotImplementedError, FileNotFoundError):
                return 0.0, path  # this kind of folder knows no times, or it was just removed

        return sorted(paths, key=age, reverse=True)

    def where(self, name: str) -> str:
        """Return the location of a text."""
        return f"{self.place.rstrip('/')}/{name}"

    def read(self, name: str) -> str:
        """Return a text."""
        with _as_os_error():
            content: bytes = self._system.cat_file(self._path(name))
        return content.decode("utf-8")

    def write(self, name: str, text: str) -> None:
        """Store a text."""
        temporary = self._path(f".{name}.{uuid.uuid4().hex}.part")
        with _as_os_error():
            self._system.makedirs(self._folder, exist_ok=True)
            try:
                self._system.pipe_file(temporary, text.encode("utf-8"))
                self._system.mv(temporary, self._path(name))
            except BaseException:
                # Where this fails as well, the first failure is the one to tell.
                with contextlib.suppress(Exception):
                    self._system.rm_file(temporary)
                raise

    def rename(self, name: str, to: str) -> None:
        """Rename a text."""
        with _as_os_error():
            self._system.mv(self._path(name), self._path(to))

    def remove(self, name: str) -> None:
        """Delete a text."""
        with _as_os_error(), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def lock(self, name: str) -> None:
        """Return None: at a URL, the death of a process cannot be detected."""

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def open_store(place: str | Path) -> Store:
    """Return the store at a path or URL."""
    if isinstance(place, str) and "://" in place:
        kind, _, path = place.partition("://")
        if kind not in ("file", "local"):
            return UrlStore(place)
        place = path
    return FolderStore(Path(os.path.expanduser(place)).absolute())  # noqa: PTH111  # no such user: as it is


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def explained(action: str, store: Store, variable: str) -> Iterator[None]:
    """Convert an error of a store into one paragraph.

    Args:
        action: The action that failed, as in "Cannot ... the folder".
        store: The store.
        variable: The environment variable with which another location can be set.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ReconError(
            f"Cannot {action} the folder of conflict profiles, {store.place}: {refusal(error)}. "
            f"Fix that, or set the environment variable {variable} to another folder."
        ) from error


def _age(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except OSError:
        return 0, file.name  # removed by another process since the folder was listed
