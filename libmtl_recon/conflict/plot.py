"""The picture of a conflict profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflict.grid import EDGES, PER_UNIT
from libmtl_recon.conflict.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError

_FORMATS = ("png", "svg", "pdf")
# Cosines are drawn in wider bins than they are counted in: 1/40, so that rows are not grainy.
_COARSE = 5


def check_picture(parameter: str, file: str | Path) -> None:
    """Check that a picture can be written under this name.

    Raises:
        UsageError: Its ending names no format, or its folder does not exist.
    """
    path = Path(file)
    if path.suffix.lstrip(".").lower() not in _FORMATS:
        raise UsageError(
            parameter,
            f"must be a file name that ends in one of .{', .'.join(_FORMATS)}",
            str(file),
            "Change the ending.",
        )
    if not path.parent.is_dir():
        raise UsageError(
            parameter, "must lie in a folder that exists", str(file), f"Make {path.parent} first."
        )


def draw_profile(profile: ConflictProfile, file: str | Path, S: float = -0.1) -> None:
    """Draw the heat map layer x cosine, with the S-conflict scores beside it.

    Args:
        profile: What to draw.
        file: A .png, .svg or .pdf file.
        S: The severity at which the line stands and the scores are counted.

    Raises:
        UsageError: The file name is none of a picture, or S is no severity.
        ReconError: The file cannot be written.
    """
    check_picture("file", file)
    scores = list(profile.scores(S).values())
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = len(profile.architecture)
    figure = Figure(figsize=(10, 1.6 + 0.19 * layers), layout="constrained")
    FigureCanvasAgg(figure)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    _draw_heat(figure, heat, profile, S)
    share = 100 * np.array(scores) / max(1, profile.steps * profile.pairs)
    worst = set(profile.ranking(S)[: max(1, layers // 4)])
    colors = ["#c1440e" if name in worst else "#b9b9c3" for name in profile.layer_names]
    bars.barh(np.arange(layers), share, color=colors, height=0.75)
    bars.set_xlabel(f"% of steps and pairs with cos < {S:g}")
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(axis="y", length=0)
    where = profile.provenance
    figure.suptitle(
        f"Gradient conflicts, layer by layer: {where.get('dataset', '')}, "
        f"{where.get('encoder', '')}, {profile.steps} steps of {where.get('weighting', '')}",
        fontsize=11,
    )
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise ReconError(f"Cannot write the picture {file}: {error.strerror or error}.") from error


def _draw_heat(figure: Any, axes: Any, profile: ConflictProfile, S: float) -> None:
    from matplotlib.colors import PowerNorm

    layers = len(profile.architecture)
    coarse = profile.histogram.reshape(layers, -1, _COARSE).sum(axis=2)
    share = 100 * coarse / np.maximum(1, coarse.sum(axis=1, keepdims=True))
    low, high = _extent(coarse)
    edges = EDGES[::_COARSE]
    shown: NDArray[np.float64] = np.ma.masked_equal(share, 0)  # type: ignore[no-untyped-call]
    # A power below 1 lets the tails, which are what matters, be seen beside the bulk.
    mesh = axes.pcolormesh(
        edges, np.arange(layers + 1) - 0.5, shown, cmap="viridis_r", norm=PowerNorm(0.4, 0)
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(S, color="#c1440e", linewidth=1.2, linestyle="--")
    axes.annotate(
        f"S = {S:g}", (S, -0.5), (-3, 2), textcoords="offset points", ha="right", color="#c1440e"
    )
    axes.set_xlim(low, high)
    axes.set_ylim(layers - 0.5, -0.5)
    axes.set_yticks(np.arange(layers), [layer.title for layer in profile.architecture], fontsize=7)
    axes.set_xlabel("cosine between two tasks' gradients")
    figure.colorbar(mesh, ax=axes, label="% of the layer's cosines", pad=0.01, fraction=0.04)


def _extent(coarse: NDArray[np.int64]) -> tuple[float, float]:
    """The range of cosines that holds nearly all counts, symmetric around 0."""
    total = coarse.sum(axis=0)
    filled = np.flatnonzero(total > 0.0005 * max(1, int(total.sum())))
    if not len(filled):
        return -1.0, 1.0
    half = PER_UNIT // _COARSE
    reach = max(half - filled[0], filled[-1] + 1 - half, 4) / half
    return -min(1.0, float(reach)), min(1.0, float(reach))
