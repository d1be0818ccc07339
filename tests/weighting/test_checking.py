"""What the functions of the Gramian methods take, and what they refuse by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from libmtl_recon import UsageError, fold_rotation
from libmtl_recon.weighting import (
    cagrad_weights,
    gradops_weights,
    gradvac_weights,
    pcgrad_weights,
)
from libmtl_recon.weighting.checked_gramian import check_gramian

ORDERS = [[1, 2], [0, 2], [0, 1]]
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "GradOPS": gradops_weights,
    "PCGrad": lambda gramian: pcgrad_weights(gramian, ORDERS),
    "CAGrad": lambda gramian: cagrad_weights(gramian, 0.5),
    "GradVac": lambda gramian: gradvac_weights(gramian, np.zeros((3, 3)), ORDERS, 0.5)[0],
}
ROWS = np.array([[1.0, 0, 2], [-2, 1, 1], [0, -1, 1]])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_lists_and_whole_numbers_do(name: str) -> None:
    matrix = ROWS @ ROWS.T
    wanted = FUNCTIONS[name](torch.from_numpy(matrix))
    assert wanted.dtype == torch.float64
    for given in (
        *(matrix, matrix.tolist(), matrix.astype(np.int64), torch.from_numpy(matrix).long()),
        *(torch.from_numpy(matrix).half(), torch.from_numpy(matrix).to_sparse()),
    ):
        assert torch.equal(FUNCTIONS[name](given), wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.ones((3, 2)), "must be .*square matri"),
        (np.ones(3), "must be .*square matri"),
        ([[1.0], [2.0, 3.0]], "a matrix of numbers"),
        (object(), "a matrix of numbers"),
        (np.full((3, 3), np.nan), r"finite numbers.*tasks \[0, 1, 2\]"),
        (np.diag([1.0, np.inf, 1.0]), r"finite numbers.*tasks \[1\]"),
        (ROWS, "symmetric"),
        (-ROWS @ ROWS.T, "no negative number on its diagonal"),
    ],
)
def test_what_is_no_gramian_is_refused(name: str, given: object, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        FUNCTIONS[name](given)
    assert raised.value.parameter == ("gramians" if name == "GradVac" else "gramian")


def test_a_rounding_of_the_dtype_is_no_asymmetry() -> None:
    matrix = torch.tensor([[1.0, 0.5], [0.5 * (1 + 2**-8), 1.0]])
    with pytest.raises(UsageError, match="symmetric"):
        check_gramian(matrix)
    assert torch.equal(check_gramian(matrix.bfloat16()), check_gramian(matrix.bfloat16()).T)
    # Squared in float32, 1e-25 is zero; its dot product with 1 is not.
    check_gramian(torch.tensor([[1.0, 1e-25], [1e-25, 0.0]]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_no_vectors_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="must have at least one task"):
        FUNCTIONS[name](torch.zeros(0, 0))
    # The squares fit, and the dot product is longer than both vectors.
    with pytest.raises(UsageError, match="must have no negative eigenvalue"):
        FUNCTIONS[name]([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("orders", [[[1], [0]], [[1, 2], [0, 2], [0]], [[1, 3], [0, 2], [0, 1]], 5])
def test_orders_must_be_places_of_tasks(orders: Any) -> None:
    matrix = ROWS @ ROWS.T
    with pytest.raises(UsageError, match="orders must be 3 lists of the same length"):
        pcgrad_weights(matrix, orders)
    with pytest.raises(UsageError, match="orders must be 3 lists of the same length"):
        gradvac_weights(matrix, np.zeros((3, 3)), orders, 0.5)


def test_numbers_out_of_range_are_named() -> None:
    matrix, zeros = ROWS @ ROWS.T, np.zeros((3, 3))
    with pytest.raises(UsageError, match="guard must be a finite number of at least 0"):
        pcgrad_weights(matrix, ORDERS, -1.0)
    with pytest.raises(UsageError, match="c must be a finite number of at least 0"):
        cagrad_weights(matrix, float("nan"))
    with pytest.raises(UsageError, match="beta must be a finite number from 0 to 1"):
        gradvac_weights(matrix, zeros, ORDERS, 2.0)
    for targets in (np.zeros((2, 2)), zeros + 2, "no"):
        with pytest.raises(UsageError, match="targets must be"):
            gradvac_weights(matrix, targets, ORDERS, 0.5)


@pytest.mark.parametrize("rotation", [torch.ones(2, 3), torch.ones(2), [[1.0]], None])
def test_only_a_square_matrix_is_folded(rotation: Any) -> None:
    with pytest.raises(UsageError, match="rotation must be a square matrix"):
        fold_rotation(torch.nn.Linear(3, 1), rotation)
