"""A search as a user runs it, on a tiny script in which things may go wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from forks import python
from libmtl_recon_search import load_config, run_search
from matplotlib.image import imread

from libmtl_recon import ConflictProfile, UsageError
from libmtl_recon.cli import main

WriteConfig = Callable[..., Path]


def run_files(folder: Path) -> dict[str, int]:
    """The runs in a search's folder, each with the time at which it was written."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / "runs").glob("*.jsonl")}


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder / 'study.db'}"
    return optuna.load_study(study_name="tiny", storage=storage).get_trials()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished search: its configuration and its folder."""
    home = tmp_path_factory.mktemp("searched")
    tiny = Path(__file__).parent / "tiny.py"
    config = home / "tiny.yaml"
    config.write_text(
        f"script: {tiny}\nflags: {{epochs: 3}}\ntrials: 6\nscore: {{steps: 8}}\n"
        "finalists: {count: 2, seeds: [9]}\nconfirm: [1, 2]\n"
        "space: {alpha: {low: -1, high: 1, step: 1}, s: [-0.1, 0.0], k: {low: 0, high: 4}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBMTL_RECON_CACHE", str(home / "cache"))
        run_search(load_config(config), home / "out")
    return config, home / "out"


def test_leaves_a_report_pictures_a_profile_and_a_study(searched: tuple[Path, Path]) -> None:
    _, out = searched
    for name in ("conflicts.png", "improvement.png"):
        height, width, channels = imread(out / name).shape
        assert (min(height, width) > 300, channels) == (True, 4)
    profile = ConflictProfile.from_json((out / "profile.json").read_text())
    assert (profile.steps, profile.tasks) == (8, ("up", "down"))
    report = json.loads((out / "report.json").read_text())
    assert len(report["gain"]["values"]) == 2
    assert report["command"] in (out / "report.md").read_text(encoding="utf-8")
    assert len([t for t in trials_of(out) if "same_as" not in t.user_attrs]) == 6
    single, reference, best = report["rows"]
    assert single["parameters"] > best["parameters"] >= reference["parameters"]


def test_the_same_layers_are_trained_once(searched: tuple[Path, Path]) -> None:
    _, out = searched
    done = [t for t in trials_of(out) if t.state == optuna.trial.TrialState.COMPLETE]
    by_plan: dict[tuple[object, ...], list[optuna.trial.FrozenTrial]] = {}
    for trial in done:
        layers = sorted(trial.user_attrs["layers"])
        key = (trial.params["weighting"], trial.params.get("alpha"), *layers)
        by_plan.setdefault(key, []).append(trial)
    for same in by_plan.values():
        assert len({t.value for t in same}) == 1
        assert sum("same_as" not in t.user_attrs for t in same) <= 1


def test_the_command_in_the_report_gives_the_same_numbers(
    searched: tuple[Path, Path],
) -> None:
    _, out = searched
    command = json.loads((out / "report.json").read_text())["command"]
    done = subprocess.run(
        command.replace("libmtl-recon", f"{shlex.join(python())} -m libmtl_recon", 1),
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    last = next(line for line in done.stdout.splitlines() if line.startswith("Epoch: 0002"))
    losses = last.split("TRAIN: ")[1].split(" | Time")[0]
    logs = "".join(f.read_text() for f in (out / "runs").glob("plan-*.log"))
    assert losses in logs


def test_a_second_run_trains_nothing_again_and_more_trials_go_on(
    searched: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, out = searched
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path))
    before, count = run_files(out), len(trials_of(out))
    run_search(load_config(config), out)
    assert run_files(out) == before
    assert len(trials_of(out)) == count
    run_search(load_config(config).model_copy(update={"trials": 8}), out)
    assert len(trials_of(out)) > count
    after = run_files(out)
    assert {name.partition("-")[0] for name in before} == {"start", "plan", "single", "score"}
    assert {name: after[name] for name in before} == before


def test_another_search_in_the_same_folder_is_refused(searched: tuple[Path, Path]) -> None:
    config, out = searched
    changed = load_config(config).model_copy(update={"seed": 77})
    with pytest.raises(UsageError, match=r"seed.*--out"):
        run_search(changed, out)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "Metric 'Err' of task"),
        ("no_val", "val_dataloaders"),
        ("exit", "no such data"),
        ("killed", "SIGKILL"),
    ],
)
def test_a_script_that_fails_stops_the_search_with_a_paragraph(
    fault: str,
    said: str,
    write_config: WriteConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(flags={"epochs": 1, "fault": fault})
    assert main(["search", str(config), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("libmtl-recon: error: ")
    assert said in message


def test_a_trial_that_fails_costs_only_itself(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(flags={"epochs": 2, "fault": "exit:GradOPS"}, confirm=[1])
    report = run_search(load_config(config), tmp_path / "out")
    assert report.best.weighting == "EW"
    failed = [t for t in trials_of(tmp_path / "out") if t.state == optuna.trial.TrialState.FAIL]
    assert failed
    assert {t.params["weighting"] for t in failed} == {"GradOPS"}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_goes_on_after_it_was_stopped(
    number: signal.Signals, write_config: WriteConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = write_config(flags={"epochs": 2, "pause": 0.05}, trials=5, confirm=[1])
    command = [*python(), "-m", "libmtl_recon", "search", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 240
    # Two starts, EW, the scores, two tasks alone: the trials have begun.
    while time.monotonic() < until and len(run_files(out)) < 8:
        time.sleep(0.1)
    finished = {n: t for n, t in run_files(out).items() if _ended(out / "runs" / n)}
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    # After Ctrl-C too it ends by the signal itself, so that a shell's loop around it ends as well.
    assert process.returncode == -number, said
    if number == signal.SIGINT:
        assert "the same command resumes" in said

    report = run_search(load_config(config), out)
    assert report.seeds == (1,)
    after = run_files(out)
    assert finished != {}
    assert {name: after[name] for name in finished} == finished
    states = {trial.state for trial in trials_of(out)}
    assert optuna.trial.TrialState.RUNNING not in states


def _ended(events: Path) -> bool:
    return '"ended"' in events.read_text(encoding="utf-8")


def test_each_run_notes_how_soon_it_started(searched: tuple[Path, Path]) -> None:
    _, out = searched
    files = sorted((out / "runs").glob("*.jsonl"))
    firsts = [json.loads(file.read_text(encoding="utf-8").splitlines()[0]) for file in files]
    # Two starts, EW and the scores; two tasks with each of four seeds.
    assert len(firsts) >= 2 + 2 + 2 * 4
    assert {first["event"] for first in firsts} == {"started"}
    # Neither nothing, nor what is no duration at all.
    assert [first["after"] for first in firsts if not 0 < first["after"] < 60] == []


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"
)
def test_runs_are_forked_with_everything_in_memory(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, sys\n"
        "from libmtl_recon_search.process import Runner\n"
        "def loaded(queue):\n"
        "    wanted = {'torch', 'torchvision', 'LibMTL', 'libmtl_recon.launcher'}\n"
        "    queue.put(wanted - set(sys.modules))\n"
        "if __name__ == '__main__':\n"
        "    runner = Runner(1)\n"
        "    context = multiprocessing.get_context(runner.method)\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=loaded, args=(queue,))\n"
        "    process.start()\n"
        "    print(runner.method, queue.get(timeout=60))\n"
        "    process.join()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "forkserver set()", done.stderr
