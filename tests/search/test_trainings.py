"""Whole trainings of a script: scored while they train, each once, and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from libmtl_recon import ProfileCache, ReconError, UsageError
from libmtl_recon.search import Training, Trainings

TINY = Path(__file__).parent / "tiny.py"
EW = [("EW", ())]


def written(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "runs").glob("*.jsonl")}


def test_trainings_are_scored_split_compared_and_kept(tmp_path: Path) -> None:
    trainings = Trainings(str(TINY), ["--epochs", "2"], tmp_path / "out", workers=2)
    with trainings.opened():
        network = trainings.look(EW)
        assert network.tasks == ("up", "down")
        assert [layer.name for layer in network.layers] == ["one", "norm", "two", "three", "four"]
        (joint,) = trainings.train([Training(score_every=2)], "joint")
        assert joint.profile is not None
        assert joint.profile.steps == 4  # of 2 epochs of 4 steps
        assert joint.profile.layer_names == tuple(layer.name for layer in network.layers)
        worst = tuple(joint.profile.layers(-0.1, 2))
        wanted = [
            Training(layers=worst, score_every=1),
            Training(layers=worst[::-1], score_every=1),
            *(Training(task=task) for task in network.tasks),
        ]
        split, again, *alone = trainings.train(wanted, "others")
        assert split.profile is not None
        assert split.profile.steps == 8
        assert set(split.profile.layer_names) == set(joint.profile.layer_names) - set(worst)
        assert again.file == split.file  # the same layers in another order
        shared, halved = trainings.compare([joint, split], alone)
        assert halved.parameters > shared.parameters
        # Relative to itself, a network gains nothing, and neither do its two equal trainings.
        assert [one.delta_m for one in trainings.compare([split, again], [split])] == [0.0, 0.0]
    # Their profiles are not in the cache, from which other runs would take layers.
    assert ProfileCache().list() == []

    before = written(tmp_path / "out")
    assert len(before) == 5
    (tmp_path / "out" / "runs" / split.file.name).write_text("damaged", encoding="utf-8")
    with trainings.opened():
        (found,) = trainings.train([wanted[0]], "again")
        assert found.profile is not None
        assert found.profile.scores(-0.1) == split.profile.scores(-0.1)
    after = written(tmp_path / "out")
    assert [name for name in before if after[name] != before[name]] == [
        split.file.name.replace(".profile.json", ".jsonl")
    ]


def test_a_flag_that_the_script_lacks_is_said_before_training(tmp_path: Path) -> None:
    trainings = Trainings(str(TINY), ["--nonsense", "2"], tmp_path / "out")
    refused = pytest.raises(ReconError, match="unrecognized arguments: --nonsense 2")
    with trainings.opened(), refused as caught:
        trainings.look(EW)
    assert caught.value.exit_status == UsageError.exit_status


def test_one_command_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    one, other = (Trainings(str(TINY), [], tmp_path / "out") for _ in range(2))
    with (
        one.opened(),
        pytest.raises(ReconError, match="Another command is running in"),
        other.opened(),
    ):
        pass
