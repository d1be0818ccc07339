"""What does not fit the script is said before anything is trained, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_runs import LAYERS, Asked, Curves, FakeRunner, write_search
from libmtl_recon_search import load_config
from libmtl_recon_search.faults import FaultsError
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.progress import Display
from libmtl_recon_search.session import Session

from libmtl_recon import ReconError, UsageError
from libmtl_recon.cli import main


def flat(asked: Asked, task: str) -> Curves:
    return [0.5], [0.5]


def prepare(folder: Path, known: tuple[str, ...] | None = None, **changes: Any) -> FakeRunner:
    runner = FakeRunner(flat)
    runner.known = known
    config = load_config(write_search(folder, **changes))
    try:
        Session(config, SearchFolder(folder / "out"), runner, Display()).prepare()
    finally:
        assert runner.trained == [] or len(runner.trained) == 4  # EW, scores, two tasks alone
    return runner


def test_all_that_does_not_fit_is_named_before_a_training(tmp_path: Path) -> None:
    space = {
        "weighting": ["EW", "GradOps", "GradOPS", "UW", "PCGard"],
        "k": {"low": 0, "high": LAYERS},
        "flags": {"UW": {"refused": 1}, "GradOPS": {"fine": 2}, "PCGard": {"lr": 3}},
    }
    score = {"weighting": "EWW", "flags": {"refused": 4}}
    with pytest.raises(FaultsError) as caught:
        prepare(tmp_path, space=space, score=score)
    first, *said = str(caught.value).splitlines()
    assert first == "The configuration has 5 faults."
    for line, word in zip(
        said,
        ("'GradOps'). Did you mean GradOPS?", "'PCGard'", "'EWW'", "k.high", "--refused 1"),
        strict=True,
    ):
        assert word in line
    assert not list((tmp_path / "out").rglob("plan-*"))


def test_one_fault_is_said_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^space.k.high must be below 12"):
        prepare(tmp_path, space={"weighting": ["EW"], "k": {"low": 0, "high": LAYERS}})
    with pytest.raises(ReconError, match=r"--refused 1 .*failed"):
        prepare(tmp_path, score={"flags": {"refused": 1}})


def test_a_start_that_fails_for_another_reason_is_left_to_its_trial(tmp_path: Path) -> None:
    space = {
        "weighting": ["EW", "UW"],
        "k": {"low": 0, "high": 3},
        "flags": {"UW": {"broken": True}, "EW": {}},
    }
    runner = prepare(tmp_path, space=space)
    assert len(runner.trained) == 4
    asked = [(Asked.by(job).weighting, job.steps) for job in runner.started]
    # Without flags of its own a weighting starts as EW does.
    assert asked == [("EW", 300), ("EW", 300), ("UW", None)]


def test_a_script_that_does_not_start_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="--broken"):
        prepare(tmp_path, flags={"broken": True})


def test_a_flag_that_the_script_lacks_is_named_before_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    tiny = Path(__file__).parent / "tiny.py"
    file.write_text(
        f"script: {tiny}\nflags: {{epochs: 1}}\n"
        "space: {weighting: [EW, GradOPS, PCGard], k: {low: 0, high: 5},\n"
        "        flags: {GradOPS: {gradops_alhpa: 1}}}\n",
        encoding="utf-8",
    )
    assert main(["search", str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for word in ("3 faults", "PCGrad?", "space.k.high must be below 5", "--gradops_alhpa 1"):
        assert word in said
    kinds = {run.name.partition("-")[0] for run in (tmp_path / "out" / "runs").glob("*.jsonl")}
    assert kinds == {"start"}


def test_flags_that_the_script_does_not_have_are_all_named(tmp_path: Path) -> None:
    space = {"weighting": ["EW", "UW"], "flags": {"UW": {"epoch": 2, "batch": [1, 2]}}}
    changes = {"flags": {"refused": 1, "lr": 2}, "score": {"flags": {"stepss": 4}}}
    with pytest.raises(FaultsError) as caught:
        prepare(tmp_path, ("epochs", "lr", "steps"), space=space, **changes)
    assert [fault.parameter for fault in caught.value.faults] == [
        "flags.refused",
        "space.flags.UW.batch",
        "score.flags.stepss",
    ]
    assert "Did you mean steps?" in str(caught.value)


def test_what_else_is_wrong_is_named_beside_unknown_flags(tmp_path: Path) -> None:
    space = {"weighting": ["EW", "PCGard"], "k": [0, LAYERS], "flags": {"EW": {"batch": 1}}}
    with pytest.raises(FaultsError) as caught:
        prepare(tmp_path, ("epochs",), space=space, flags={"refused": 1, "epochs": 2})
    assert [fault.parameter for fault in caught.value.faults] == [
        "flags.refused",
        "space.flags.EW.batch",
        "space.weighting",
        "space.k",
    ]


def test_what_a_parser_refuses_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    for changes in ({"flags": {"refused": 1}}, {"score": {"flags": {"refused": 1}}}):
        with pytest.raises(ReconError, match=r"--refused 1 .*failed") as caught:
            prepare(tmp_path, ("refused",), **changes)
        assert caught.value.exit_status == UsageError.exit_status
