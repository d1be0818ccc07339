"""Ranges of numbers: what they hold, what is in their middle, and which are none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search.ranges import Range, real
from libmtl_recon_search.suggesting import suggest
from optuna.trial import FixedTrial
from pydantic import ValidationError


def test_a_range_ends_on_its_last_step() -> None:
    assert Range(low=-0.3, high=0.0, step=0.1).values == [-0.3, -0.2, -0.1, 0.0]
    assert Range(low=-1.0, high=0.9, step=0.5).values == [-1.0, -0.5, 0.0, 0.5]
    assert Range(low=2.0, high=2.0, step=1.0).values == [2.0]
    assert Range(low=0.0, high=3e-10, step=1e-10).values == [0.0, 1e-10, 2e-10, 3e-10]
    assert list(Range(low=1, high=8, step=3).values or ()) == [1, 4, 7]


@pytest.mark.parametrize(
    ("given", "whole", "values"),
    [
        ({"low": 0, "high": 3}, True, [0, 1, 2, 3]),
        ({"low": 0, "high": 4, "step": 2}, True, [0, 2, 4]),
        ({"low": 1, "high": 4, "log": True}, True, [1, 2, 3, 4]),
        ({"low": 0, "high": 1, "step": 0.5}, False, [0.0, 0.5, 1.0]),
        ({"low": 0.0, "high": 1}, False, None),
        ({"low": 1e-4, "high": 0.1, "log": True}, False, None),
    ],
)
def test_whole_numbers_are_those_that_are_written_so(
    given: dict[str, Any], whole: bool, values: list[float] | None
) -> None:
    found = Range(**given)
    assert found.is_int is whole
    assert values == (None if found.values is None else list(found.values))
    if values is not None:
        assert {type(value) for value in found.values or ()} == {int if whole else float}


@pytest.mark.parametrize(
    ("given", "middle"),
    [
        ({"low": 0, "high": 3}, 2),
        ({"low": 0, "high": 4}, 2),
        ({"low": 0, "high": 12, "step": 4}, 8),
        ({"low": -1.0, "high": 1.0, "step": 0.5}, 0.0),
        ({"low": 0.0, "high": 1.0}, 0.5),
        ({"low": 1e-4, "high": 1e-2, "log": True}, 1e-3),
        ({"low": 1e-4, "high": 0.1, "log": True}, 0.003162),
        ({"low": 16, "high": 256, "log": True}, 64),
        ({"low": 1e300, "high": 1e308, "log": True}, 1e304),
        ({"low": 1e308, "high": 1.5e308}, 1.25e308),
        ({"low": 0.123456, "high": 0.123456}, 0.123456),
    ],
)
def test_the_middle_is_geometric_where_the_search_is_by_the_logarithm(
    given: dict[str, Any], middle: float
) -> None:
    found = Range(**given).middle
    assert found == middle
    assert type(found) is type(middle)


NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)


@given(NUMBERS, NUMBERS, st.none() | st.integers(1, 50), st.booleans())
def test_the_middle_is_in_the_range_and_on_its_steps(
    one: float, other: float, steps: int | None, log: bool
) -> None:
    low, high = sorted((one, other))
    step = (high - low) / steps if steps and high > low else None
    log = log and low > 0 and step is None
    made = Range(low=low, high=high, step=step, log=log)
    assert made.low <= made.middle <= made.high
    if made.values is not None:
        assert made.middle in made.values
        assert made.low == made.values[0]
        assert made.values[-1] <= made.high
        assert step is None or made.high - made.values[-1] <= 1.001 * step
    if log:
        # A whole number is off by up to a half, another by its fifth digit.
        off = 0.5 if made.is_int else 1e-3 * made.high
        assert made.middle == pytest.approx(math.exp((math.log(low) + math.log(high)) / 2), abs=off)


def test_no_step_goes_beyond_the_end_by_rounding() -> None:
    made = Range(low=-1, high=-2.4e-110, step=1.0)
    assert made.values == [-1.0]
    assert made.middle == -1.0


def test_a_range_can_be_made_one_of_real_numbers() -> None:
    found = real(Range(low=-2, high=1, step=1))
    assert not found.is_int
    assert found.values == [-2.0, -1.0, 0.0, 1.0]
    assert real(Range(low=1, high=8, log=True)) == Range(low=1.0, high=8.0, log=True)


@pytest.mark.parametrize(
    ("given", "place", "words"),
    [
        ({"low": 3, "high": 1}, "high", "must not be below low (3)"),
        ({"low": 0.5, "high": 0.4}, "high", "must not be below low (0.5)"),
        ({"low": True, "high": 1}, "low", "must be a number (got True)"),
        ({"low": "a", "high": 1}, "low", "must be a number (got 'a')"),
        ({"low": 0, "high": math.inf}, "high", "must be a finite number"),
        ({"low": math.nan, "high": 1}, "low", "must be a finite number"),
        ({"low": -1e308, "high": 1e308}, "high", "at a finite distance from low"),
        ({"low": 0, "high": 2**53 + 1}, "high", "from -2**53 to 2**53"),
        ({"low": 0, "high": 4, "step": 0}, "step", "must be greater than 0"),
        ({"low": 0, "high": 4, "step": -1}, "step", "must be greater than 0"),
        ({"low": 0, "high": 4, "step": math.nan}, "step", "must be a finite number"),
        ({"low": 0, "high": 1.0, "step": 1e-5}, "step", "at most 10000 steps"),
        ({"low": 1, "high": 4, "step": 1, "log": True}, "log", "cannot be combined with `step`"),
        ({"low": 0, "high": 4, "log": True}, "log", "needs a low above 0 (it is 0)"),
        ({"low": -1.0, "high": 4, "log": True}, "log", "needs a low above 0 (it is -1.0)"),
        ({"low": 1, "high": 4, "log": 1}, "log", "valid boolean"),
    ],
)
def test_what_is_no_range_is_refused(given: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Range(**given)
    (fault,) = caught.value.errors()
    assert fault["loc"] == (place,)
    assert words in fault["msg"]


def test_a_value_between_steps_is_none_of_a_range_however_short_they_are() -> None:
    among = Range(low=1e-8, high=9e-8, step=1e-8)
    assert suggest(FixedTrial({"x": 3e-8}), "x", among) == 3e-8
    with (
        pytest.warns(UserWarning, match="out of the range"),
        pytest.raises(ValueError, match=r"x has"),
    ):
        suggest(FixedTrial({"x": 3.5e-8}), "x", among)
