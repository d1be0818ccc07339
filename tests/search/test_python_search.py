"""A search from Python: in a plain script, with data frames, and with trials of the user's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import libmtl_recon_search.run
import optuna
import pytest
from fake_runs import LAYERS, Asked, Curves, FakeRunner, write_search
from forks import python

from libmtl_recon import ReconError, UsageError
from libmtl_recon.search import SearchResult, optimize, write_report

TINY = Path(__file__).parent / "tiny.py"


def level(asked: Asked, task: str) -> Curves:
    found = 0.5 + (0.0 if asked.alone else 0.01 * asked.K)
    return [found - 0.01, found], [found - 0.01, found]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    runner = FakeRunner(level)
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", runner)
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    return runner


def close(found: SearchResult) -> None:
    found.study._storage.remove_session()


def test_what_was_found_is_there_as_values(runner: FakeRunner, tmp_path: Path) -> None:
    found = optimize(write_search(tmp_path, trials=5), tmp_path / "out")
    best = max(found.trials, key=lambda trial: trial.values["delta_m"])
    assert found.best == best
    assert best.picked
    assert found.best.plan == found.report.best.title
    assert f"--recon_k {len(found.report.best.layers)}" in found.best.command
    assert str(tmp_path / "out" / "profile.json") in found.best.command
    assert list(found.pareto) == [trial for trial in found.trials if trial.on_front]
    assert found.profile is not None
    assert len(found.profile.layer_names) == LAYERS
    assert found.study.study_name == "study"
    close(found)


def test_frames_have_a_row_for_each_trial_and_epoch(runner: FakeRunner, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    found = optimize(write_search(tmp_path, trials=4), tmp_path / "out")
    frame = found.trials_dataframe()
    assert list(frame["number"]) == [trial.number for trial in found.trials]
    gains = 100 * 0.01 * frame["k"] / 0.5
    assert list(frame["value.delta_m"]) == pytest.approx(list(gains))
    assert list(frame["task.a"]) == pytest.approx(list(gains))
    curves = found.curves_dataframe()
    assert len(curves) == 2 * len(found.trials)
    assert list(curves["epoch"][:2]) == [0, 1]
    close(found)


def test_the_keys_may_be_a_mapping(
    runner: FakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text("never run", encoding="utf-8")
    space = {"weighting": ["EW"], "k": {"low": 0, "high": 3}, "s": [-0.1]}
    found = optimize({"script": "main.py", "space": space, "trials": 2, "confirm": [1]})
    assert found.folder == tmp_path / "runs" / "main"
    assert (tmp_path / "runs" / "main" / "report.html").exists()
    close(found)
    with pytest.raises(UsageError, match="configuration: trails must be a known key"):
        optimize({"script": "main.py", "space": space, "trails": 2})


def test_trials_of_the_user_are_trained_by_the_next_session(
    runner: FakeRunner, tmp_path: Path
) -> None:
    file = write_search(tmp_path, trials=3)
    found = optimize(file, tmp_path / "out")
    trained = {trial.params["k"] for trial in found.trials}
    new = next(K for K in range(1, LAYERS) if K not in trained)
    found.study.enqueue_trial({"weighting": "EW", "k": new, "s": -0.1})
    close(found)
    again = optimize(write_search(tmp_path, trials=4), tmp_path / "out")
    assert new in {trial.params["k"] for trial in again.trials}
    assert len(again.trials) == 4
    close(again)


def test_the_report_is_written_at_any_time(runner: FakeRunner, tmp_path: Path) -> None:
    file, out = write_search(tmp_path, trials=6), tmp_path / "out"
    with pytest.raises(ReconError, match=r"contains no search that has trials"):
        write_report(file, out)
    seen: list[Asked] = []

    def fourth_plan(asked: Asked) -> bool:
        seen.append(asked)
        return len([one for one in seen if one.K]) > 3

    runner.interrupt = fourth_plan
    with pytest.raises(KeyboardInterrupt):
        optimize(file, out)
    files = write_report(file, out)
    assert [one.name for one in files] == ["report.html", "report.md"]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "has not finished" in text
    assert "EW, Recon S=-0.1 K=6" in text
    runner.interrupt = lambda _: False
    close(optimize(file, out))
    (out / "report.html").unlink()
    assert [one.name for one in write_report(file, out)] == ["report.html"]
    assert "On held-out test data the best" in (out / "report.md").read_text(encoding="utf-8")


def test_a_plain_script_searches(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from libmtl_recon.search import optimize\n"
        f"space = {{'weighting': ['EW', 'UW']}}\n"
        f"found = optimize({{'script': {str(TINY)!r}, 'flags': {{'epochs': 1}}, 'space': space,\n"
        "                   'trials': 1, 'confirm': [1], 'finalists': {'count': 1, 'seeds': []}},\n"
        "                  'out')\n"
        "print('found', found.best.plan, len(found.study.trials))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [*python(), str(script)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("found ")
    assert done.stderr.count("baselines and conflict scores") == 1


def test_optunas_own_figures_take_the_study(runner: FakeRunner, tmp_path: Path) -> None:
    objectives = ["delta_m", "parameters"]
    found = optimize(write_search(tmp_path, trials=6, objectives=objectives), tmp_path / "out")
    figure = optuna.visualization.plot_pareto_front(found.study)
    assert len(figure.data) >= 1
    assert found.study.metric_names == objectives
    assert {trial.number for trial in found.study.best_trials} >= {
        trial.number for trial in found.pareto
    }
    close(found)
