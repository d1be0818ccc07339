"""Tables that more than one command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from libmtl_recon.conflict.profile import ConflictProfile


def print_ranking(profile: ConflictProfile, S: float, top: int) -> None:
    """Print a profile's worst layers, worst first."""
    scores = profile.scores(S)
    counted = profile.steps * profile.pairs
    undefined = dict(zip(profile.layer_names, profile.undefined.sum(axis=0).tolist(), strict=True))
    layers = {layer.name: layer for layer in profile.architecture}
    table = Table(title=f"Layers by conflict score at S = {S:g}", title_justify="left")
    for heading in ("rank", "layer", "type", "parameters", "score", "share", "undefined"):
        table.add_column(heading, justify="left" if heading in ("layer", "type") else "right")
    for rank, name in enumerate(profile.ranking(S)[:top], start=1):
        layer = layers[name]
        share = scores[name] / counted if counted else 0.0
        table.add_row(
            *(str(rank), layer.title, layer.type, f"{layer.parameters:,}"),
            *(str(scores[name]), f"{share:.1%}", str(undefined[name] or "")),
        )
    make_console().print(table)
    if top < len(layers):
        print(f"and {len(layers) - top} more")


def make_console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
