"""Profiles and logs damaged at random: named, set aside, never a traceback, in nobody's way."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache, ReconError
from libmtl_recon.cli.tables import print_ranking
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.merge import add_profiles
from libmtl_recon.conflicts.report import report_on
from libmtl_recon.conflicts.stability import stability
from libmtl_recon.profiles.sources import describe, from_source
from libmtl_recon.weighting.gradops_log import read_log

SEED = 20261128
LAYERS = tuple(Layer(name, "Linear", ((4, 2), (4,))) for name in ("conv1", "bn1", "fc"))
VALUES: list[Any] = [None, True, 0, -1, 3, 2**53, 2**63, 10**40, 0.5, float("nan"), float("inf")]
VALUES += [
    "",
    "x",
    "conv1",
    "-0.100",
    "undefined",
    "\x1b[2J",
    "\ud800",
    "[/x]",
    [],
    {},
    [[]],
    {"a": 1},
]
TOKENS = [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 4000, b'"\\ud800"', b"null", b"\xff"]
TOKENS += [b"\x00" * 64, b'"a":1,"a":2', b"{", b"}", b",", b'"', b"\xef\xbb\xbf", b"\r\n", b"-"]


def good(seed: int) -> ConflictProfile:
    numbers = np.random.default_rng(seed)
    counts = np.zeros((3, 3, 400), np.int64)
    for row in counts.reshape(-1, 400):
        np.add.at(row, numbers.integers(150, 260, 10), 1)
    whole = np.concatenate([counts[:, 0], np.zeros((3, 1), np.int64)], axis=1)
    where = {"dataset": "digits", "seed": seed, "versions": {"torch": "2"}}
    undefined = np.zeros((3, 3), np.int64)
    steps = np.full(3, 10)
    return ConflictProfile(LAYERS, ("a", "b"), counts, undefined, steps, where, whole)


def damaged_tree(value: Any, dice: random.Random) -> Any:
    """A JSON value, changed somewhere inside."""
    if isinstance(value, dict | list) and value and dice.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = dice.choice(keys)
        kind = dice.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2 and isinstance(value, dict):
            value[dice.choice(["x", "", "steps", "\udcff"])] = value.pop(key)
        elif kind < 0.3 and isinstance(value, list):
            value.extend([value[key]] * dice.choice([1, 1, 50]))
        else:
            value[key] = damaged_tree(value[key], dice)
        return value
    return copy.deepcopy(dice.choice(VALUES))


def damaged(content: bytes, dice: random.Random) -> bytes:
    kind = dice.randrange(8)
    place = dice.randrange(len(content))
    end = min(len(content), place + dice.choice([1, 8, 512]))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(end - place) + content[end:]
    if kind == 2:
        flipped = bytes([content[place] ^ (1 << dice.randrange(8))])
        return content[:place] + flipped + content[place + 1 :]
    if kind == 3:
        return content[:place] + dice.choice(TOKENS) + content[dice.choice([place, end]) :]
    if kind == 4:
        return content[:end] + content[place:]
    if kind == 5:
        return content.decode().encode(dice.choice(["utf-16", "utf-32", "utf-8-sig", "cp500"]))
    if kind == 6:
        return content[place:] + content[:place]
    return content


def damage(profile: ConflictProfile, dice: random.Random) -> bytes:
    if dice.random() < 0.5:
        tree = json.loads(profile.to_json())
        for _ in range(dice.choice([1, 1, 2, 5])):
            tree = damaged_tree(tree, dice)
        return json.dumps(tree).encode()
    return damaged(profile.to_json().encode(), dice)


def use(profile: ConflictProfile) -> None:
    """All that a command does with a profile that could be read."""
    again = ConflictProfile.from_json(profile.to_json())
    assert again.id == profile.id
    describe(profile, ("a", "b"))
    print_ranking(report_on(profile, -0.1))
    scores = profile.scores(-0.1)
    assert all(0 <= score <= profile.steps * profile.pairs for score in scores.values())
    stability(profile, -0.1, None)
    add_profiles([profile])


def outcome(action: Callable[[], object]) -> object:
    """Return the result of a function, or the paragraph of an error of this package."""
    try:
        return action()
    except ReconError as error:
        text = str(error)
    assert len(text) <= 1500
    assert text.replace("\n", "").isprintable()
    return None


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("shown")
def test_no_damaged_profile_is_a_crash_or_in_the_way(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ProfileCache(tmp_path / "cache")
    kept = cache.save(good(0))
    dice = random.Random(SEED + count)
    duplicate = tmp_path / "copy.json"
    refused = 0
    for number in range(count):
        content = damage(good(number % 7 + 1), dice)
        file = Path(cache.folder) / "damaged.json"
        file.write_bytes(content)
        duplicate.write_bytes(content)
        try:
            found = [entry.id for entry in cache.list()]
            assert kept in found
            aside = Path(cache.folder) / "damaged.damaged"
            said = capsys.readouterr().err
            if "damaged" in found:
                use(cache.load("damaged").profile)
            else:
                refused += 1
                assert str(file) in said
                assert aside.read_bytes() == content  # nothing is lost
                aside.unlink()
            imported = outcome(lambda: cache.import_(duplicate))
            assert (imported is None) == ("damaged" not in found)
            if imported not in (None, kept):
                cache.remove(str(imported))
            outcome(lambda: from_source(LAYERS, 1, -0.1, str(duplicate), cache, ("a", "b")))
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, say of which file
            pytest.fail(f"file {number}: {type(error).__name__}: {error}; {content[:300]!r}")
        file.unlink(missing_ok=True)
        capsys.readouterr()
    assert count // 2 < refused < count


SCORES = json.dumps({"conv1": 3, "bn1": 2.5, "fc": 0}).encode()
NAMES = json.dumps(["bn1", "fc", "conv1"]).encode()


@pytest.mark.parametrize("content", [SCORES, NAMES], ids=["scores", "names"])
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damaged_list_of_layers_is_a_crash(count: int, content: bytes, tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path / "cache")
    dice = random.Random(SEED + count)
    file = tmp_path / "layers.json"
    chosen = 0
    for _ in range(count):
        file.write_bytes(damaged(content, dice))
        found = outcome(lambda: from_source(LAYERS, 2, -0.1, str(file), cache))
        chosen += found is not None
    assert 0 < chosen < count


LOG = "step,epoch,alpha,conflict_rate,w a,w b,r a,r b\n" + "".join(
    f"{step},0,-1,0.5,1.1,0.9,0.4,1.6\n" for step in range(1, 30)
)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damaged_log_is_a_crash(count: int, tmp_path: Path) -> None:
    dice = random.Random(SEED + count)
    file = tmp_path / "log.csv"
    read = 0
    for _ in range(count):
        file.write_bytes(damaged(LOG.encode(), dice))
        log = outcome(lambda: read_log(file))
        read += log is not None
    assert 0 < read < count
