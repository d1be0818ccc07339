"""``libmtl-recon score`` on a script that knows nothing of this project."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflict.cache import read_profile
from libmtl_recon.conflict.exclusive import ScoringTurn
from libmtl_recon.conflict.layers import Layer
from libmtl_recon.conflict.stores import FolderStore

SCRIPT = '''
import sys
import threading
import time

import numpy as np
import torch
import LibMTL.architecture
import LibMTL.weighting
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn

params = LibMTL_args.parse_args()
kwargs, optimizer, scheduler = prepare_args(params)
torch.manual_seed(params.seed)
np.random.seed(params.seed)
TASKS = ("left", "right")


class Encoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2),
                         nn.Linear(6, 3))


class Data:
    """How it ends is chosen by the learning rate's step size, a flag that nobody else uses here."""

    def __len__(self):
        return 4

    def __iter__(self):
        for step in range(4):
            if step == 3 and params.step_size == 1:
                raise ValueError("a mishap of the script's own")
            if step == 3 and params.step_size == 2:
                raise KeyboardInterrupt
            x = torch.randn(8, 4)
            yield (x * np.nan if step == 3 and params.step_size == 3 else x), {
                "left": (x[:, 0] > 0).long(), "right": (x[:, 0] < x[:, 1]).long()}


trainer = Trainer(
    task_dict={task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(),
                      "weight": [1]} for task in TASKS},
    weighting=vars(LibMTL.weighting)[params.weighting],
    architecture=vars(LibMTL.architecture)[params.arch],
    encoder_class=Encoder,
    decoders=nn.ModuleDict({task: nn.Linear(3, 2) for task in TASKS}),
    rep_grad=params.rep_grad, multi_input=params.multi_input,
    optim_param=optimizer, scheduler_param=scheduler, **kwargs)
