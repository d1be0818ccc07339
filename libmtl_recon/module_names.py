"""Names of modules: their paths in a network, independently of compilation."""

from __future__ import annotations

# The module inside one that `torch.compile` made.
COMPILED = "_orig_mod"
# The name of the layer of the parameters that a network holds itself, such as a class token. No
# module can be added under it by mistake.
ROOT = "(root)"


def layer_name(path: str) -> str:
    """Return the layer name of a module's path: the path itself, or ``(root)`` for the root."""
    return path or ROOT


def plain_name(path: str) -> str:
    """Return a module's path, or a state dict's key, as in the uncompiled network."""
    return ".".join(part for part in path.split(".") if part != COMPILED)
