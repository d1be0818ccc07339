"""Runs of scripts that call Trainer.train more than once, or build more than one Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
from libmtl_recon_search.child import Job
from libmtl_recon_search.process import Runner
from libmtl_recon_search.result import Result

from libmtl_recon import ConflictProfile

TINY = Path(__file__).parent / "tiny.py"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(1)


def job(folder: Path, fault: str, *flags: str, **more: object) -> Job:
    arguments = ("--epochs", "3", "--seed", "1", "--fault", fault, *flags)
    return Job(str(TINY), arguments, folder / f"{fault.replace(':', '-')}.jsonl", **more)


def numbers(result: Result, on: str) -> list[float]:
    return [metrics["up"]["Err"] for metrics in result.epochs[on]]


def test_an_outer_loop_is_followed_and_scored_over_its_calls(
    runner: Runner, tmp_path: Path
) -> None:
    seen: list[int] = []
    followed = runner.run(
        job(tmp_path, "calls"), lambda r: seen.append(len(r.epochs["val"])) is None
    )
    assert [len(followed.epochs[mode]) for mode in ("train", "val", "test")] == [3, 3, 3]
    assert [seen.index(epochs) for epochs in (1, 2, 3)] == sorted(map(seen.index, (1, 2, 3)))
    # Nothing in it depends on how often `train` is called: the same network, as well evaluated.
    plain = runner.run(job(tmp_path, "none"))
    for on in ("val", "test"):
        assert numbers(followed, on) == numbers(plain, on)
    file = tmp_path / "profile.json"
    runner.run(job(tmp_path, "calls:EW", "--weighting", "EW", profile=file, steps=7))
    assert ConflictProfile.from_json(file.read_text()).steps == 7


def test_of_several_trainers_the_first_is_measured(runner: Runner, tmp_path: Path) -> None:
    folds = runner.run(job(tmp_path, "folds"))
    plain = runner.run(job(tmp_path, "none"))
    assert "another model" in folds.notes
    assert "another model" not in plain.notes
    assert numbers(folds, "val") == numbers(plain, "val")
    assert len(folds.epochs["test"]) == 3
