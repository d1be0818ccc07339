"""The loops that docs/weightings.md shows run as they stand."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import libmtl_recon
from libmtl_recon import weighting

PAGE = (Path(__file__).parents[2] / "docs" / "weightings.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["step", "recording", "torchjd"])
def test_the_programs_run(block: str) -> None:
    if "libmtl_recon.step" in block and not hasattr(libmtl_recon, "step"):
        pytest.skip("libmtl_recon.step is not there")
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    loader = [(torch.randn(6, 5), torch.randn(3, 6, 1)) for _ in range(3)]
    names = {
        **{"encoder": encoder, "heads": heads, "optimizer": optimizer, "loader": loader},
        "criterion": nn.MSELoss(),
    }
    exec(block, names)
    if "optimizer" in block:
        moved = [(p - b).abs().max() for p, b in zip(encoder.parameters(), before, strict=True)]
        assert min(moved) > 1e-4


def test_the_signatures_in_the_table_are_those_of_the_code() -> None:
    shown = dict(re.findall(r"`(\w+)\(([^`)]*)\)(?:\.weights\([^`]*\))?`(?:,| \|)", PAGE))
    assert len(shown) >= 11
    for name, arguments in shown.items():
        found = inspect.signature(getattr(weighting, name))
        kept = [p.replace(annotation=p.empty) for p in found.parameters.values()]
        written = str(found.replace(parameters=kept, return_annotation=found.empty))[1:-1]
        assert arguments == written.replace("gramian", "M").replace("'", '"'), name
