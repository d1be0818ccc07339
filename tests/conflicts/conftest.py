from __future__ import annotations

from example_profiles import make_profile, profile

__all__ = ["make_profile", "profile"]
