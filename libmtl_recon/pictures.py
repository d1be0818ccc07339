"""Files of pictures, which are checked before any work is done and written atomically."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import check_writable, refusal
from libmtl_recon.texts import bounded, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")


def check_picture(parameter: str, file: str | Path) -> None:
    """Check that a picture can be written under this name.

    Raises:
        UsageError: Its ending is not that of a format, or its folder does not exist.
    """
    path = Path(file)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            parameter,
            f"must be a file name that ends in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}",
            str(file),
            "Change the ending.",
        )
    check_writable(parameter, file)


def shown(name: str, longest: int = 60) -> str:
    """Return a name as a picture can show it: shortened, without characters of special meaning.

    Args:
        name: The name of a layer, task, data set or file.
        longest: The maximum number of characters.
    """
    plain = bounded(printable(name), longest).replace("$", r"\$")  # no formula
    return f" {plain}" if plain.startswith("_") else plain  # which legends leave out


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure, sized in inches, that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_picture(figure: Figure, file: str | Path) -> None:
    """Write a figure to a .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    # Drawn in memory first: no half a picture is left where a disk is full.
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A box in its place says the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(picture, format=Path(file).suffix[1:].lower(), dpi=160, facecolor="white")
    try:
        Path(file).write_bytes(picture.getvalue())
    except (OSError, ValueError) as error:
        raise ReconError(
            f"Cannot write the picture to {file}: {refusal(error)}. Give a file that you may "
            "write to."
        ) from error
