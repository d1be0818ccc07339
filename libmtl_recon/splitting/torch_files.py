"""Read files written by ``torch.save``, with readable errors for damaged or other files."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError

FORMAT = (
    "A checkpoint is written by torch.save(model.state_dict(), FILE) or torch.save({'model': "
    "model.state_dict(), 'optimizer': optimizer.state_dict()}, FILE)."
)
_CHUNK = 1 << 20
_EXTRA = "_extra_state"  # what a module of its own making keeps beside tensors, by torch's custom


def read_saved(source: str, file: str | os.PathLike[str]) -> Any:
    """Read a file written by ``torch.save``, without running code from it.

    Args:
        source: The file's name in messages.
        file: The path of the file.

    Raises:
        ReconError: The file cannot be read, is damaged, or contains other objects than tensors and
            containers of them.
    """
    path = Path(file)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ReconError(f"{source} cannot be read: it is a device or a pipe, not a file.")
        if path.is_file() and not path.stat().st_size:
            raise ReconError(f"{source} is empty, perhaps because a disk was full. {FORMAT}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong becomes an error below
            found = torch.load(path, map_location="cpu", weights_only=True)
        _check_sums(path)
    except OSError as error:
        raise ReconError(f"{source} cannot be read: {error.strerror or error}.") from error
    except ReconError:
        raise
    except Exception as error:  # torch's reader raises anything on a damaged file
        raise ReconError(
            f"{source} is damaged, or is not a checkpoint that contains only tensors. {FORMAT}"
        ) from error
    return found


def state_dict_in(source: str, found: Any) -> Mapping[str, Tensor]:
    """Check that a loaded object is a state dict of names and tensors only, and return it.

    Args:
        source: The object's name in messages.
        found: The loaded object.

    Raises:
        ReconError: The object is not such a state dict.
    """
    fits = isinstance(found, Mapping) and found and all(isinstance(key, str) for key in found)
    versions = getattr(found, "_metadata", {})  # what torch keeps beside the tensors
    fits = fits and isinstance(versions, Mapping)
    if not fits or not all(isinstance(value, Mapping) for value in versions.values()):
        raise ReconError(f"{source} does not contain a state dict. {FORMAT}")
    other = [key for key, value in found.items() if not _is_value(key, value)]
    if not other:
        kept: Mapping[str, Tensor] = found
        return kept
    inside = [key for key in other if _looks_like_one(found[key])]
    if inside:
        way_out = f"Its entry {inside[0]!r} looks like one; save only that entry."
    else:
        kind = type(found[other[0]]).__name__
        way_out = f"Its entry {other[0]!r} is not a tensor (its type is {kind}). {FORMAT}"
    raise ReconError(f"{source} does not contain a state dict. {way_out}")


def refuse_other_numbers(
    source: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    """Refuse values of another kind (integer, real or complex numbers) than the network's.

    Torch would convert them, with a loss of information.

    Args:
        source: The name of the given values in messages.
        own: The network's values.
        given: The values to load instead; other names are ignored.

    Raises:
        ReconError: A value is of another kind.
    """
    for name, value in given.items():
        if name in own and _numbers(value) != _numbers(own[name]):
            raise ReconError(
                f"{source} does not fit this network. {name} has {_numbers(value)} numbers "
                f"({value.dtype}), but the network has {_numbers(own[name])} numbers "
                f"({own[name].dtype})."
            )


def _numbers(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "no"
    return "complex" if value.is_complex() else "real" if value.is_floating_point() else "whole"


def _is_value(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) or key.split(".")[-1] == _EXTRA


def _looks_like_one(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())


def _check_sums(path: Path) -> None:
    """Verify the checksums of the records, which torch does not do.

    Raises:
        zipfile.BadZipFile: A checksum is wrong.
    """
    if not zipfile.is_zipfile(path):
        return  # the format before PyTorch 1.6 has none
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if not record.CRC:  # was written without
                continue
            with archive.open(record) as stream:
                while stream.read(_CHUNK):
                    pass
