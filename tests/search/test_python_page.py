"""What docs/search_python.md shows is read by Python, by the configuration and by Optuna."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import optuna
import optuna.cli
import pytest
import yaml
from libmtl_recon_search.config import Config

PAGE = (Path(__file__).parents[2] / "docs" / "search_python.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_its_programs_are_python() -> None:
    programs = blocks("python")
    assert len(programs) == 4
    for program in programs:
        compile(program, "search_python.md", "exec")


def test_its_keys_are_known() -> None:
    (keys,) = blocks("yaml")
    given = {"script": "main.py", "space": {"k": {"low": 0, "high": 1}}, **yaml.safe_load(keys)}
    found = Config.model_validate(given).callbacks
    assert found.mlflow == {"tracking_uri": "sqlite:///mlflow.db", "experiment": "digits"}
    assert found.tensorboard == {"log_dir": "runs/tensorboard"}


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("optuna ")
]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_read_a_study(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/NAME").mkdir(parents=True)
    (variable,) = re.findall(r"^export (OPTUNA_STORAGE)=(.*)$", PAGE, re.MULTILINE)
    monkeypatch.setenv(*variable)
    directions = ["maximize"] if "best-trial " in command else ["maximize", "minimize"]
    study = optuna.create_study(study_name="NAME", storage=variable[1], directions=directions)
    study.add_trial(optuna.create_trial(values=[1.25, 3.5][: len(directions)]))
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    optuna.cli.main()
    out = capsys.readouterr().out
    assert ("NAME" if command == "optuna studies" else "1.25") in out
    if "json" in command:
        assert json.loads(out)[0]["state"] == "COMPLETE"


def test_every_command_of_optuna_is_tried() -> None:
    assert {command.split()[1] for command in COMMANDS} == {
        "studies",
        "trials",
        "best-trials",
        "best-trial",
    }
