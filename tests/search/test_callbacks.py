"""Trials told to MLflow and TensorBoard, and read back from there."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from libmtl_recon_search import callbacks
from libmtl_recon_search.callbacks import hide_secrets, make_callbacks
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from libmtl_recon import UsageError

# What they warn of when they are imported and used is their business.
pytestmark = pytest.mark.filterwarnings("ignore")

OBJECTIVES = ["delta_m", "parameters"]
DISTRIBUTIONS: dict[str, Any] = {
    "weighting": CategoricalDistribution(["EW", "GradOPS"]),
    "alpha": FloatDistribution(-3, 2),
    "k": IntDistribution(0, 9),
    "quick": CategoricalDistribution([True, False, None]),
}
PARAMS = {"weighting": "GradOPS", "alpha": -0.5, "k": 4, "quick": None}
ATTRIBUTES = {
    "plan": "GradOPS, k=4",
    "layers": ["conv1", "bn1"],
    "outcome": {"per_task": {"left": 1.5, "right": -2.0}, "note": "x", "not a number": math.nan},
    "seconds": 12.5,
    "flag": True,
    "rows": [1, 2],
}


def config(objectives: list[str] | None = None, **given: Mapping[str, Any] | None) -> Any:
    kinds = SimpleNamespace(**{"mlflow": None, "tensorboard": None, **given})
    return SimpleNamespace(callbacks=kinds, objectives=objectives or OBJECTIVES)


def search(calls: list[Any], states: list[TrialState] | None = None, **more: Any) -> optuna.Study:
    """A study whose trials the callbacks were told of."""
    study = optuna.create_study(study_name="digits", directions=["maximize", "minimize"])
    for number, state in enumerate(states or [TrialState.COMPLETE]):
        whole = state is TrialState.COMPLETE
        given: dict[str, Any] = {
            "params": PARAMS,
            "distributions": DISTRIBUTIONS,
            "intermediate_values": {0: -3.0, 1: 0.25, 4: 1.5},
            "user_attrs": ATTRIBUTES,
            "values": [1.25 + number, 3000.0] if whole else None,
        }
        study.add_trial(create_trial(state=state, **{**given, **more}))
        for call in calls:
            call(study, study.trials[-1])
    return study


def test_none_is_made_unless_asked_for() -> None:
    assert make_callbacks(config()) == []


def test_an_address_that_is_none_is_said_at_once() -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    # An unknown scheme, a driver that is not installed, and what is no URL.
    for scheme in ("nosuch://", "mysql+nosuch://", "http://["):
        with pytest.raises(UsageError, match=r"^callbacks\.mlflow\.tracking_uri must be") as caught:
            make_callbacks(config(mlflow={"tracking_uri": f"{scheme}me:hunter2@host/x"}))
        assert "hunter2" not in str(caught.value)


# A failure is no concern of the search.


def fail_at(monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> list[int]:
    """Have the callback fail at some trials; the trials at which it was called."""
    called = []

    def make(given: Any, objectives: Any) -> Any:
        def call(study: Any, trial: Any) -> None:
            called.append(trial.number)
            if trial.number in failing:
                raise OSError("no way to\n http://me:hunter2@host/runs?token=hunter2&x=1")

        return call

    monkeypatch.setitem(callbacks._KINDS, "mlflow", make)
    return called


STATES = [TrialState.COMPLETE] * 9


def test_a_failure_is_said_once_and_the_callback_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    called = fail_at(monkeypatch, {1, 2, 4, 6, 7})
    search(make_callbacks(config(mlflow={}), said.append), STATES)
    assert called == list(range(9))
    assert said == [
        "The callback mlflow failed, and trial 1 is missing there: OSError: no way to "
        "http://***@host/runs?token=***&x=1 The search continues; after 3 failures in a row the "
        "callback is switched off."
    ]


def test_after_three_failures_in_a_row_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    called = fail_at(monkeypatch, {1, 3, 4, 5})
    search(make_callbacks(config(mlflow={}), said.append), STATES)
    assert called == [0, 1, 2, 3, 4, 5]
    assert len(said) == 1


def test_by_default_it_is_said_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at(monkeypatch, {0})
    search(make_callbacks(config(mlflow={})))
    assert "The callback mlflow failed" in capsys.readouterr().err


def test_secrets_of_urls_are_hidden() -> None:
    for text, shown in (
        ("at http://u:p/w@h:1/x: no", "at http://***@h:1/x: no"),
        ("postgresql://token@h/x and more", "postgresql://***@h/x and more"),
        ("http://h/x?user=a&sslpassword=b'", "http://h/x?user=a&sslpassword=***'"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ):
        assert hide_secrets(text) == shown


# MLflow.


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
    yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def runs_of(uri: str, experiment: str) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    return client, sorted(runs, key=lambda run: int(run.data.tags["trial"]))


def test_each_trial_is_a_run_of_mlflow(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    said: list[str] = []
    study = search(make_callbacks(config(mlflow={"tracking_uri": uri}), said.append), states)
    assert (said, capfd.readouterr().out) == ([], "")
    client, runs = runs_of(uri, "digits")
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED"]
    assert [run.data.tags["state"] for run in runs] == ["COMPLETE", "PRUNED", "FAIL"]
    own = {
        "outcome/per_task/left": 1.5,
        "outcome/per_task/right": -2.0,
        "seconds": 12.5,
        "curve": 1.5,
    }
    assert runs[0].data.metrics == {"delta_m": 1.25, "parameters": 3000.0, **own}
    assert runs[1].data.metrics == runs[2].data.metrics == own
    for run, trial in zip(runs, study.trials, strict=True):
        assert run.data.params == {name: str(value) for name, value in PARAMS.items()}
        curve = client.get_metric_history(run.info.run_id, "curve")
        assert {point.step: point.value for point in curve} == {0: -3.0, 1: 0.25, 4: 1.5}
        tags = run.data.tags
        assert (tags["plan"], tags["layers"]) == ("GradOPS, k=4", "conv1, bn1")
        assert run.info.run_name == f"digits {trial.number}"
        assert trial.datetime_start is not None
        assert run.info.start_time == round(trial.datetime_start.timestamp() * 1000)


def test_what_mlflow_does_not_take_is_made_to_fit(uri: str) -> None:
    long = {epoch: float(epoch) for epoch in range(2300)}
    many = {f"p{index}": index for index in range(230)}
    more = {
        "intermediate_values": long,
        "params": many,
        "distributions": {name: IntDistribution(0, 300) for name in many},
        "user_attrs": {"Δ of left?": 3.0, "plan": "x" * 20_000, "n" * 400: "y"},
    }
    said: list[str] = []
    calls = make_callbacks(config(mlflow={"tracking_uri": uri, "experiment": "E"}), said.append)
    search(calls, **more)
    assert said == []
    client, (run,) = runs_of(uri, "E")
    assert len(client.get_metric_history(run.info.run_id, "curve")) == 2300
    assert len(run.data.params) == 230
    assert run.data.metrics["_ of left_"] == 3.0
    assert run.data.tags["plan"] == "x" * 500


def test_names_of_the_study_come_before_those_of_the_file(uri: str) -> None:
    (call,) = make_callbacks(config(mlflow={"tracking_uri": uri}))
    study = optuna.create_study(study_name="named", directions=["maximize"])
    study.add_trial(create_trial(values=[2.0]))
    call(study, study.trials[0])  # two names for one value
    study.set_metric_names(["accuracy"])
    study.add_trial(create_trial(values=[3.0]))
    call(study, study.trials[1])
    _, (first, second) = runs_of(uri, "named")
    assert (first.data.metrics, second.data.metrics) == ({"value_0": 2.0}, {"accuracy": 3.0})


@pytest.mark.slow
def test_two_workers_share_an_experiment(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    first, second = (make_callbacks(config(mlflow={"tracking_uri": uri}))[0] for _ in range(2))
    own = MlflowClient.get_experiment_by_name
    looks = iter([False, True])

    def look(client: Any, name: str) -> Any:
        return own(client, name) if next(looks, True) else None

    search([first])
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look)
    search([second])
    assert len(runs_of(uri, "digits")[1]) == 2


def test_a_server_that_is_gone_ends_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    server = "http://me:hunter2@127.0.0.1:9"
    search(make_callbacks(config(mlflow={"tracking_uri": server}), said.append), STATES)
    assert len(said) == 1
    assert "http://***@127.0.0.1:9/" in said[0]
    assert "hunter2" not in said[0]


# TensorBoard.


def test_each_trial_has_a_folder_of_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    said: list[str] = []
    states = [TrialState.COMPLETE, TrialState.FAIL]
    calls = make_callbacks(config(tensorboard={"log_dir": str(tmp_path / "tb")}), said.append)
    study = search(calls, states)
    assert said == []
    for trial, state in zip(study.trials, ("COMPLETE", "FAIL"), strict=True):
        folder = tmp_path / "tb" / "digits" / f"trial-{trial.number:04d}"
        events = EventAccumulator(str(folder)).Reload()
        curve = {event.step: event.value for event in events.Scalars("curve")}
        assert curve == {0: -3.0, 1: 0.25, 4: 1.5}
        assert events.Scalars("outcome/per_task/right")[0].value == -2.0
        assert [e.value for e in events.Scalars("seconds")] == [12.5]
        known = events.Tags()["scalars"]
        assert ("delta_m" in known) == ("parameters" in known) == (state == "COMPLETE")
        if state == "COMPLETE":
            assert events.Scalars("delta_m")[0].value == 1.25
        text = events.Tensors("state/text_summary")[0].tensor_proto.string_val
        assert list(text) == [state.encode()]
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        begun = HParamsPluginData.FromString(content).session_start_info.hparams
        assert begun["k"].number_value == 4
        assert begun["weighting"].string_value == "GradOPS"
        assert begun["quick"].string_value == "None"
    assert not list((tmp_path / "tb").glob("events*"))


def test_by_default_the_folder_is_that_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    monkeypatch.chdir(tmp_path)
    calls = make_callbacks(config(tensorboard={}))
    monkeypatch.chdir(tmp_path.parent)  # a script of this process may do so
    search(calls)
    assert list(tmp_path.glob("runs/tensorboard/digits/trial-0000/events.out.*"))


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    (tmp_path / "file").write_text("", encoding="utf-8")
    said: list[str] = []
    calls = make_callbacks(config(tensorboard={"log_dir": str(tmp_path / "file")}), said.append)
    search(calls, STATES)
    assert len(said) == 1
    assert "The callback tensorboard failed, and trial 0 is missing there" in said[0]


def test_nothing_is_imported_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert make_callbacks(config()) == []
