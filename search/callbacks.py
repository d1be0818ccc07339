"""Callbacks that report ended trials to MLflow and TensorBoard."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import optuna
from libmtl_recon_search.curves import CURVE, curve_of
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import UsageError
from libmtl_recon.output import warn

Callback = Callable[[optuna.Study, FrozenTrial], None]

_TRIES = 3
_FOLDER = "runs/tensorboard"
# The limits of MLflow per call.
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_LONGEST_NAME, _LONGEST_VALUE = 250, 500
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
# In a URL: the user information, which may have a password or a token, and secrets in the query.
_USER = re.compile(r"(?<=://)\S+@")
_SECRET = re.compile(r"(?i)([?&][^=&\s]*(?:pass|pwd|token|secret|key)[^=&\s]*=)[^&\s'\"]+")


class Asked(Protocol):
    """The part of a configuration that is used here: ``callbacks`` and the objectives."""

    @property
    def callbacks(self) -> Any: ...  # noqa: D102
    @property
    def objectives(self) -> Sequence[str]: ...  # noqa: D102


def make_callbacks(config: Asked, say: Callable[[str], None] = warn) -> list[Callback]:
    """Create the callbacks for ended trials, in Optuna's form.

    ``callbacks: {mlflow: {tracking_uri: …, experiment: …}, tensorboard: {log_dir: …}}`` enables
    both; null disables one. By default, MLflow chooses where it keeps runs, the experiment has the
    study's name, and the folder is ``runs/tensorboard``. Each gets a trial's parameters, the values
    of the objectives, its state, the numbers and strings of its user attributes, and its learning
    curve.

    A callback never raises: its first failure is reported. After three failures in a row it is
    disabled.

    Args:
        config: The search's configuration.
        say: A function that is called with a message on failure, in which passwords are hidden.

    Raises:
        UsageError: The address is not one at which MLflow can keep runs.
    """
    found: list[Callback] = []
    for name, make in _KINDS.items():
        given = getattr(config.callbacks, name)
        if given is not None:
            found.append(_Shielded(name, make(given, tuple(config.objectives)), say))
    return found


class _Shielded:
    """A callback whose failures do not affect the search."""

    def __init__(self, name: str, callback: Callback, say: Callable[[str], None]) -> None:
        self._name, self._callback, self._say = name, callback, say
        self._said, self._failures = False, 0
        self._one_at_a_time = threading.Lock()  # workers are threads

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._one_at_a_time:
            if self._failures == _TRIES:
                return
            try:
                self._callback(study, trial)
            except Exception as error:  # noqa: BLE001  # of any library; the search continues
                self._failures += 1
                self._tell(trial, error)
            else:
                self._failures = 0

    def _tell(self, trial: FrozenTrial, error: Exception) -> None:
        if self._said:
            return
        self._said = True
        why = " ".join(f"{type(error).__name__}: {error}".split())
        self._say(
            f"The callback {self._name} failed, and trial {trial.number} is missing there: "
            f"{hide_secrets(why)} The search continues; after {_TRIES} failures in a row the "
            "callback is switched off."
        )


def hide_secrets(text: str) -> str:
    """Return a text with secrets in URLs, such as everything before an ``@``, as ``***``."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


