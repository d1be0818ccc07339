"""``libmtl-recon layers``: what is kept, shown and moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.layers import Layer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileCache:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    return ProfileCache()


def profile(dataset: str = "digits") -> ConflictProfile:
    layers = (Layer("conv1", "Conv2d", ((8, 3, 3, 3),)), Layer("bn1", "BatchNorm2d", ((8,), (8,))))
    counts = np.zeros((1, 2, 400), np.int64)
    counts[0, 0, [100, 300]] = 3, 7
    counts[0, 1, [170, 185, 250]] = 2, 5, 2
    where = {
        "dataset": dataset,
        "encoder": "Net",
        "weighting": "EW",
        "arguments": ["--lr", "1"],
        "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
    }
    tasks = ("left", "right")
    return ConflictProfile(layers, tasks, counts, np.array([[0, 1]]), np.array([10]), where)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_an_empty_cache_says_how_to_fill_it(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    assert main(["layers", "list"]) == 0
    out = capsys.readouterr().out
    assert str(cache.folder) in out
    assert "libmtl-recon score" in out
    assert main(["layers", "show"]) == 1
    assert "libmtl-recon score" in capsys.readouterr().err


def test_list_has_a_plain_line_for_each(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    first, second = cache.save(profile("a")), cache.save(profile("b"))
    assert main(["layers", "list"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    found = {line[0]: line[1:] for line in rows(out)[1:] if line[1] != "(built"}
    assert found == {
        id: [name, "Net", "2", "left,", "right", "EW", "10", "2026-01-02"]
        for id, name in ((first, "a"), (second, "b"))
    }


def test_show_ranks_the_newest_profile(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    id = cache.save(profile())
    assert main(["layers", "show"]) == 0
    out = capsys.readouterr().out
    assert f"profile {id}: 10 steps, tasks left, right" in out
    assert "arguments: --lr 1" in out
    assert rows(out)[-4:-1] == [
        ["rank", "layer", "type", "parameters", "score", "share", "undefined"],
        ["1", "conv1", "Conv2d", "216", "3", "30.0%", "0"],
        ["2", "bn1", "BatchNorm2d", "16", "2", "22.2%", "1"],
    ]
    assert out.endswith("The certainty of the ranking cannot be estimated: 10 steps are too few.\n")


def test_show_follows_s_and_k_and_draws(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    id = cache.save(profile())
    picture = tmp_path / "p.png"
    options = ["--s", "-0.05", "--k", "1", "--plot", str(picture)]
    assert main(["layers", "show", id[:5], *options]) == 0
    out = capsys.readouterr().out
    assert ["1", "bn1", "BatchNorm2d", "16", "7", "77.8%", "1"] in rows(out)
    assert "conv1" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--k", "3"], "--k must be a whole number from 1 to 2"),
        (["--k", "2"], "--k must leave a layer shared"),
        (["--s", "0.1"], "--s must be a multiple of 0.005"),
        (["--plot", "p.jpg"], "--plot must be a file name"),
    ],
)
def test_wrong_options_are_refused(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, options: list[str], rule: str
) -> None:
    cache.save(profile())
    assert main(["layers", "show", *options]) == 2
    assert rule in capsys.readouterr().err


def test_a_profile_moves_by_file_and_is_removed(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    id = cache.save(profile())
    file = str(tmp_path / "out.json")
    assert main(["layers", "export", id[:6], file]) == 0
    assert main(["layers", "remove", id[:6]]) == 0
    assert cache.list() == []
    assert main(["layers", "import", file]) == 0
    assert [entry.id for entry in cache.list()] == [id]
    assert capsys.readouterr().out.splitlines() == [
        f"Wrote profile {id} to {file}.",
        f"Removed profile {id}.",
        f"Kept as profile {id}.",
    ]


@pytest.mark.parametrize("action", [["show"], ["remove"], ["export"]])
def test_an_unknown_id_is_named(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path, action: list[str]
) -> None:
    cache.save(profile())
    file = [str(tmp_path / "x.json")] if action == ["export"] else []
    assert main(["layers", *action, "zzz", *file]) == 2
    said = capsys.readouterr().err
    assert "ID must be the ID of exactly one profile" in said
    assert "'zzz'" in said
    assert len(cache.list()) == 1


def test_a_file_that_is_no_profile_is_not_imported(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"conv1": 3}))
    assert main(["layers", "import", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"{file} contains scores of layers, but the cache has no profile of a network" in said
    assert cache.list() == []


def test_a_damaged_file_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    id = cache.save(profile())
    (cache.folder / "torn.json").write_text("{")
    assert main(["layers", "list"]) == 0
    said = capsys.readouterr()
    assert id in said.out
    assert "torn.json is not a readable conflict profile" in said.err


def test_list_loads_nothing_that_takes_long(cache: ProfileCache) -> None:
    cache.save(profile())
    code = (
        "import sys\n"
        "from libmtl_recon.cli import main\n"
        "assert main(['layers', 'list']) == 0\n"
        "heavy = {'torch', 'torchvision', 'LibMTL', 'matplotlib', 'optuna', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_show_has_a_line_for_each_profile_that_was_added(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    ids = [cache.save(profile("a")), cache.save(profile("b"))]
    assert main(["layers", "add", *ids]) == 0
    capsys.readouterr()
    assert main(["layers", "show", "--k", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "  added 1: a, EW, 2026-01-02" in out
    assert "  added 2: b, EW, 2026-01-02" in out
    assert out[-1] == (
        "The certainty of the worst layer cannot be estimated: 20 steps are too few."
    )
