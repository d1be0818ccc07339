"""Learning curves come back as they were written, with one objective and with several."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search.curves import CURVE, curve_of, longer
from optuna.trial import create_trial


@given(st.integers(0, 5), st.lists(st.floats(-10, 10), min_size=1, max_size=40))
def test_a_curve_comes_back(first: int, values: list[float]) -> None:
    kept = None
    for epoch, value in enumerate(values, start=first):
        kept = json.loads(json.dumps(longer(kept, epoch, value)))
    whole = dict(enumerate(values, start=first))
    assert curve_of(create_trial(value=0.0, user_attrs={CURVE: kept})) == whole
    assert curve_of(create_trial(value=0.0, intermediate_values=whole)) == whole


def test_a_value_that_stays_takes_no_room() -> None:
    kept = None
    for epoch in range(5000):
        kept = longer(kept, epoch, 1.0 if epoch < 10 else 2.0)
    assert kept == {"last": 4999, "changes": {"0": 1.0, "10": 2.0}}
