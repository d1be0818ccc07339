from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libmtl_recon import ConflictProfile, ProfileCache, ReconError, UsageError
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.cache import default_folder

Make = Callable[..., ConflictProfile]
COSINES = [[-0.2], [0.1], [0.3]]

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)


@pytest.fixture
def cache(tmp_path: Path) -> ProfileCache:
    return ProfileCache(tmp_path / "profiles")


def layers(channels: int = 1, kind: str = "Conv2d") -> tuple[Layer, ...]:
    return (Layer("conv1", kind, ((4, channels, 3, 3),)), Layer("bn1", "BatchNorm2d", ((4,),)))


def age(cache: ProfileCache, id: str, seconds: int) -> None:
    """Make a profile look as if it had been kept this long ago."""
    file = cache.folder / f"{id}.json"
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def test_an_empty_cache_is_no_error(cache: ProfileCache) -> None:
    assert cache.list() == []
    assert cache.find(layers()) is None
    assert not cache.folder.exists()


def test_what_is_saved_comes_back(cache: ProfileCache, profile: ConflictProfile) -> None:
    id = cache.save(profile)
    assert id == profile.id
    entry = cache.load(id[:4])
    assert entry.id == id
    assert entry.profile.to_json() == profile.to_json()
    assert [file.name for file in cache.folder.iterdir()] == [f"{id}.json"]


def test_profiles_are_listed_newest_first(cache: ProfileCache, make_profile: Make) -> None:
    old, new = (cache.save(make_profile(COSINES, dataset=name)) for name in ("old", "new"))
    age(cache, old, 100)
    assert [entry.id for entry in cache.list()] == [new, old]
    age(cache, new, 200)
    assert [entry.id for entry in cache.list()] == [old, new]


def test_the_newest_exact_match_is_found_before_a_newer_loose_one(
    cache: ProfileCache, make_profile: Make
) -> None:
    rows = [[-0.2], [0.1]]
    oldest = cache.save(make_profile(rows, layers(1), dataset="oldest"))
    exact = cache.save(make_profile(rows, layers(1), dataset="exact"))
    loose = cache.save(make_profile(rows, layers(3), dataset="loose"))
    other = cache.save(make_profile(rows, layers(1, "Linear"), dataset="other"))
    for back, id in enumerate((other, loose, exact, oldest)):
        age(cache, id, 10 * back)
    match = cache.find(layers(1))
    assert match is not None
    assert (match.entry.id, match.exact, match.others) == (exact, True, 1)
    match = cache.find(layers(3))
    assert match is not None
    assert (match.entry.id, match.exact, match.others) == (loose, True, 0)
    match = cache.find(layers(2))
    assert match is not None
    assert (match.entry.id, match.exact, match.others) == (loose, False, 2)
    assert cache.find(layers(1)[:1]) is None


def test_ids_may_be_shortened_if_unique(cache: ProfileCache, make_profile: Make) -> None:
    ids = [cache.save(make_profile(COSINES, dataset=str(n))) for n in range(20)]
    starts = [id[0] for id in ids]
    doubled = next(s for s in starts if starts.count(s) > 1)
    for id in (doubled, "", "nothing", "../x"):
        with pytest.raises(UsageError, match="ID must be the ID of exactly one profile"):
            cache.load(id)