class _MLflow:
    """Callback that writes each trial as a run of an MLflow experiment."""

    def __init__(self, given: Mapping[str, str], objectives: tuple[str, ...]) -> None:
        from mlflow import MlflowClient

        # They log each table of a new database.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Not the functions of mlflow, which use one address and one run for the whole process.
        try:
            self._client = MlflowClient(tracking_uri=given.get("tracking_uri"))
        except Exception as error:  # of MLflow, of a missing driver, of a URL parser
            raise UsageError(
                "callbacks.mlflow.tracking_uri",
                "must be an address that MLflow supports for its runs",
                hide_secrets(given.get("tracking_uri", "")),
                hide_secrets(" ".join(str(error).split())),
            ) from error
        self._experiment = given.get("experiment")
        self._objectives = objectives
        self._id: str | None = None

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if self._id is None:
            self._id = self._find(self._experiment or study.study_name)
        begun, ended = _milliseconds(trial.datetime_start), _milliseconds(trial.datetime_complete)
        values = _values(study, trial, self._objectives)
        metrics = [Metric(_name(name), value, ended, 0) for name, value in values.items()]
        curve = sorted(curve_of(trial).items())
        metrics += [Metric(CURVE, value, ended, epoch) for epoch, value in curve]
        params = [Param(_name(n), str(v)[:_LONGEST_VALUE]) for n, v in trial.params.items()]
        tags = {"study": study.study_name, "trial": trial.number, "state": trial.state.name}
        tags |= _texts(trial)
        shown = [RunTag(_name(n), str(v)[:_LONGEST_VALUE]) for n, v in tags.items()]
        run = self._client.create_run(
            self._id, start_time=begun, run_name=f"{study.study_name} {trial.number}"
        )
        status = "FAILED"
        try:
            for few in _batches(metrics, _MOST_METRICS):
                self._client.log_batch(run.info.run_id, metrics=few)
            for few in _batches(params, _MOST_PARAMS):
                self._client.log_batch(run.info.run_id, params=few)
            for few in _batches(shown, _MOST_PARAMS):
                self._client.log_batch(run.info.run_id, tags=few)
            status = _STATUS.get(trial.state, "FAILED")
        finally:
            self._client.set_terminated(run.info.run_id, status, end_time=ended)

    def _find(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        there = self._client.get_experiment_by_name(name)
        if there is None:
            try:
                made: str = self._client.create_experiment(name)
            except MlflowException:
                # Another worker was faster.
                there = self._client.get_experiment_by_name(name)
                if there is None:
                    raise
            else:
                return made
        found: str = there.experiment_id
        return found


class _TensorBoard:
    """Callback that writes each trial into a separate folder, with its parameters for HPARAMS."""

    def __init__(self, given: Mapping[str, str], objectives: tuple[str, ...]) -> None:
        self._folder = Path(given.get("log_dir", _FOLDER)).absolute()
        self._objectives = objectives

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        from torch.utils.tensorboard import SummaryWriter

        values = _values(study, trial, self._objectives)
        of_study = re.sub(r"[^\w.-]", "_", study.study_name).strip(".") or "study"
        folder = self._folder / of_study / f"trial-{trial.number:04d}"
        with SummaryWriter(str(folder)) as writer:
            for epoch, value in sorted(curve_of(trial).items()):
                writer.add_scalar(CURVE, value, epoch)
            for name, text in {"state": trial.state.name, **_texts(trial)}.items():
                writer.add_text(name, text)
            plain = {
                n: v if isinstance(v, (int, float)) else str(v) for n, v in trial.params.items()
            }
            # Into this folder, not into a subfolder.
            writer.add_hparams({"trial": trial.number, **plain}, values, run_name=".")


_KINDS: dict[str, Callable[[Mapping[str, str], tuple[str, ...]], Callback]] = {
    "mlflow": _MLflow,
    "tensorboard": _TensorBoard,
}


def _values(
    study: optuna.Study, trial: FrozenTrial, objectives: tuple[str, ...]
) -> dict[str, float]:
    """Return the objectives' values, and the numbers among the attributes."""
    found = dict(_numbers({k: v for k, v in trial.user_attrs.items() if k != CURVE}))
    values = trial.values or []
    names = study.metric_names or objectives
    if len(names) != len(values):
        names = [f"value_{place}" for place in range(len(values))]
    return found | dict(zip(names, values, strict=True))


def _numbers(attributes: Mapping[str, Any], within: str = "") -> Iterable[tuple[str, float]]:
    """Iterate over the finite numbers of attributes, nested ones as ``outcome/per_task/NAME``."""
    for name, value in attributes.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{within}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
            yield f"{within}{name}", float(value)


def _texts(trial: FrozenTrial) -> dict[str, str]:
    """Return the strings, and lists of strings, among the attributes."""
    found = {}
    for name, value in trial.user_attrs.items():
        if isinstance(value, str):
            found[name] = value
        elif isinstance(value, list) and all(isinstance(one, str) for one in value):
            found[name] = ", ".join(value)
    return found


def _name(name: str) -> str:
    """Return a name with only the characters that MLflow accepts."""
    return re.sub(r"[^\w\-. /:]", "_", name, flags=re.ASCII)[:_LONGEST_NAME]


def _milliseconds(when: datetime | None) -> int:
    return round((when or datetime.now()).timestamp() * 1000)


def _batches(items: Sequence[Any], most: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + most] for start in range(0, len(items), most))
