"""Check that all workers of one study run the same search."""

from __future__ import annotations

import json
from typing import Any

from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.folder import differences

from libmtl_recon import ReconError

_KEY = "header"


def agree(claims: Claims, fingerprint: dict[str, Any]) -> None:
    """Check that this worker's search is the one for which the study was created.

    The first worker stores a description of its search; a later worker with another search does not
    change the study.

    Args:
        claims: The claims of the study.
        fingerprint: The values that must be equal, by name, as JSON: the script's digest, the
            configuration, the packages' versions.

    Raises:
        ReconError: They differ; the message names the differences.
    """
    ours = json.loads(json.dumps(fingerprint))
    first = claims.find(_KEY) or claims.post(_KEY, json.dumps(ours).encode())
    theirs = json.loads(claims.content(first))
    changed = differences(theirs, ours)
    if changed:
        name = claims.study.study_name.removesuffix("/runs")
        raise ReconError(
            f"The study {name!r} in {claims.storage.address.shown} was created for another "
            f"search: {'; '.join(changed)} changed since then, so the runs of its workers are "
            "not comparable with those of this one. Give all workers the same script, "
            "configuration and packages; or give this search another `name`."
        )