def test_a_file_in_the_place_of_an_id_is_to_be_imported(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(profile.to_json())
    with pytest.raises(UsageError, match=rf"It is a file: `libmtl-recon layers import {file}`"):
        cache.load(str(file))
    with pytest.raises(UsageError, match=r"^ID (?!.*It is a file)"):
        cache.load(str(tmp_path))


def test_remove_deletes_one_profile(cache: ProfileCache, make_profile: Make) -> None:
    first, second = (cache.save(make_profile(COSINES, dataset=name)) for name in "ab")
    assert cache.remove(first).id == first
    assert [entry.id for entry in cache.list()] == [second]


def test_profiles_travel_by_file(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    id = cache.save(profile)
    cache.export(id, tmp_path / "out.json")
    other = ProfileCache(tmp_path / "other")
    assert other.import_(tmp_path / "out.json") == id
    assert other.load(id).profile.scores(-0.1) == profile.scores(-0.1)


def test_an_imported_file_that_is_no_profile_is_named(cache: ProfileCache, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text('{"conv1": 3}')
    with pytest.raises(ReconError, match=r"scores\.json is not a readable conflict profile"):
        cache.import_(file)
    with pytest.raises(ReconError, match=r"Cannot read .*missing\.json: No such file"):
        cache.import_(tmp_path / "missing.json")
    assert cache.list() == []


def test_published_scores_are_no_profile_to_import(cache: ProfileCache, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"bn1": 4427}')
    with pytest.raises(ReconError, match="Recon can take its layers from them"):
        cache.import_(tmp_path / "scores.json")


def test_an_export_into_no_folder_is_explained(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    id = cache.save(profile)
    with pytest.raises(ReconError, match=r"Cannot write the profile to .*: No such file"):
        cache.export(id, tmp_path / "none" / "out.json")


@pytest.mark.usefixtures("shown")
def test_damaged_files_are_named_and_set_aside(
    cache: ProfileCache, profile: ConflictProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    id = cache.save(profile)
    text = (cache.folder / f"{id}.json").read_text()
    (cache.folder / "torn.json").write_text(text[: len(text) // 2])
    (cache.folder / "foreign.json").write_text('{"hello": 1}')
    (cache.folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (cache.folder / "folder.json").mkdir()
    (cache.folder / "notes.txt").write_text("not ours")
    assert [entry.id for entry in cache.list()] == [id]
    said = capsys.readouterr().err
    for name in ("torn", "foreign", "binary"):
        assert str(cache.folder / f"{name}.json") in said
        assert (cache.folder / f"{name}.damaged").exists()
    assert "folder.json was ignored" in said
    # Named once, not at every call.
    assert [entry.id for entry in cache.list()] == [id]
    assert "torn" not in capsys.readouterr().err


@pytest.mark.usefixtures("shown")
def test_what_was_set_aside_before_is_kept(
    cache: ProfileCache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.prepare()
    for number in range(3):
        (cache.folder / "bad.json").write_text(f"{{{number}")
        assert cache.list() == []
    said = capsys.readouterr().err
    for number, name in enumerate(("bad.damaged", "bad.2.damaged", "bad.3.damaged")):
        assert (cache.folder / name).read_text() == f"{{{number}"
        assert f"renamed to {cache.folder / name}." in said


@pytest.mark.usefixtures("shown")
def test_no_kind_of_entry_blocks_the_others(
    cache: ProfileCache, profile: ConflictProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    id = cache.save(profile)
    (cache.folder / "zeros.json").write_bytes(bytes(4096))  # as after a power cut
    (cache.folder / "wide.json").write_text(profile.to_json(), encoding="utf-16")
    (cache.folder / "loop.json").symlink_to("loop.json")
    (cache.folder / "gone.json").symlink_to("nothing")
    os.mkfifo(cache.folder / "pipe.json")
    with (cache.folder / "huge.json").open("wb") as stream:
        stream.truncate(2**40)  # takes no room on the disk
    assert [entry.id for entry in cache.list()] == [id]
    said = capsys.readouterr().err
    assert "pipe.json was ignored: it is not a regular file." in said
    assert "huge.json was ignored: it is larger than 256 MB." in said
    assert (cache.folder / "zeros.damaged").exists()
    assert (cache.folder / "wide.damaged").exists()


def test_a_file_from_an_editor_that_marks_its_encoding_is_read(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    (tmp_path / "marked.json").write_text(profile.to_json(), encoding="utf-8-sig")
    assert cache.import_(tmp_path / "marked.json") == profile.id


@pytest.mark.parametrize("name", ["x" * 300, "x\0y", "x\ud800y"], ids=["long", "nul", "surrogate"])
def test_a_name_that_no_file_can_have_is_explained(
    name: str, cache: ProfileCache, profile: ConflictProfile
) -> None:
    id = cache.save(profile)
    with pytest.raises(ReconError, match=r"^Cannot write the profile to "):
        cache.export(id, cache.folder / name)
    with pytest.raises(ReconError, match=r"^Cannot read "):
        cache.import_(cache.folder / name)
    for action in (ProfileCache(cache.folder / name).prepare, lambda: cache.load(name)):
        with pytest.raises(
            ReconError,
            match=r"Cannot write to the folder|must be the ID of "
            r"exactly one",
        ):
            action()


def test_a_link_and_a_device_stay_what_they_are(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    id = cache.save(profile)
    (tmp_path / "link.json").symlink_to("target.json")
    cache.export(id, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_text() == profile.to_json()
    cache.export(id, "/dev/null")
    assert Path("/dev/null").is_char_device()
    cache.export(id, tmp_path / ("n" * 250 + ".json"))  # as long as a name can be
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


def test_a_home_folder_of_nobody_is_a_name_like_any(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_CACHE", "~nobody-of-this-name/profiles")
    assert ProfileCache().list() == []


garbage = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["format", "version", "tasks", "architecture", "blocks", "provenance", "steps"]
                ),
                inner,
                max_size=7,
            ),
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@given(content=garbage, keep=st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_of_a_file_is_a_crash(
    tmp_path: Path, profile: ConflictProfile, content: bytes, keep: bool
) -> None:
    cache = ProfileCache(tmp_path / "garbage")
    id = cache.save(profile)
    if keep:  # a profile's own header before the garbage
        data = json.loads(profile.to_json())
        try:
            data["blocks"] = json.loads(content)
        except ValueError:
            data["tasks"] = content.hex()
        content = json.dumps(data).encode()
    (cache.folder / "bad.json").write_bytes(content)
    assert [entry.id for entry in cache.list()] == [id]
    assert not (cache.folder / "bad.json").exists()


def test_writers_at_once_leave_whole_files(tmp_path: Path, profile: ConflictProfile) -> None:
    """Four processes keep and list the same profiles; each sees whole ones only."""
    code = (
        "import sys\n"
        "from libmtl_recon import ConflictProfile, ProfileCache\n"
        "text = open(sys.argv[1]).read()\n"
        "cache = ProfileCache(sys.argv[2])\n"
        "for step in range(40):\n"
        "    where = {'run': step % 3}\n"
        "    p = ConflictProfile.from_json(text)\n"
        "    import dataclasses\n"
        "    cache.save(dataclasses.replace(p, provenance=where))\n"
        "    assert 1 <= len(cache.list()) <= 3\n"
        "    if step % 10 == 9: cache.remove(cache.list()[0].id) if sys.argv[3] == '0' else None\n"
    )
    source = tmp_path / "p.json"
    source.write_text(profile.to_json())
    arguments = [*python(), "-c", code, str(source), str(tmp_path / "cache")]
    running = [
        subprocess.Popen([*arguments, str(n)], stderr=subprocess.PIPE, text=True) for n in range(4)
    ]
    outcomes = [(process.communicate()[1], process.returncode) for process in running]
    assert outcomes == [("", 0)] * 4
    left = {file.suffix for file in (tmp_path / "cache").iterdir()}
    assert left == {".json"}


def test_a_folder_that_is_a_file_is_explained(tmp_path: Path, profile: ConflictProfile) -> None:
    (tmp_path / "file").write_text("")
    cache = ProfileCache(tmp_path / "file")
    for action in (cache.list, lambda: cache.save(profile)):
        with pytest.raises(ReconError, match=r"LIBMTL_RECON_CACHE"):
            action()


@as_root
def test_a_read_only_folder_is_explained(tmp_path: Path, profile: ConflictProfile) -> None:
    cache = ProfileCache(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ReconError, match=r"Cannot write to .*LIBMTL_RECON_CACHE"):
            cache.save(profile)
        assert cache.list() == []  # what cannot be set aside is passed over
    finally:
        tmp_path.chmod(0o700)


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path))
    assert ProfileCache().folder == tmp_path
    monkeypatch.delenv("LIBMTL_RECON_CACHE")
    assert default_folder().parts[-2:] == ("libmtl-recon", "profiles")


def test_a_file_of_the_name_comes_before_an_id(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    id = cache.save(profile)
    file = tmp_path / "resnet18.json"
    cache.export(id, file)
    assert cache.load_or_read(id[:4]).id == cache.load_or_read(str(file)).id == profile.id
    with pytest.raises(UsageError, match="source is not a file, and therefore must be the ID of"):
        cache.load_or_read(str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match=r"\(got '.*'\)"):
        cache.load_or_read(str(tmp_path))  # a folder is no file
