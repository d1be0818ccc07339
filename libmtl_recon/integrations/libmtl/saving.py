"""Write ``FILE.split.json`` next to the file that LibMTL's ``--save_path`` writes."""

from __future__ import annotations

import os

from libmtl_recon.errors import ReconError
from libmtl_recon.files import is_file, refusal
from libmtl_recon.integrations.libmtl.data_parallel.environment import is_first
from libmtl_recon.integrations.libmtl.wrapper import Call

_FILE = "best.pt"  # LibMTL's name


def note_split(call: Call) -> None:
    """Write next to the best model's file how it is split; LibMTL writes that file next.

    Where nothing is split, the file of an earlier run is removed: it describes another network.

    Raises:
        ReconError: The file cannot be written or removed.
    """
    trainer, epoch = call.owner, call.arguments.get("epoch")
    folder = getattr(trainer, "save_path", None)
    if (
        not is_first()
        or folder is None
        or epoch is None
        or call.arguments.get("mode", "test") != "test"
    ):
        return
    if trainer.meter.best_result["epoch"] != epoch:
        return
    from libmtl_recon.splitting.spec_storage import file_beside, spec_of, write_beside

    file = os.path.join(folder, _FILE)  # noqa: PTH118  # as LibMTL does
    spec = spec_of(trainer.model)
    if spec is not None:
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            raise ReconError(
                f"Cannot create the --save_path {folder}: {refusal(error)}."
            ) from error
        write_beside(file, spec)
        return
    beside = file_beside(file)
    if is_file(beside):
        try:
            beside.unlink(missing_ok=True)
        except OSError as error:
            raise ReconError(
                f"Cannot remove {beside}, which describes another network than this run saves: "
                f"{refusal(error)}."
            ) from error
