"""``libmtl-recon layers compare``, ``add``, ``table`` and ``plot``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer

LAYERS = (
    Layer("conv1", "Conv2d", ((8, 3, 3, 3),)),
    Layer("bn1", "BatchNorm2d", ((8,), (8,))),
    *(Layer(f"fc{i}", "Linear", ((4, 4),)) for i in range(6)),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileCache:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    return ProfileCache()


def profile(weighting: str, conflicts: list[int], steps: int = 20) -> ConflictProfile:
    """``conflicts[layer]`` of the steps have a cosine of -0.5, the others one of 0.5."""
    counts = np.zeros((1, len(LAYERS), BINS), np.int64)
    counts[0, :, 100] = conflicts
    counts[0, :, 300] = steps - np.array(conflicts)
    whole = np.zeros((1, BINS + 1), np.int64)
    whole[0, 100], whole[0, 300] = conflicts[0], steps - conflicts[0]
    where = {"dataset": "digits", "weighting": weighting, "date": "2026-01-02T03:04:05+00:00"}
    undefined = np.zeros((1, len(LAYERS)), np.int64)
    return ConflictProfile(LAYERS, ("a", "b"), counts, undefined, np.array([steps]), where, whole)


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_compare_shows_what_chance_gives(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache
) -> None:
    one = cache.save(profile("EW", [9, 8, 7, 6, 5, 4, 3, 2]))
    other = cache.save(profile("MGDA", [8, 9, 7, 6, 5, 4, 3, 2]))
    assert main(["layers", "compare", one, other]) == 0
    out = rows(capsys.readouterr().out)
    assert "A and B 0.25 100%" in out
    assert "A and norms first 0.25 100%" in out
    assert "B and norms first 0.00 100%" in out
    assert "by chance 2.62 62%" in out


def test_other_architectures_are_not_compared(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    mine = profile("EW", [1] * 8)
    fewer = ConflictProfile(
        LAYERS[:2], ("a", "b"), mine.counts[:, :2], mine.undefined[:, :2], mine.block_steps
    )
    file = tmp_path / "other.json"
    file.write_text(fewer.to_json())
    assert main(["layers", "compare", cache.save(mine), str(file)]) == 1
    assert "different architectures, 8 and 2 layers" in capsys.readouterr().err


def published(folder: Path, data: object) -> str:
    file = folder / "published.json"
    file.write_text(json.dumps(data))
    return str(file)


def test_compare_takes_published_scores(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    """The distance is computed by hand: fc0 to fc5 one place down, fc5 from last to first."""
    name = cache.save(profile("EW", [9, 8, 7, 6, 5, 4, 3, 2]))
    scores = {f"module.{layer.name}": 10 - i for i, layer in enumerate(LAYERS)}
    scores["module.fc5"] = 99
    file = published(tmp_path, scores)
    expected = f"{(7 + 7 * 1) / 8:.2f}"
    assert main(["layers", "compare", name, file]) == 0
    out = rows(capsys.readouterr().out)
    assert f"B: {file}, by its scores (to which --s does not apply)" in out
    assert "module.fc5 fc5" in out
    assert f"A and B {expected} 80%" in out
    assert "A and norms first 0.25 100%" in out
    assert main(["layers", "compare", file, name]) == 0
    out = rows(capsys.readouterr().out)
    assert f"A: {file}, by its scores (to which --s does not apply)" in out
    assert f"A and B {expected} 80%" in out
    assert "B and norms first 0.25 100%" in out


def test_compare_leaves_out_what_one_lacks_on_request(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    name = cache.save(profile("EW", [9, 8, 7, 6, 5, 4, 3, 2]))
    file = published(tmp_path, ["head", "fc0", "bn1", "conv1", *(f"fc{i}" for i in range(1, 5))])
    assert main(["layers", "compare", name, file]) == 1
    said = capsys.readouterr().err
    assert "of different architectures, 8 and 8 layers, and differ in fc5, head" in said
    assert "--skip-missing compares the 7 that both have" in said
    assert main(["layers", "compare", name, file, "--skip-missing"]) == 0
    out = rows(capsys.readouterr().out)
    assert "Left out, since only A has them: fc5." in out
    assert "Left out, since only B has them: head." in out
    assert f"A and B {4 / 7:.2f} 100%" in out  # conv1 and fc0 two places apart
    file = published(tmp_path, ["x", "y"])
    assert main(["layers", "compare", name, file, "--skip-missing"]) == 1
    assert "differ in bn1, conv1, fc0" in capsys.readouterr().err


def test_compare_takes_two_lists_and_pairs_by_places(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    one = published(tmp_path, ["a", "b", "c"])
    other = tmp_path / "other.json"
    other.write_text(json.dumps(["c", "b", "a"]))
    assert main(["layers", "compare", one, str(other)]) == 0
    out = rows(capsys.readouterr().out)
    assert out[1] == f"B: {other}, by its order (to which --s does not apply)"
    assert out[-2:] == [f"A and B {4 / 3:.2f}", "by chance 0.89"]
    assert main(["layers", "compare", one, str(other), "--match", "order"]) == 2
    assert "only if one of the two is a profile" in capsys.readouterr().err
    mine = cache.save(profile("EW", [9, 8, 7, 6, 5, 4, 3, 2]))
    scores = {str(i): i for i in range(8)}
    file = published(tmp_path, scores)
    assert main(["layers", "compare", file, mine, "--match", "order"]) == 0
    out = rows(capsys.readouterr().out)
    assert "0 conv1" in out
    assert "A and B 4.00 40%" in out  # 7, 5, 3, 1, 1, 3, 5, 7


def test_add_records_the_stability_and_the_runs(cache: ProfileCache) -> None:
    ids = [cache.save(profile(w, [9, 8, 7, 6, 5, 4, 3, 2])) for w in ("EW", "MGDA")]
    assert main(["layers", "add", *ids, "--k", "2", "--s", "-0.05"]) == 0
    (total,) = (e.profile for e in cache.list() if e.id not in ids)
    assert total.provenance["stability"]["K"] == [2, 2]
    assert total.provenance["stability"]["S"] == -0.05
    assert [run["steps"] for run in total.provenance["added"]] == [20, 20]


def test_add_keeps_the_sum(capsys: pytest.CaptureFixture[str], cache: ProfileCache) -> None:
    ids = [cache.save(profile(w, [5] * 8)) for w in ("EW", "MGDA")]
    assert main(["layers", "add", *ids]) == 0
    assert "the sum of 2 profiles over 40 steps" in capsys.readouterr().out
    assert max(entry.profile.scores(-0.1)["bn1"] for entry in cache.list()) == 10


def test_table_has_the_reduction(capsys: pytest.CaptureFixture[str], cache: ProfileCache) -> None:
    ids = [cache.save(profile("EW", [8] * 8)), cache.save(profile("MGDA", [2] * 8))]
    assert main(["layers", "table", *ids]) == 0
    out = rows(capsys.readouterr().out)
    assert out[1] == "cosine EW MGDA"
    assert "(-0.03, -1] 40.00 10.00" in out
    assert "reduction (%) - 75.00" in out
    assert main(["layers", "table", *ids, "--layers", "--edges=0,-0.1"]) == 0
    out = rows(capsys.readouterr().out)
    assert out[0].endswith("8 layers, counted separately:")
    assert "(-0.1, -1] 40.00 10.00" in out


def test_plot_draws_and_checks_its_file_first(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    ids = [cache.save(profile("EW", [8] * 8)), cache.save(profile("MGDA", [2] * 8))]
    picture = tmp_path / "cosines.png"
    assert main(["layers", "plot", *ids, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["layers", "plot", *ids, "--out", "x.gif"]) == 2
    assert "--out must be a file name that ends in" in capsys.readouterr().err


def test_older_profiles_say_what_they_lack(
    capsys: pytest.CaptureFixture[str], cache: ProfileCache, tmp_path: Path
) -> None:
    mine = profile("EW", [1] * 8)
    old = ConflictProfile(LAYERS, mine.tasks, mine.counts, mine.undefined, mine.block_steps)
    name = cache.save(old)
    for words in (["table", name], ["plot", name, "--out", str(tmp_path / "x.png")]):
        assert main(["layers", *words]) == 1
        assert (
            "older version wrote it or some of its layers were left out. Score"
            in capsys.readouterr().err
        )


def test_compare_names_the_way_to_match_other_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text('["a", "b"]')
    (tmp_path / "b.json").write_text('["c", "d"]')
    (tmp_path / "none.json").write_text("[]")
    files = [str(tmp_path / name) for name in ("a.json", "b.json", "none.json")]
    assert main(["layers", "compare", *files[:2]]) == 1
    assert "under other names are matched by --match order." in capsys.readouterr().err
    assert main(["layers", "compare", files[0], files[2]]) == 1
    assert f"error: PROFILE {files[2]} must contain" in capsys.readouterr().err
