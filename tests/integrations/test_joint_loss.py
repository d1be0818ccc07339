"""What the trainers with one loss keep of a weighting and a probe is checked when it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from libmtl_recon import ConflictProbe, ReconError, UsageError
from libmtl_recon.integrations.joint_loss import TaskLosses
from libmtl_recon.weighting import GradVac


def stateful(part: str) -> dict[str, Any]:
    if part == "probe":
        return {"probe": ConflictProbe(nn.Linear(2, 2), ["a", "b"])}
    return {"weighting": GradVac()}


@pytest.mark.parametrize("part", ["weighting", "probe"])
def test_its_own_state_is_loaded_and_no_other(part: str) -> None:
    losses = TaskLosses(**stateful(part))
    state = losses.state_dict()
    assert list(state) == [part]
    losses.load_state_dict(state)
    with pytest.raises(ReconError, match=rf"The checkpoint has no state of a {part}, but"):
        losses.load_state_dict({})
    with pytest.raises(ReconError, match="The checkpoint has the state of a junk"):
        losses.load_state_dict({**state, "junk": {}})
    with pytest.raises(UsageError, match=r"must be .*state_dict"):
        losses.load_state_dict({part: {}})


@pytest.mark.parametrize("state", [None, [], "weighting"])
def test_what_is_no_state_is_refused(state: Any) -> None:
    said = r"state must be what state_dict\(\) of a TaskLosses returned \(got "
    with pytest.raises(UsageError, match=said):
        TaskLosses().load_state_dict(state)


def test_without_a_state_there_is_none_to_load() -> None:
    losses = TaskLosses(lambda gramian: gramian.diag())
    assert losses.state_dict() == {}
    losses.load_state_dict({})
