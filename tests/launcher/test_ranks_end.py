"""A script under torchrun's variables: who prints and saves, and how all ranks end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integrations" / "libmtl"))

from ranks_problem import run_on_ranks

SCRIPT = Path(__file__).parents[1] / "scripts" / "on_ranks.py"
Done = list[subprocess.CompletedProcess[str]]


def run(folder: Path, *words: str, ranks: int = 2, fail: str = "") -> Done:
    return run_on_ranks(
        ["-m", "libmtl_recon", *words],
        ranks,
        python=forks.python(libmtl=False),
        environment={"FAIL": fail, "LIBMTL_RECON_CACHE": str(folder / "cache")},
        folder=folder,
    )


def test_rank_0_alone_prints_and_saves(tmp_path: Path) -> None:
    first, second = run(tmp_path, "run", str(SCRIPT), "--weighting", "GradOPS")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.count("Recon: training on 2 ranks") == 1
    assert first.stdout.endswith("loaded 8 tensors from model.pt\n")
    assert (second.stdout, second.stderr) == ("", "")
    one = run(tmp_path, "run", str(SCRIPT), "--weighting", "GradOPS", ranks=1)[0]
    assert one.stdout.count("TRAIN") == first.stdout.count("TRAIN") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_profile_of_two_ranks_is_that_of_one_process_and_is_kept_once(tmp_path: Path) -> None:
    counts = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        words = ("score", "--out", f"profile{ranks}.json", str(SCRIPT), "--weighting", "EW")
        done = run(folder, *words, ranks=ranks)
        assert [one.returncode for one in done] == [0] * ranks, done[-1].stderr
        assert "Kept as profile" in done[0].stdout
        assert "".join(one.stdout + one.stderr for one in done[1:]) == ""
        assert len(list((folder / "cache").glob("*.json"))) == 1
        written = json.loads((folder / f"profile{ranks}.json").read_text(encoding="utf-8"))
        counts.append({key: value for key, value in written.items() if key != "provenance"})
    assert counts[0] == counts[1]


def test_what_one_rank_fails_by_is_said_by_that_rank(tmp_path: Path) -> None:
    first, second = run(tmp_path, "run", str(SCRIPT), fail="raise on 1")
    assert (first.returncode, second.returncode) == (1, 1)
    assert "ValueError: the script's own fault" in second.stderr
    assert first.stderr == ""


def test_what_all_ranks_fail_by_is_said_once(tmp_path: Path) -> None:
    first, second = run(tmp_path, "run", str(SCRIPT), fail="raise on all")
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr.count("ValueError: the script's own fault") == 1
    assert second.stderr == ""


def test_what_a_script_exits_with_is_said_once(tmp_path: Path) -> None:
    first, second = run(tmp_path, "run", str(SCRIPT), fail="leave on all")
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr == "there is no such data\n"
    assert second.stderr == ""


@pytest.mark.parametrize("fail", ["SIGKILL on 1", "SIGTERM on 1", "exit on 1"])
def test_a_rank_that_ends_without_a_word_ends_the_others(fail: str, tmp_path: Path) -> None:
    started = time.monotonic()
    first, second = run(tmp_path, "run", str(SCRIPT), fail=fail)
    assert time.monotonic() - started < 30
    assert first.returncode == 1
    assert second.returncode == {"SIGKILL on 1": -9, "SIGTERM on 1": -15, "exit on 1": 7}[fail]
    assert "The connection to another rank was lost" in first.stderr


def test_scoring_that_is_interrupted_keeps_what_was_scored(tmp_path: Path) -> None:
    first, second = run(tmp_path, "score", str(SCRIPT), "--weighting", "EW", fail="SIGINT on all")
    assert {first.returncode, second.returncode} <= {-2, 1, 130}
    assert "Kept as profile" in first.stdout
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("layers", "show"), "torchrun can start `libmtl-recon run`"),
        (("run", "nowhere.py"), "There is no such file"),
        (("run", "toy2d"), "must be a script that trains with LibMTL's Trainer under torchrun"),
        (("run", str(SCRIPT), "--recon_sync_bn", "sometimes"), "--recon_sync_bn must be on or off"),
        (("run", str(SCRIPT), "--arch", "Recon", "--recon_k", "1"), "There is no conflict profile"),
        (("score", "--s", "7", str(SCRIPT)), "--s must be"),
    ],
)
def test_bad_arguments_are_said_once(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    first, second = run(tmp_path, *words)
    assert first.returncode == second.returncode != 0
    assert says in first.stderr
    assert second.stderr == ""


@pytest.mark.slow
def test_torchrun_itself(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "LIBMTL_RECON_DEVICE": "cpu", "FAIL": ""}
    for more, status in (([], 0), (["raise on 1"], 1), (["SIGKILL on 1"], 1)):
        done = subprocess.run(
            [sys.executable, *words, "-m", "libmtl_recon", "run", SCRIPT, "--weighting", "GradOPS"],
            env=environment | {"FAIL": "".join(more)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        assert done.stdout.count("Recon: training on 2 ranks") == 1


@pytest.mark.slow
def test_the_import_in_the_script_does_the_same(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import libmtl_recon\n"
        + SCRIPT.read_text(encoding="utf-8").replace("from __future__ import annotations\n", ""),
        encoding="utf-8",
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *words, script, "--weighting", "GradOPS"],
        env={**os.environ, "LIBMTL_RECON_DEVICE": "cpu", "FAIL": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loaded 8 tensors") == 1
