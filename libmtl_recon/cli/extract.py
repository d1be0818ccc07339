"""``libmtl-recon extract``: extract one task's plain network from a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from libmtl_recon.cli.command import add_command, add_script, launch, target_of
from libmtl_recon.errors import ReconError
from libmtl_recon.files import check_writable

_DESCRIPTION = """\
Write one task's network of a trained model as a plain state dict: the encoder's own keys under
`encoder.`, the decoder's under `decoder.`, without task-specific layers. The script is run with
the flags with which the model was trained, to build the model and to get one batch, on which the
network is compared with the model; nothing is trained.
"""
_EPILOG = """\
examples:
  libmtl-recon extract --task digit best.pt main.py --arch Recon
  libmtl-recon extract --task digit --export digit.pt2 best.pt main.py --arch Recon

CHECKPOINT is a file written by torch.save(trainer.model.state_dict(), FILE) or LibMTL's
--save_path. To load the result, only the network's own classes are needed:

  net = torch.nn.Sequential()
  net.add_module("encoder", Encoder())
  net.add_module("decoder", Decoder())
  net.load_state_dict(torch.load("digit.pt"))
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "extract",
        "write one task's plain network from a trained model",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument(
        "--task", metavar="NAME", required=True, help="the task whose network is written"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where to write the state dict (default: NAME.pt)"
    )
    parser.add_argument(
        "--export",
        metavar="FILE.pt2",
        help="also write the network as a torch.export program, for batches of any size",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the trained model's state dict")
    add_script(parser)
    parser.set_defaults(handle=_handle)


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.splitting.checkpoint import read_checkpoint

    # All that can be checked is checked before the script runs.
    checkpoint = read_checkpoint("CHECKPOINT", options.checkpoint)
    out = Path(f"{options.task}.pt" if options.out is None else options.out)
    check_writable("--out", out)
    if options.export is not None:
        check_writable("--export", options.export)

    import torch

    from libmtl_recon.cli.tables import say
    from libmtl_recon.integrations.libmtl.extracting import ExtractingHook, export_program
    from libmtl_recon.integrations.libmtl.split_source import building_for

    hook = ExtractingHook(options.task, checkpoint)
    with building_for(checkpoint):
        status = launch(options, [hook])
    network = hook.network
    if network is None:
        if status == 0 and hook.attached:
            raise ReconError(
                f"{target_of(options)} built a Trainer, but no batch reached its model, so the "
                "network could not be compared with it. Make the script train or test."
            )
        return status
    network = network.cpu()
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    try:
        torch.save(state, out)
    except (OSError, RuntimeError) as error:
        raise ReconError(f"Cannot write {out}: {error}.") from error
    numbers = sum(parameter.numel() for parameter in network.parameters())
    say(f"Wrote the network of task {options.task} ({numbers:,} parameters) to {out}.")
    if options.export:
        export_program(network, hook.inputs, options.export)
        say(f"Exported it to {options.export}.")
    return status
