"""Tuning of EW, with which the best plan is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from libmtl_recon_search.objective import UndefinedMetricError
from libmtl_recon_search.plan import Plan

if TYPE_CHECKING:
    from libmtl_recon_search.session import Session


def best_flags(session: Session, plans: Sequence[Plan]) -> Plan:
    """Return the plan with the best lead, of those whose lead is defined.

    Args:
        session: The session that has trained them.
        plans: Plans of EW with different flags; the first is returned if none is better.
    """
    judge, costs = session.judge, {}
    for plan in plans:
        try:
            outcome = session.searched(plan, held_out=False)
        except UndefinedMetricError:
            continue
        costs[plan] = judge.cost(judge.lead, judge.lead_of(outcome))
    return min(costs, key=costs.__getitem__, default=plans[0])
