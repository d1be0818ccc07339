"""Hook into the import of LibMTL: patch what prevents it from loading, then register.

A finder on ``sys.meta_path`` waits for the name ``LibMTL``, lets the ordinary finders find it,
and wraps the loader that they chose. It removes itself from the path as soon as it was used.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class LibMTLFinder(MetaPathFinder):
    """Finder that wraps the loader of LibMTL, and of nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find LibMTL with the other finders and wrap its loader; ignore other names."""
        if fullname != "LibMTL":
            return None
        disarm()
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            # Until the import has succeeded, another attempt must find this finder again.
            arm()
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


class RegisteringLoader(Loader):
    """Loader that runs LibMTL's own between the patches for its import and the registration."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the wrapped loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import LibMTL, then register with it.

        Raises:
            MissingPackagesError: LibMTL needs packages that are not installed.
        """
        from libmtl_recon.integrations.libmtl.packages import explain_failed_import
        from libmtl_recon.integrations.libmtl.patches import patch_before_import
        from libmtl_recon.integrations.libmtl.registry import register

        # From here on the module is what it would be without this loader.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        patch_before_import(module)
        try:
            self.loader.exec_module(module)
        except ModuleNotFoundError as error:
            explain_failed_import(module, error)
            raise
        disarm()
        register(module)


def arm() -> None:
    """Install the finder for LibMTL, if it is not installed already."""
    if not any(isinstance(finder, LibMTLFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LibMTLFinder())


def disarm() -> None:
    """Remove the finder."""
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, LibMTLFinder)]
