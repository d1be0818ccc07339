#!/usr/bin/env bash
# PyTorch 2.14.1: `nn.MultiheadAttention` and `nn.TransformerEncoder` in evaluation are two functions,
# chosen by whether gradients are enabled. Without gradients a sample whose keys are all padded gives
# NaN, with them 0; and `nn.TransformerEncoder` gives zeros at padded positions without gradients, and
# values with them. A network that pools over all positions is so evaluated by another function under
# `torch.no_grad()` than without it. `torch.backends.mha.set_fastpath_enabled(False)` makes them one.
#
# Output seen:
#     all keys padded: without gradients nan, with gradients 0.0
#     padded position: without gradients zeros, with gradients values
#     fast path off: equal
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(2, 4, 8)
attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
encoder = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 1
).eval()
all_padded = torch.zeros(2, 4, dtype=torch.bool)
all_padded[1] = True
last_padded = torch.zeros(2, 4, dtype=torch.bool)
last_padded[:, 3] = True


def outputs():
    attended, _ = attention(x, x, x, key_padding_mask=all_padded, need_weights=False)
    return attended[1], encoder(x, src_key_padding_mask=last_padded)[:, 3]


with torch.no_grad():
    bare = outputs()
graded = outputs()
seen = [
    f"all keys padded: without gradients {float(bare[0].mean())}, "
    f"with gradients {float(graded[0].detach().abs().mean())}",
    f"padded position: without gradients {'zeros' if not bare[1].any() else 'values'}, "
    f"with gradients {'zeros' if not graded[1].any() else 'values'}",
]
torch.backends.mha.set_fastpath_enabled(False)
with torch.no_grad():
    off = outputs()
same = all(torch.equal(a, b.detach()) for a, b in zip(off, graded))
seen.append(f"fast path off: {'equal' if same else 'different'}")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "all keys padded: without gradients nan, with gradients 0.0",
        "padded position: without gradients zeros, with gradients values",
        "fast path off: equal",
    ]
)
PYTHON
