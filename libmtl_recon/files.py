"""Files named by users, whose name may be a text that no file can have."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from libmtl_recon.errors import UsageError

_MOST_BYTES = 2**28


def is_file(name: str | os.PathLike[str]) -> bool:
    """Return whether there is such a file; False for a text that cannot be a file's name.

    ``pathlib`` raises an error for a name that is too long and, in some versions of Python, for a
    name with NUL or a lone surrogate, or in a folder without the right to read it.
    """
    return os.path.isfile(name)  # noqa: PTH113


def is_folder(name: str | os.PathLike[str]) -> bool:
    """Return whether there is such a folder; see :func:`is_file`."""
    return os.path.isdir(name)  # noqa: PTH112


def exists(name: str | os.PathLike[str]) -> bool:
    """Return whether there is a file, folder or device of this name; see :func:`is_file`."""
    return os.path.exists(name)  # noqa: PTH110


def refusal(error: OSError | ValueError) -> str:
    """Return the reason why a file could not be opened, in the words of the system or Python."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def read_text(file: str | os.PathLike[str]) -> str:
    """Return the text of a file, without the byte order mark that some editors write.

    Raises:
        OSError: The file cannot be read, or is larger than any file of this package.
        UnicodeDecodeError: It is not text in UTF-8.
        ValueError: No file can have this name.
    """
    with Path(file).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size  # 0 for a pipe
        found = stream.read(_MOST_BYTES + 1) if size <= _MOST_BYTES else b""
    if max(size, len(found)) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {_MOST_BYTES // 2**20} MB")
    return found.decode("utf-8-sig")


def write_atomically(file: Path, text: str) -> None:
    """Write a file atomically: readers see either the old content or the new one."""
    # With the permissions that new files have here, for a folder may be shared.
    if exists(file) and not is_file(file):  # a pipe or a device, in whose place none is put
        file.write_text(text, encoding="utf-8")
        return
    file = file.resolve()  # a link stays one
    temporary = file.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut may leave the new name and no content
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(parameter: str, file: str | os.PathLike[str]) -> None:
    """Check that a file can be written under this name, before the work whose result it is for.

    Args:
        parameter: The name under which the caller gave it, for the message.
        file: Its path.

    Raises:
        UsageError: No file can have this name, its folder does not exist, or it is a folder.
    """
    if not os.fspath(file) or is_folder(file):
        raise UsageError(
            parameter,
            "must be the name of a file",
            str(file),
            "This is a folder: give a file in it." if os.fspath(file) else "It is empty.",
        )
    if not is_folder(Path(file).parent):
        raise UsageError(
            parameter,
            "must lie in a folder that exists",
            str(file),
            f"Create {Path(file).parent} first.",
        )
    check_name(parameter, file)


def check_name(parameter: str, path: str | os.PathLike[str]) -> None:
    """Check that a file or folder can have this name, whether it exists or not.

    Args:
        parameter: The name under which the caller gave it, for the message.
        path: The name.

    Raises:
        UsageError: No file can have this name.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise UsageError(
            parameter,
            "must be a valid file name",
            str(path),
            f"The system reports: {refusal(error)}.",
        ) from error