trainer.train(Data(), Data(), 0 if params.step_size == 4 else 1)
print("weights", [p.sum().item() for p in trainer.model.parameters()])
'''


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "main.py"
    file.write_text(SCRIPT)
    return str(file)


def kept() -> ConflictProfile:
    (entry,) = ProfileCache().list()
    return entry.profile


def test_the_whole_way_to_recon(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "libmtl_recon", "score", "--steps", "3", "--top", "2"]
    command += ["--out", "profile.json", "--plot", "profile.png", "--dataset-name", "noise"]
    command += [script, "--weighting", "PCGrad", "--arch", "HPS", "--seed", "3"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    profile = kept()
    assert profile.steps == 3
    assert profile.layer_names == ("0", "1", "4")
    assert profile.tasks == ("left", "right")
    where = profile.provenance
    assert (where["dataset"], where["script"], where["seed"]) == ("noise", "main.py", 3)
    assert where["arguments"] == ["--weighting", "PCGrad", "--arch", "HPS", "--seed", "3"]
    assert json.loads((tmp_path / "profile.json").read_text())["steps"] == 3
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    ranks = [line.split() for line in lines if line.lstrip().startswith(("1 ", "2 ", "3 "))]
    assert [(int(r[0]), r[1]) for r in ranks] == list(enumerate(profile.ranking(-0.1)[:2], 1))
    assert "and 1 more" in lines
    assert f"Kept as profile {profile.id}, scored over 3 steps." in lines
    # The command that is printed works as it stands.
    following = shlex.split(lines[-1])
    assert following[:2] == ["libmtl-recon", "run"]
    assert following.count("--arch") == 1
    command = [sys.executable, "-m", "libmtl_recon", *following[1:]]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert profile.id in done.stdout


@pytest.mark.parametrize("weighting", ["EW", "GradOPS"])
def test_a_script_trains_the_same_when_scored(
    script: str, capsys: pytest.CaptureFixture[str], weighting: str
) -> None:
    arguments = [script, "--weighting", weighting, "--seed", "1"]
    assert main(["run", *arguments]) == 0
    plain = capsys.readouterr().out
    assert main(["score", *arguments]) == 0
    scored = capsys.readouterr().out

    def weights(text: str) -> list[float]:
        (line,) = (line for line in text.splitlines() if line.startswith("weights"))
        return json.loads(line.removeprefix("weights"))

    # A weighting of losses is differentiated once a task while it is scored, which rounds anew;
    # a weighting that has per-task gradients anyhow is only watched.
    close = {"EW": 1e-5, "GradOPS": 0.0}[weighting]
    assert weights(scored) == pytest.approx(weights(plain), rel=close, abs=close)
    assert kept().steps == 4


def test_a_crash_keeps_the_steps_before_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", script, "--step_size", "1"]) == 1
    said = capsys.readouterr()
    assert "ValueError: a mishap of the script's own" in said.err
    assert "(exit status 1); the profile rests on the 3 steps before that" in said.err
    assert kept().steps == 3


def test_ctrl_c_keeps_the_steps_before_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", script, "--step_size", "2"]) == 130
    assert "the profile rests on the 3 steps before that" in capsys.readouterr().err
    assert kept().steps == 3


@pytest.mark.parametrize("weighting", ["EW", "PCGrad"])
def test_what_is_not_finite_is_said_once_and_not_kept(
    script: str, capsys: pytest.CaptureFixture[str], weighting: str
) -> None:
    assert main(["score", script, "--step_size", "3", "--weighting", weighting]) == 1
    said = capsys.readouterr().err
    assert said.count("The loss of task 'left', 'right' was not finite") == 1
    assert "Kept" not in said
    assert ProfileCache().list() == []


def test_a_script_that_trains_no_step_is_explained(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", script, "--step_size", "4"]) == 1
    assert "no step of it was seen" in capsys.readouterr().err
    assert ProfileCache().list() == []


def test_no_split_is_proposed_where_nothing_conflicts(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "--s", "-0.995", script]) == 0
    out = capsys.readouterr().out
    assert "No layer conflicts at S = -0.995" in out
    assert "--recon_k" not in out


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--s", "0.3", "--s must be a multiple of 0.005, above -1 and up to 0, but is 0.3"),
        ("--s", "-1", "--s must be a multiple of 0.005"),
        ("--steps", "0", "--steps must be a whole number from 1 up, but is 0"),
        ("--top", "-2", "--top must be a whole number from 1 up, but is -2"),
        ("--plot", "p.gif", "--plot must be a file name that ends in"),
        ("--plot", "no/p.png", "--plot must lie in a folder that exists"),
        ("--out", "no/p.json", "--out must lie in a folder that exists"),
    ],
)
def test_wrong_options_are_refused_before_training(
    script: str, capsys: pytest.CaptureFixture[str], option: str, value: str, rule: str
) -> None:
    assert main(["score", option, value, script]) == 2
    said = capsys.readouterr()
    assert rule in said.err
    assert said.out == ""


def test_a_script_that_does_not_exist_is_refused(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "nothing.py"]) == 2
    assert "nothing.py" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_before_training(
    script: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "file" / "inside"))
    assert main(["score", script]) == 1
    said = capsys.readouterr()
    assert "LIBMTL_RECON_CACHE" in said.err
    assert said.out == ""


def test_the_run_says_how_sure_it_is(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", script, "--weighting", "EW"]) == 0
    out = capsys.readouterr().out
    assert "How sure the ranking is cannot be told: 4 steps are too few." in out
    for flags in ([], ["--steps", "3"], ["--score-until-stable", "off"]):
        assert main(["score", "--k", "1-2", *flags, script, "--weighting", "EW"]) == 0
        assert "How sure the 1 to 2 worst layers are cannot" in capsys.readouterr().out
        entry = max(ProfileCache().list(), key=lambda entry: entry.profile.provenance["date"])
        assert entry.profile.provenance["stability"]["K"] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--score-every", "0"], "--score-every must be a whole number from 1 up, but is 0"),
        (["--score-from", "5", "--score-to", "5"], "--score-to must be a whole number from 6 up"),
        (
            ["--score-until-stable", "1.0"],
            "--score-until-stable must be a number above 0 and below",
        ),
        (["--k", "9"], "--k must be a whole number from 1 to 3"),
        (["--k", "9", "--steps", "2"], "--k must be a whole number from 1 to 3"),
        (["--k", "2-3"], "--k must leave a layer shared, so be below 3"),
    ],
)
def test_what_cannot_be_scored_is_said_before_training(
    script: str, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(["score", *flags, script, "--weighting", "EW"]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Epoch" not in said.out


def test_a_part_of_the_training_is_scored(script: str) -> None:
    flags = ["--score-from", "1", "--score-to", "3"]
    assert main(["score", *flags, script, "--weighting", "EW"]) == 0
    assert kept().steps == 2


def test_of_two_that_score_one_network_the_second_waits(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", script, "--weighting", "EW"])
    first = kept()
    capsys.readouterr()
    cache = ProfileCache()
    turn = ScoringTurn(cache, print)
    assert turn.enter(first.architecture) is None
    environment = {**os.environ, "LIBMTL_RECON_CACHE": str(cache.folder)}
    command = [sys.executable, "-m", "libmtl_recon", "score", script, "--weighting", "EW"]
    other = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert other.stderr is not None
    assert "Another process is just scoring this architecture" in other.stderr.readline()
    found = dataclasses.replace(first, provenance={"dataset": "found meanwhile"})
    name = cache.save(found)
    turn.leave()
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert f"Kept as profile {name} by the other process" in out
    assert "Epoch" not in out


def test_a_turn_that_ends_without_a_profile_goes_to_the_next(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    layers = (Layer("l", "Linear", ((1,),)),)
    first, second, said = ScoringTurn(cache, print), ScoringTurn(cache, print), []
    first.enter(layers)
    other = ScoringTurn(cache, said.append)
    waiting = threading.Thread(target=lambda: said.append(other.enter(layers)))
    waiting.start()
    while not said:
        time.sleep(0.01)
    first.leave()
    waiting.join(timeout=60)
    assert said[1:] == [None]
    other.leave()
    assert second.enter(layers) is None
    second.leave()


def test_a_falling_range_is_refused(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--k", "3-2", script])
    assert "a range such as 5-20, but is '3-2'" in capsys.readouterr().err


def test_a_training_that_ends_before_it_is_to_be_scored_is_explained(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "--score-from", "100", script]) == 1
    assert "trained 4 steps, so that --score-from 100 left none" in capsys.readouterr().err


@pytest.mark.parametrize("out", [True, False])
def test_what_was_scored_outlives_a_full_disk(
    script: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    out: bool,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderStore, "write", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flags = ["--out", str(tmp_path / "mine.json")] if out else []
    assert main(["score", *flags, script, "--weighting", "EW"]) == 1
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    assert "Layers by conflict score" in said.out
    assert "Kept" not in said.out
    (file,) = tmp_path.glob("mine.json" if out else "libmtl-recon-*.json")
    assert f"libmtl-recon layers import {file}" in said.err
    assert read_profile(file).steps == 4


def test_a_split_network_is_not_proposed_to_be_split_again(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--arch", "Recon", "--recon_k", "1", "--recon_select", "first"]
    assert main(["score", script, "--weighting", "EW", *arguments]) == 0
    out = capsys.readouterr().out
    assert "These are the layers that stayed shared" in out
    assert "Next" not in out


def test_the_split_that_is_proposed_leaves_a_layer_shared(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ConflictProfile, "scores", lambda self, _: dict.fromkeys(self.layer_names, 7)
    )
    for flags, proposed in (([], 2), (["--k", "1"], 1), (["--k", "1-2"], 2)):
        assert main(["score", *flags, "--steps", "2", script]) == 0
        assert f"--recon_k {proposed}\n" in capsys.readouterr().out


def test_a_job_that_is_ended_keeps_the_steps_before_it(script: str, tmp_path: Path) -> None:
    endless = Path(script).read_text().replace("else 1)", "else 10**5)")
    Path(script).write_text(endless)
    command = [sys.executable, "-u", "-m", "libmtl_recon", "score", "--score-until-stable", "off"]
    process = subprocess.Popen(
        [*command, script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert any(line.startswith("Epoch") for line in process.stdout)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Kept as profile" in out
    assert "the script did not end well (exit status 130)" in err
    assert kept().steps >= 4


def test_a_killed_job_keeps_what_it_has_written(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = Path(script).read_text().replace("else 1)", "else 10**5)")
    slow = tmp_path / "endless.py"
    slow.write_text(
        "import libmtl_recon.conflict.unfinished as unfinished\nunfinished._SECONDS = 0.0\n"
        + endless
    )
    command = [sys.executable, "-u", "-m", "libmtl_recon", "score", "--score-until-stable", "off"]
    process = subprocess.Popen([*command, str(slow)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = (line for line in process.stdout if line.startswith("Epoch"))
    next(lines)
    # The first minute is over when the process begins, and each step is the last of one.
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob(".*.unfinished")) and time.monotonic() < deadline:
        next(lines)
    process.kill()
    process.communicate(timeout=60)
    assert main(["score", script, "--weighting", "EW"]) == 0
    assert "A run that was killed had scored" in capsys.readouterr().err
    by_end = {entry.profile.provenance.get("ended"): entry for entry in ProfileCache().list()}
    assert by_end["killed"].profile.steps >= 1
    assert by_end[None].profile.steps == 4
