"""What a run measured, read from its events: epochs are counted over all calls of train."""

from __future__ import annotations

from typing import Any

import pytest
from libmtl_recon_search.config import Config
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.judge import Judge
from libmtl_recon_search.result import Result

from libmtl_recon import ReconError


def read(*events: tuple[str, int | None, float]) -> Result:
    result = Result(higher_is_better={"t": {"acc": True}})
    for mode, epoch, value in events:
        metrics: dict[str, Any] = {"t": {"acc": value}}
        result.add({"event": "measured", "mode": mode, "epoch": epoch, "metrics": metrics})
    return result


def values(result: Result, on: str) -> list[float]:
    return [metrics["t"]["acc"] for metrics in result.epochs[on]]


def best_epoch(result: Result) -> int | None:
    config = Config(script="x.py", space=Space())
    judge = Judge(config, result.higher_is_better)
    return judge.best_epoch(judge.curve(result, {"t": {"acc": 0.5}}))


def test_epochs_of_one_call() -> None:
    result = read(
        *(("train", 0, 0.1), ("val", 0, 0.2), ("test", 0, 0.3)),
        *(("train", 1, 0.4), ("val", 1, 0.9), ("test", 1, 0.6)),
        ("test", None, 0.7),  # the script's own look at the end
    )
    assert values(result, "val") == [0.2, 0.9]
    assert values(result, "test") == [0.3, 0.6]
    assert best_epoch(result) == 1
    assert result.test_after(1, "val") == {"t": {"acc": 0.6}}


def test_each_call_of_train_begins_with_epoch_0() -> None:
    result = read(
        *(("train", 0, 0.1), ("val", 0, 0.8), ("test", 0, 0.3)),
        *(("train", 0, 0.1), ("val", 0, 0.9), ("test", 0, 0.5)),
        *(("train", 0, 0.1), ("val", 0, 0.2), ("test", 0, 0.7)),
    )
    assert values(result, "val") == [0.8, 0.9, 0.2]
    best = best_epoch(result)
    assert (best, result.test_after(best, "val")) == (1, {"t": {"acc": 0.5}})


@pytest.mark.parametrize("own", [None, 7])
def test_validation_between_two_calls_is_of_the_epoch_before(own: int | None) -> None:
    result = read(
        *(("train", 0, 0.1), ("test", 0, 0.3), ("train", 1, 0.1), ("test", 1, 0.4)),
        ("val", own, 0.9),
        ("val", own, 0.0),  # and once more
        *(("train", 0, 0.1), ("test", 0, 0.5), ("val", own, 0.8)),
    )
    assert values(result, "val") == [0.9, 0.8]
    assert [result.test_after(place, "val")["t"]["acc"] for place in (0, 1)] == [0.4, 0.5]


def test_a_script_with_a_training_of_its_own_has_its_own_epochs() -> None:
    result = read(("test", None, 0.0), ("val", 3, 0.9), ("test", 3, 0.4), ("test", 4, 0.5))
    assert values(result, "test") == [0.4, 0.5]
    assert result.test_after(0, "val") == {"t": {"acc": 0.4}}


def test_an_epoch_without_a_look_at_the_test_data_is_no_result() -> None:
    result = read(("train", 0, 0.1), ("test", 0, 0.3), ("train", 0, 0.1), ("val", 0, 0.9))
    with pytest.raises(ReconError, match="did not measure its test data"):
        result.test_after(0, "val")
