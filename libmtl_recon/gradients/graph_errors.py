"""Sentences for PyTorch's errors about graphs that cannot be differentiated (again)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from libmtl_recon.errors import ReconError


@contextmanager
def explained(caller: str, more: str = "") -> Iterator[None]:
    """Translate errors of backward passes inside the ``with`` block.

    Args:
        caller: The function that the user called.
        more: A further way out of a freed graph, as a sentence.

    Raises:
        ReconError: The graph was freed by an earlier pass, or compiled for a single one.
    """
    try:
        yield
    except RuntimeError as error:
        if "donated buffers" in str(error):
            raise ReconError(
                f"The network was compiled for one backward pass through its graph, but {caller} "
                "needs one per task. Set torch._functorch.config.donated_buffer = False before "
                "the network is called for the first time."
            ) from error
        if "a second time" in str(error):
            raise ReconError(
                f"The graph of the losses was freed by an earlier backward pass. Call {caller} "
                f"instead of loss.backward(), once per forward pass. {more}".rstrip()
            ) from error
        raise
