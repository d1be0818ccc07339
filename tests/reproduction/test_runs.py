"""The commands that train: what they train, in which order, and what they make of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from example_profiles import profile_of
from fake_runs import LAYERS, FakeRunner, flat_profile
from matplotlib.image import imread

from libmtl_recon.cli import main
from libmtl_recon.reproduction.dose_picture import draw_dose
from libmtl_recon.reproduction.tables import size_cells

OUT = Path("runs/reproduce/main")


def reproduce(*words: str) -> int:
    try:
        return main(["reproduce", *words])
    except SystemExit as ended:  # of argparse
        return int(ended.code or 0)


def trained(runner: FakeRunner) -> list[str]:
    """What was trained: weighting or task, with the split layers and the seed."""
    found = []
    for job, asked in zip(runner.trained, runner.asked, strict=True):
        split = f"+{asked.K}" if asked.K else ""
        scored = " scored" if job.profile is not None else ""
        found.append(f"{asked.alone or asked.weighting}{split} seed{asked.seed}{scored}")
    return found


def rows(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def drawn(file: Path) -> bool:
    picture = imread(file)
    return min(picture.shape[:2]) > 300 and float(picture[..., :3].std()) > 0.02


COSINES = ("cosines", "--weightings", "EW,UW", "--k", "3", "--select", "conflict,random")


def test_cosines_trains_each_weighting_and_splits_by_the_first(runner: FakeRunner) -> None:
    assert reproduce(*COSINES, "main.py", "--epochs", "2") == 0
    assert trained(runner) == [
        "EW seed0 scored",
        "EW+3 seed0 scored",
        "EW+3 seed0 scored",  # RSL
        "UW seed0 scored",
        "UW+3 seed0 scored",
    ]
    layers = {
        Path(job.arguments[job.arguments.index("--recon_layers") + 1]).read_text()
        for job in runner.trained
        if "--recon_layers" in job.arguments
    }
    assert '["l0", "l1", "l2"]' in layers
    assert len(layers) == 2
    assert all(job.every == 1 and not job.cached and not job.reuse for job in runner.trained)
    heading, *table = rows((OUT / "cosines.md").read_text(encoding="utf-8"))
    assert heading == ["cosine", "EW", "EW w/ Recon", "EW w/ RSL", "UW", "UW w/ Recon"]
    assert table[0] == ["[1, 0]", *["70.00"] * 5]
    assert table[-2] == ["(-0.03, -1]", *["30.00"] * 5]
    assert table[-1] == ["reduction (%)", "-", *["0.00"] * 4]
    assert drawn(OUT / "cosines.png")


def test_cosines_can_reduce_below_another_edge(runner: FakeRunner) -> None:
    words = ("--weightings", "EW", "--severe", "-0.03", "main.py")
    assert reproduce("cosines", *words) == 0
    text = (OUT / "cosines.md").read_text(encoding="utf-8")
    assert "the reduction is that of cosines below -0.03, relative to EW" in text
    assert "--severe=-0.03" in text


def test_a_later_command_trains_only_what_is_missing(runner: FakeRunner) -> None:
    assert reproduce("cosines", "--weightings", "EW,UW", "main.py") == 0
    before = len(runner.trained)
    assert reproduce("cosines", "--weightings=EW,UW,GradOPS --gradops_alpha -1", "main.py") == 0
    assert trained(runner)[before:] == ["GradOPS seed0 scored"]
    assert runner.asked[-1].alpha == -1.0
    # Other words of the script are other trainings.
    assert reproduce("cosines", "--weightings", "EW,UW", "main.py", "--epochs", "3") == 0
    assert trained(runner)[before + 1 :] == ["EW seed0 scored", "UW seed0 scored"]


def test_one_folder_keeps_the_trainings_of_several_scripts_threads_and_data_sets(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.py").write_text("never run, either", encoding="utf-8")

    def files(*words: str) -> set[Path]:
        before = len(runner.trained)
        assert reproduce("cosines", "--weightings", "EW", "--out", "all", *words) == 0
        return {job.events for job in runner.trained[before:]}

    one, other, threads = files("main.py"), files("other.py"), files("--threads", "2", "main.py")
    monkeypatch.setenv("LIBMTL_RECON_DATA", "sample")
    data = files("main.py")
    assert [len(own) for own in (one, other, threads, data)] == [1, 1, 1, 1]
    assert len(one | other | threads | data) == 4
    monkeypatch.delenv("LIBMTL_RECON_DATA")
    assert files("main.py") == files("other.py") == set()


def test_after_ctrl_c_the_same_command_goes_on(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("dose", "--ks", "2,4", "--seeds", "0,1", "main.py")
    runner.interrupt = lambda asked: asked.seed == 1 and asked.K == 2
    assert reproduce(*words) == 130
    assert "the same command resumes where it stopped, in runs/reproduce/main" in (
        capsys.readouterr().err
    )
    before = trained(runner)
    runner.interrupt = lambda _: False
    assert reproduce(*words) == 0
    after = trained(runner)
    assert after[: len(before)] == before
    assert sorted(after[len(before) :]) == ["EW+2 seed1", "EW+4 seed1"]


def test_dose_compares_with_single_tasks_of_the_same_seed(runner: FakeRunner) -> None:
    words = ("--ks", "2,5,9", "--ss=-0.2,-0.1,0", "--seeds", "0,4")
    assert reproduce("dose", *words, "main.py") == 0
    heading, *table = rows((OUT / "dose.md").read_text(encoding="utf-8"))
    assert heading == ["K", "S", "a Acc", "b Acc", "Δm %", "parameters", "MB"]
    assert [row[:2] for row in table] == [
        *(["0", ""], ["2", "-0.1"], ["5", "-0.1"], ["9", "-0.1"]),
        *(["5", "-0.2"], ["5", "0"]),
    ]
    # (0.40 - 0.50) / 0.50 with seed 0, (0.404 - 0.504) / 0.504 with seed 4.
    assert table[0][2:5] == ["0.4020 ± 0.0028", "0.4020 ± 0.0028", "-19.92 ± 0.11"]
    assert table[2][4] == "-9.96 ± 0.06"
    assert table[2][5:] == ["150", "0.00"]
    # Of this profile the five worst are the same at each S, and are trained once per seed.
    assert trained(runner).count("EW+5 seed4") == 1
    assert drawn(OUT / "dose.png")


def test_dose_can_compare_with_sharing_all_layers(runner: FakeRunner) -> None:
    words = ("--ks", "4", "--seeds", "0", "--baseline", "shared", "--weighting", "UW")
    assert reproduce("dose", *words, "main.py") == 0
    assert trained(runner) == ["EW seed0 scored", "UW seed0", "UW+4 seed0"]
    table = rows((OUT / "dose.md").read_text(encoding="utf-8"))[1:]
    assert [row[4] for row in table] == ["+0.00", "+10.00"]  # 0.44 / 0.40


def test_stages_of_a_profile_train_nothing(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("profile.json").write_text(flat_profile().to_json(), encoding="utf-8")
    assert reproduce("stages", "--profile", "profile.json", "--stages", "5", "--k", "3") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "steps 201 to 400 0.00 0.00 - - - - 100%" in lines
    assert "all steps 0.00 0.00 0.00 0.00 0.00 0.00 100%" in lines
    assert runner.trained == []


def test_stages_train_the_network_split_by_each(runner: FakeRunner) -> None:
    assert reproduce("stages", "--k", "3", "--train", "main.py", "--arch", "CGC") == 0
    # Each stage has the same three worst layers, which are trained once.
    assert trained(runner) == [
        *("EW seed0 scored", "a seed0", "b seed0", "EW seed0", "EW+3 seed0"),
    ]
    assert [job.arguments[job.arguments.index("--arch") + 1] for job in runner.trained] == [
        *["CGC"] * 4,
        "Recon",
    ]
    last = runner.trained[-1].arguments
    assert last[last.index("--recon_base") + 1] == "CGC"
    text = (OUT / "stages.md").read_text(encoding="utf-8")
    distances, performance = text.split("Test performance")
    assert [row[1] for row in rows(distances)[1:]] == ["0.00"] * 5
    table = rows(performance)[1:]
    assert table[0][:5] == ["single-task", "0.5000", "0.5000", "", "200"]
    assert table[1][:5] == ["EW, all shared", "0.4000", "0.4000", "-20.00", "100"]
    assert [row[1:] for row in table[2:]] == [
        ["0.4300", "0.4300", "-14.00", "130", "0.00", "100%"]
    ] * 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cosines --weightings EW,UWW main.py", "--weightings must be names of installed .*UW"),
        ("cosines --weightings EW,-x main.py", "must be the name of a weighting"),
        ("cosines --weightings A,B,C,D,E,F,G,H main.py", "must be at most 7 weightings"),
        (f"cosines --weightings EW --k {LAYERS} main.py", "--k must leave a layer shared"),
        ("cosines --k 2 --s -0.123 main.py", "--s must be a multiple of 0.005"),
        ("cosines --k 2 --select nearest main.py", "--select must be one of conflict"),
        ("cosines --select random main.py", "--select needs --k"),
        ("cosines --profile 3f2a main.py", "--profile needs --k"),
        ("cosines --edges=0 main.py", "--edges must be at least two numbers"),
        ("cosines --severe -0.05 main.py", "--severe must be one of the edges"),
        ("cosines main.py --refused", "--refused"),
        ("cosines main.py --seed 3", "--seed cannot be a flag of the script here"),
        ("cosines main.py --weight_decay 0 --weighti UW", "--weighting cannot be a flag"),
        ("cosines main.py --arch=Recon", "--arch must name an architecture whose layers"),
        ("cosines toy2d", "SCRIPT must be a script that trains with LibMTL's Trainer"),
        ("cosines none.py", "SCRIPT must be the path of a LibMTL script"),
        ("stages", "SCRIPT must be given unless --profile is"),
        ("stages --train main.py", "--train needs --k"),
        ("stages --stages 1 main.py", "--stages must be a whole number from 2 to 20"),
        ("stages --stages 21 main.py", "--stages must be a whole number from 2 to 20"),
        ("stages --profile none", "--profile is not a file, and therefore"),
        (f"dose --ks 3,{LAYERS} main.py", "--ks must leave a layer shared"),
        ("dose --ks 2,x main.py", "--ks: must be a whole number from 0 up .got 'x'"),
        ("dose --ks 2 --seeds 0,4294967296 main.py", "--seeds: must be a whole number from 0 to"),
        ("dose --ks 0 main.py", "--ks must contain a number of layers from 1 up"),
        ("dose --ks 3 --k 40 main.py", "--k must be a whole number from 1 to 12"),
        ("dose --ks 3 --ss=0.1 main.py", "--ss must be a multiple of 0.005"),
        ("dose --ks 3 --weighting Uw main.py", "--weighting must be names of installed"),
    ],
)
def test_mistakes_are_said_before_anything_trains(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    status = reproduce(*words.split())
    assert status in (1, 2)
    assert (status == 1) == ("refused" in said)  # the fake script's error is no UsageError's
    assert re.search(said, capsys.readouterr().err, re.DOTALL)
    assert runner.trained == []


@pytest.mark.parametrize("words", [["cosines"], ["stages"], ["dose", "--ks", "2"]])
def test_a_script_with_one_task_is_refused_before_anything_trains(
    runner: FakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.setattr("fake_runs.TASKS", ("alone",))
    assert reproduce(*words, "main.py") == 1
    assert "main.py trains one task, 'alone', and only" in capsys.readouterr().err
    assert runner.trained == []


def test_mb_are_2_to_the_20_bytes_of_float32() -> None:
    assert size_cells(3 * 2**18) == ["786,432", "3.00"]


def test_a_weighting_has_no_architecture_of_its_own(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce("cosines", "--weightings", "EW --arch MTAN", "main.py") == 2
    assert "--arch must be one for all weightings" in capsys.readouterr().err
    assert runner.started == []


def test_a_profile_of_another_network_is_refused(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    other = profile_of([[-0.5] * 8, [0.5] * 8, [0.5] * 8])
    Path("other.json").write_text(other.to_json(), encoding="utf-8")
    for words in (
        ["cosines", "--weightings", "EW", "--k", "2"],
        ["dose", "--ks", "2"],
        ["stages", "--k", "2", "--train", "--stages", "2"],
    ):
        assert reproduce(*words, "--profile", "other.json", "main.py") == 1
        assert "3 layers" in capsys.readouterr().err
    assert runner.trained == []


def test_several_seeds_have_error_bars_and_one_has_none(tmp_path: Path) -> None:
    def picture(by_s: dict[float, Sequence[float]]) -> float:
        file = tmp_path / f"{len(by_s)}.png"
        draw_dose({0: [1.0, 2.0], 3: [2.0]}, by_s, 3, -0.1, file)
        return float(imread(file).shape[1])

    assert picture({-0.1: [2.0], 0.0: [3.0]}) == 2 * picture({})
