"""``libmtl-recon score`` on a script that knows nothing of this project."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from forks import python
from scored_script import kept

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main


def test_the_whole_way_to_recon(script: str, tmp_path: Path) -> None:
    command = [*python(), "-m", "libmtl_recon", "score", "--steps", "3", "--top", "2"]
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
    command = [*python(), "-m", "libmtl_recon", *following[1:]]
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

    # A weighting of losses is differentiated once per task while it is scored, which rounds anew;
    # a weighting that has per-task gradients anyhow is only watched.
    close = {"EW": 1e-5, "GradOPS": 0.0}[weighting]
    assert weights(scored) == pytest.approx(weights(plain), rel=close, abs=close)
    assert kept().steps == 4


def test_a_script_that_trains_no_step_is_explained(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", script, "--step_size", "4"]) == 1
    assert "no training step was detected" in capsys.readouterr().err
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
        ("--s", "0.3", "--s must be a multiple of 0.005, above -1 and up to 0 (got 0.3)"),
        ("--s", "-1", "--s must be a multiple of 0.005"),
        ("--steps", "0", "--steps must be a whole number from 1 up (got 0)"),
        ("--top", "-2", "--top must be a whole number from 1 up (got -2)"),
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
    assert "The certainty of the ranking cannot be estimated: 4 steps are too few." in out
    for flags in ([], ["--steps", "3"], ["--score-until-stable", "off"]):
        assert main(["score", "--k", "1-2", *flags, script, "--weighting", "EW"]) == 0
        assert "The certainty of the 1 to 2 worst layers cannot" in capsys.readouterr().out
        entry = max(ProfileCache().list(), key=lambda entry: entry.profile.provenance["date"])
        assert entry.profile.provenance["stability"]["K"] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--score-every", "0"], "--score-every must be a whole number from 1 up (got 0)"),
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


def test_a_falling_range_is_refused(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--k", "3-2", script])
    assert "a range such as 5-20 (got '3-2')" in capsys.readouterr().err


def test_a_training_that_ends_before_it_is_to_be_scored_is_explained(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "--score-from", "100", script]) == 1
    assert "trained 4 steps, so --score-from 100 left none" in capsys.readouterr().err


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
