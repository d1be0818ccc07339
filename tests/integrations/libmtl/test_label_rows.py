"""Which samples have a label, and which part of a prediction is theirs."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from libmtl_recon import Masked, ReconError
from libmtl_recon.integrations.libmtl.missing_labels.rows import labelled_rows, take_rows

NAN = float("nan")


class Outputs(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


def places(label: Any) -> list[int] | None:
    found = labelled_rows(label)
    return None if found is None else found[1].tolist()


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.sampled_from([(), (3,), (1, 2, 2)]))
def test_nan_and_mask_say_the_same(present: list[bool], shape: tuple[int, ...]) -> None:
    label = torch.randn(len(present), *shape, dtype=torch.float64)
    mask = torch.tensor(present)
    masked = places(Masked(label, mask))
    label[~mask] = NAN
    expected = None if all(present) else mask.nonzero().flatten().tolist()
    assert places(label) == masked == expected
    # Saying it in both ways is saying it once.
    assert places(Masked(label, mask)) == expected


def test_a_label_that_is_nan_in_parts_is_there() -> None:
    label = torch.zeros(3, 2, 2)
    label[0, 0, 0] = NAN
    label[1, 1] = NAN
    assert places(label) is None
    label[1] = NAN
    assert places(label) == [0, 2]


@pytest.mark.parametrize(
    "label",
    [
        torch.tensor([1, -1]),
        torch.tensor(NAN),
        torch.zeros(0),
        torch.zeros(2, 0),
        {"a": 1},
        ["x", "y"],
        Masked(torch.tensor([1, 2]), torch.tensor([True, True])),
        Masked(["x", "y"], [1, 1]),
    ],
)
def test_what_cannot_be_missing_is_not(label: Any) -> None:
    assert labelled_rows(label) is None


@pytest.mark.parametrize("present", [torch.tensor([[True], [False]]), torch.tensor(True)])
def test_a_mask_is_one_bool_a_sample(present: torch.Tensor) -> None:
    with pytest.raises(ReconError, match="one bool per sample"):
        labelled_rows(Masked(torch.zeros(2), present))


def test_a_mask_has_the_length_of_its_labels() -> None:
    with pytest.raises(ReconError, match="3 labels in a batch, but `present` has 2"):
        labelled_rows(Masked(torch.tensor([NAN, 0.0, 0.0]), torch.tensor([True, False])))


def test_takes_tensors_and_what_is_made_of_them() -> None:
    x, rows = torch.arange(8.0).reshape(4, 2), torch.tensor([0, 3])

    def take(value: Any) -> Any:
        return take_rows(value, 4, rows, "it")

    assert torch.equal(take(x), x[[0, 3]])
    both = take({"a": x, "b": (x, [x[:, 0]])})
    assert torch.equal(both["b"][0], x[[0, 3]])
    assert torch.equal(both["b"][1][0], x[[0, 3], 0])
    named = take(Outputs(x, x[:, 0]))
    assert isinstance(named, Outputs)
    assert named.aux.tolist() == [0.0, 6.0]
    assert take(["a", "b", "c", "d"]) == ["a", "d"]
    boxes = [torch.zeros(n, 4) for n in (0, 4, 2, 1)]
    assert [len(one) for one in take(boxes)] == [0, 1]


def test_taking_keeps_the_graph() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    take_rows(x, 4, torch.tensor([1]), "it").sum().backward()
    assert x.grad is not None
    assert x.grad.sum(1).tolist() == [0.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(8, 2), r"it, of shape \[8, 2\], cannot be divided into samples"),
        (torch.tensor(1.0), r"it, of shape \[\], cannot be"),
        ("text", "it, str, cannot be"),
        ([torch.zeros(4, 2)] * 4, "a list of 4 tensors of 4 rows each"),
    ],
)
def test_refuses_what_does_not_tell_samples_apart(value: Any, said: str) -> None:
    with pytest.raises(ReconError, match=said):
        take_rows(value, 4, torch.tensor([0]), "it")


def test_moves_its_label_and_not_its_mask() -> None:
    masked = Masked({"a": torch.zeros(2), "n": 3}, torch.tensor([True, False]))
    moved = masked.to("meta", non_blocking=True)
    assert moved.label["a"].device.type == "meta"
    assert moved.label["n"] == 3
    assert moved.present is masked.present


def test_survives_collation_and_pickling() -> None:
    samples = [{"t": Masked(torch.tensor(i), i != 1)} for i in range(3)]
    batch = default_collate(samples)["t"]
    assert isinstance(batch, Masked)
    assert places(batch) == [0, 2]
    assert places(pickle.loads(pickle.dumps(batch))) == [0, 2]


class Samples:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        return torch.zeros(2), {"a": Masked(index, index % 2 == 0), "b": [NAN, 1.0][index % 2]}


def test_comes_through_workers_that_are_spawned() -> None:
    loader: DataLoader[Any] = DataLoader(
        Samples(), batch_size=4, num_workers=1, multiprocessing_context="spawn"
    )
    ((_, labels),) = list(loader)
    assert places(labels["a"]) == [0, 2]
    assert places(labels["b"]) == [1, 3]
