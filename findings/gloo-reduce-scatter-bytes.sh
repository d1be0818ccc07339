#!/usr/bin/env bash
# PyTorch 2.14.1, gloo: `reduce_scatter_single` (once `reduce_scatter_tensor`), of which each of W
# ranks keeps one W-th of the sum, sends as many bytes as `all_reduce`, of which each keeps all. A ring
# needs half as many. The same result by `all_to_all_single` and a sum of what was received sends
# that half.
#
# Output seen, bytes that a rank sends for n bytes, four ranks, by Linux's count of its connections:
#     all_reduce: 1.50 n
#     reduce_scatter_single: 1.50 n
#     all_to_all_single and a sum: 0.75 n
#
# Needs Linux. Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cat > "$folder/ranks.py" <<'PYTHON'
import os
import socket
import struct
import sys

import torch
import torch.distributed as dist

BYTES_SENT = 200  # where Linux's struct tcp_info has tcpi_bytes_sent


def bytes_sent():
    """What this process's TCP connections have sent so far."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6):
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_SENT + 8)
                    total += struct.unpack_from("Q", info, BYTES_SENT)[0]
        except OSError:
            continue
    return total


dist.init_process_group("gloo")
ranks, rank = dist.get_world_size(), dist.get_rank()
whole = torch.ones(4_000_000)
part = torch.empty(len(whole) // ranks)


def all_to_all():
    received = torch.empty_like(whole)
    dist.all_to_all_single(received, whole)
    return received.view(ranks, -1).sum(dim=0)


ways = {
    "all_reduce": lambda: dist.all_reduce(whole.clone()),
    "reduce_scatter_single": lambda: dist.reduce_scatter_single(part, whole),
    "all_to_all_single and a sum": all_to_all,
}
seen = {}
for name, send in ways.items():
    dist.barrier()
    before = bytes_sent()
    send()
    dist.barrier()
    mean = torch.tensor([float(bytes_sent() - before)])
    dist.all_reduce(mean)
    seen[name] = round(float(mean) / ranks / (4 * len(whole)), 2)
    if rank == 0:
        print(f"{name}: {seen[name]:.2f} n")
wanted = {"all_reduce": 1.5, "reduce_scatter_single": 1.5, "all_to_all_single and a sum": 0.75}
sys.exit(seen != wanted)
PYTHON
"$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node=4 "$folder/ranks.py"
