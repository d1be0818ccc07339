"""Add profiles of several seeds, weightings or data sets for one architecture."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from libmtl_recon.conflicts.fingerprint import loose_fingerprint
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.runs import runs_of
from libmtl_recon.conflicts.schedule import UntilStable, described
from libmtl_recon.errors import ReconError


def add_profiles(
    profiles: Sequence[ConflictProfile], judged: UntilStable | None = None
) -> ConflictProfile:
    """Return one profile with the steps of all profiles, whose scores are the sums of theirs.

    Args:
        profiles: At least one. Their layers have the same names and types; the result has the
            shapes of the first (profiles of a ResNet18 for one channel and one for three fit).
        judged: The choice of layers whose stability the sum records; None for none.

    Raises:
        ReconError: They have different architectures or numbers of tasks, or two contain the steps
            of the same scoring run.
    """
    first = profiles[0]
    if len({profile.id for profile in profiles}) < len(profiles):
        raise ReconError(
            "A profile cannot be added to itself: its steps would count twice, and the result "
            "would seem more certain than it is. Give each profile once."
        )
    _refuse_same_run(profiles)
    for other in profiles[1:]:
        if loose_fingerprint(other.architecture) != loose_fingerprint(first.architecture):
            raise ReconError(
                "Only profiles of one architecture can be added, and these have "
                f"{len(first.architecture)} and {len(other.architecture)} layers with other "
                "names or types. `libmtl-recon layers list` shows which profiles belong "
                "together."
            )
        if len(other.tasks) != len(first.tasks):
            raise ReconError(
                "Only profiles with the same number of tasks can be added, and these have "
                f"{len(first.tasks)} and {len(other.tasks)}: a step of one counts more pairs "
                "than a step of the other. Compare them with `libmtl-recon layers compare`."
            )
    same_tasks = all(other.tasks == first.tasks for other in profiles)
    tasks = first.tasks if same_tasks else tuple(f"task {t + 1}" for t in range(len(first.tasks)))
    wholes = [profile.whole for profile in profiles if profile.whole is not None]
    total = ConflictProfile(
        first.architecture,
        tasks,
        np.concatenate([profile.counts for profile in profiles]),
        np.concatenate([profile.undefined for profile in profiles]),
        np.concatenate([profile.block_steps for profile in profiles]),
        _provenance(profiles),
        np.concatenate(wholes) if len(wholes) == len(profiles) else None,
    )
    if judged is None:
        return total
    found = described(judged, judged.look(total))
    return replace(total, provenance={**total.provenance, "stability": found})


def _refuse_same_run(profiles: Sequence[ConflictProfile]) -> None:
    """Check that different profiles do not contain the steps of the same run."""
    holder: dict[str, ConflictProfile] = {}
    for profile in profiles:
        for run in runs_of(profile.provenance):
            other = holder.setdefault(run, profile)
            if other is not profile:
                raise ReconError(
                    f"Profiles {other.id} and {profile.id} both contain the steps of one scoring "
                    f"run ({run}), which would count twice, and the result would seem more "
                    "certain than it is. Leave one of them out."
                )


def _provenance(profiles: Sequence[ConflictProfile]) -> dict[str, Any]:
    """Return the common provenance, with a list of the individual ones and their steps."""
    origins = [profile.provenance for profile in profiles]
    found: dict[str, Any] = {}
    for key in ("dataset", "weighting", "architecture", "encoder", "seed"):
        values = list(dict.fromkeys(str(origin[key]) for origin in origins if key in origin))
        if values:
            found[key] = " + ".join(values)
    found["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found["added"] = [{**profile.provenance, "steps": profile.steps} for profile in profiles]
    return found
