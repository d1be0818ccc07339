"""What ranks tell one another: what each gets is what follows from what all have.

`cases_of_ranks.py` says what each rank has, and runs the cases on gloo processes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import cases_of_ranks as cases
import pytest
import torch
from forks import python
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from libmtl_recon.gradients.exchange import owners
from libmtl_recon.gradients.ranks import shares

PROGRAM = Path(__file__).with_name("cases_of_ranks.py")
ByRank = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ByRank:
    out = tmp_path_factory.mktemp("ranks") / "found"
    done = subprocess.run(
        [*python(libmtl=False), str(PROGRAM), str(out), str(request.param)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = range(request.param)
    return [torch.load(out.with_suffix(f".{rank}"), weights_only=False) for rank in ranks]


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_each_rank_has_the_tensors_of_all(found: ByRank) -> None:
    for own in found:
        assert len(own["gather_all"]) == len(found)
        for rank, of_rank in enumerate(own["gather_all"]):
            for one, wanted in zip(of_rank, cases.uneven(rank), strict=True):
                assert_same(one, wanted.resolve_conj())
        assert own["gather_all of nothing"] == [[]] * len(found)


def test_shapes_that_no_header_holds_are_told_besides(found: ByRank) -> None:
    for own in found:
        for rank, of_rank in enumerate(own["gather_all of many"]):
            assert len(of_rank) == 40
            for place, one in enumerate(of_rank):
                assert_same(one, cases.drawn(rank, 1 + (place + rank) % 3))


@pytest.mark.parametrize("case", ["other dtypes", "other axes", "other numbers"])
def test_tensors_that_do_not_fit_together_are_refused_by_all(found: ByRank, case: str) -> None:
    for own in found:
        assert own[case].startswith(
            "ReconError: The predictions or labels differ between the ranks"
        )


def test_each_tensor_is_given_to_one_rank(found: ByRank) -> None:
    places: tuple[list[int], ...] = ([0, 2], [1, 3, 4], [])
    for own, of_rank in zip(found, places, strict=False):
        assert len(own["deliver"]) == len(of_rank)
        for delivered, place in zip(own["deliver"], of_rank, strict=True):
            for rank, one in enumerate(delivered):
                assert_same(one, cases.uneven(rank)[place].resolve_conj())


def test_gradients_become_the_mean_in_their_place(found: ByRank) -> None:
    of_ranks = [cases.gradients(rank) for rank in range(len(found))]
    for own in found:
        for one, parts in zip(own["average"], zip(*of_ranks, strict=True), strict=True):
            assert one.dtype == parts[0].dtype
            wide = torch.promote_types(one.dtype, torch.float32)
            total = torch.stack([part.resolve_conj().to(wide) for part in parts]).sum(dim=0)
            # A quotient of complex numbers would be rounded otherwise.
            mean = (torch.view_as_real(total) if total.is_complex() else total) / len(found)
            wanted = torch.view_as_complex(mean) if total.is_complex() else mean
            assert_same(one, wanted.to(one.dtype))


def test_rank_0_tells_all(found: ByRank) -> None:
    for own in found:
        assert own["from_first"] == {"a": [0, None]}
        assert_same(own["share"], cases.drawn(0, 4, 3).T)


@pytest.mark.parametrize(("width", "dtype"), cases.COLUMNS)
def test_each_rank_has_the_sums_of_some_columns(
    found: ByRank, width: int, dtype: torch.dtype
) -> None:
    wanted = sum(cases.drawn(rank, 3, width, dtype=dtype).double() for rank in range(len(found)))
    assert isinstance(wanted, Tensor)
    stops = [0]
    for own in found:
        sums, start, stop = own[f"columns {width} {dtype}"]
        assert start == stops[-1]
        stops.append(stop)
        assert_same(sums.double(), wanted[:, start:stop])
    assert stops[-1] == width


def test_columns_of_bfloat16_are_added_up_in_float32(found: ByRank) -> None:
    for own in found:
        assert_same(own["fine columns"][:, :1], torch.full((2, 1), 256.0 + len(found) - 1))


def test_the_gramian_of_the_mean_is_that_of_blocks_of_columns(found: ByRank) -> None:
    rows = [cases.drawn(rank, 3, 13) for rank in range(len(found))]
    mean = torch.stack(rows).mean(dim=0)
    for own in found:
        torch.testing.assert_close(own["gramian_of_mean"], mean @ mean.T, rtol=1e-14, atol=0)


def test_gramians_and_their_errors_become_those_of_the_mean(found: ByRank) -> None:
    size = len(found)
    products = torch.stack([cases.drawn(rank, 2, 2) for rank in range(size)]).sum(dim=0) / size**2
    errors = torch.stack([cases.drawn(rank, 2) for rank in range(size)]).sum(dim=0) / size**2
    for own in found:
        for one, wanted in zip(
            own["add_up_gramians"], (products, 2 * products, errors), strict=True
        ):
            torch.testing.assert_close(one, wanted, rtol=1e-15, atol=0)


@pytest.mark.parametrize("way", cases.WAYS)
@pytest.mark.parametrize("network", cases.NETWORKS)
def test_parts_of_a_batch_have_its_gramian_and_update(
    found: ByRank, network: str, way: str
) -> None:
    whole = cases.samples(len(found))
    wanted = cases.of_batch(cases.NETWORKS[network](), whole, len(whole), way, None)
    for own in found:
        of_ranks = own[f"{network} {way}"]
        assert "products" in of_ranks["ways"]
        for name in ("total", "layers", "update"):
            largest = float(wanted[name].abs().max())
            torch.testing.assert_close(
                of_ranks[name], wanted[name], rtol=0, atol=1e-14 * largest, msg=name
            )


def test_layers_that_one_rank_leaves_out_are_refused_by_all(found: ByRank) -> None:
    for own in found:
        assert own["dropping"].startswith("ReconError: The network called different layers")


def test_what_is_sent_is_counted_by_what_for(found: ByRank) -> None:
    size = len(found)
    for rank, own in enumerate(found):
        columns = [3, 2, 2] if size == 3 else [4, 3]
        first, second = 96, 16  # with what fills up a multiple of 16
        delivered = {0: second, 1: first}.get(rank, first + second)
        pickled = len(b"x" * 100) + 8 + 16
        told = own["traffic"].pop("first", 0)
        assert told == 0 or (rank == 0 and abs(told - (size - 1) * pickled) < 16 * (size - 1))
        assert (told > 0) == (rank == 0)
        assert own["traffic"] == {
            "sum": 2 * 96 * (size - 1) // size,
            "largest": 2 * 96 * (size - 1) // size,
            "mean": 2 * 96 * (size - 1) // size,
            "gather": (size - 1) * 96,
            "columns": 4 * 5 * (7 - columns[rank]),
            "deliver": delivered,
            "exchange": 8 * (sum(range(1, size + 1)) - 1 - rank),
            **({"share": (size - 1) * 96} if rank == 0 else {}),
        }


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_are_neighbours_and_differ_by_one_at_most(length: int, size: int) -> None:
    found = shares(length, size)
    assert [index for share in found for index in range(length)[share]] == list(range(length))
    widths = [share.stop - share.start for share in found]
    assert len(found) == size
    assert widths == sorted(widths, reverse=True)
    assert widths[0] - widths[-1] <= 1


@given(st.lists(st.integers(0, 1000)), st.integers(1, 8))
def test_no_owner_has_more_than_another_and_its_smallest_layer(
    sizes: list[int], ranks: int
) -> None:
    found = owners(sizes, ranks)
    own = [[s for s, rank in zip(sizes, found, strict=True) if rank == of] for of in range(ranks)]
    assert sum(map(len, own)) == len(sizes)
    least = min(map(sum, own))
    assert all(sum(one) - min(one) <= least for one in own if one)
