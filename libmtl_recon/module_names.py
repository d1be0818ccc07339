"""Names of modules: their paths in a network, independently of compilation."""

from __future__ import annotations

# The module inside one that `torch.compile` made.
COMPILED = "_orig_mod"
# The name of the layer of the parameters that a network holds itself, such as a class token. No
# module can be added under it by mistake.
ROOT = "(root)"


def layer_name(path: str) -> str:
    """The name of the layer of a module's own parameters, which the root has too."""
    return path or ROOT


def plain_name(path: str) -> str:
    """A module's path, or a state dict's key, as it is in the network that is not compiled."""
    return ".".join(part for part in path.split(".") if part != COMPILED)
