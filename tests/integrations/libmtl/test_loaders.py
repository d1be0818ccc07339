"""What a script's data loaders raise comes through LibMTL's bare `except`."""

from __future__ import annotations

import copy
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import pytest
import torch

from libmtl_recon.integrations.libmtl.loaders import Loader


class Failing:
    """A loader whose second batch fails, once."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.passes = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        self.passes += 1
        yield batches(2)[0]
        if self.passes == 1:
            raise self.error
        yield from batches(2)


@pytest.mark.parametrize("error", [ValueError("a corrupt file"), KeyboardInterrupt()])
def test_what_the_data_loading_raises_is_not_swallowed(error: BaseException) -> None:
    trainer, failing = make_trainer("EW"), Failing(error)
    with pytest.raises(type(error)) as raised:
        trainer.train(failing, batches(2), epochs=1)
    assert raised.value is error
    assert failing.passes == 1, "nothing is drawn again"


def test_an_interrupt_outside_of_the_loader_is_not_swallowed_either() -> None:
    def as_libmtl_does(loader: Loader) -> None:
        try:
            raise KeyboardInterrupt  # as it may come just before or after the loader's own code
        except BaseException:  # noqa: BLE001  # LibMTL's is bare
            iter(loader)

    with pytest.raises(KeyboardInterrupt):
        as_libmtl_does(Loader([1, 2]))


def test_a_pass_that_starts_while_some_caller_handles_an_error_is_a_pass_as_any() -> None:
    def train() -> list[int]:
        return list(Loader([1, 2]))

    try:
        raise ValueError("the first model did not converge")
    except ValueError:
        assert train() == [1, 2]


def test_a_loader_can_be_gone_through_again_and_again() -> None:
    loader = Loader([1, 2])
    assert [list(loader), list(loader)] == [[1, 2], [1, 2]]
    iterator = iter(loader)
    assert [iterator.next(), iterator.next()] == [1, 2]
    with pytest.raises(StopIteration):
        iterator.next()
    assert len(loader) == 2


def test_a_wrapped_loader_still_answers_for_itself() -> None:
    loader = Loader(torch.utils.data.DataLoader([1, 2, 3], batch_size=2))
    assert (loader.batch_size, len(loader.dataset)) == (2, 3)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = loader.nosuch
    assert list(copy.copy(loader).dataset) == [1, 2, 3]
