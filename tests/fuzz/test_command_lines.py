"""Command lines at random: each ends with a status or argparse's exit, in time, in our own words.

Only `search` of a good configuration, and a script that trains, are left out, for their time.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import build_parser, main
from libmtl_recon.conflicts.layers import Layer

SEED = 20261128
SECONDS = 60  # for one command line, on a busy machine
LOG = "step,epoch,alpha,conflict_rate,w a,w b,r a,r b\n1,0,0,1,1,1,0.5,1.5\n2,0,0,0,1,1,,\n"
NUMBERS = ["0", "-1", "3", "-0.1", "0.5", "1e999", "nan", "-inf", "1e-320", "9" * 400, "0x10", "٣"]
NAMES = [
    "",
    "-",
    "--",
    ".",
    "..",
    "/",
    "a,b",
    "[/x]",
    "mnist[v2]",
    "$x$",
    "größe",
    "%s%n",
    "=",
    "--=",
]
ODD = [
    "x" * 300,
    "a/" * 3000,
    "n\0l",
    "s\ud800",
    "c\udce9.json",
    "\x1b[2J",
    "\n",
    "a\u202eb",
    "~nobody-x",
]
FILES = ["good.json", "bad.json", "zeros.json", "log.csv", "main.py", "folder", "none/x.png"]
OUT = [
    "p.png",
    "q.svg",
    "r.pdf",
    "s.gif",
    "t.json",
    "folder",
    "/dev/null",
    "none/y.json",
    "/dev/full",
]


def profile(dataset: str) -> ConflictProfile:
    layers = (Layer("conv1", "Conv2d", ((8, 3),)), Layer("bn1", "BatchNorm2d", ((8,), (8,))))
    counts = np.zeros((4, 2, 400), np.int64)
    counts[:, :, 100], counts[:, :, 300] = 3, 7
    whole = np.concatenate([counts[:, 0], np.zeros((4, 1), np.int64)], axis=1)
    steps = np.full(4, 10)
    undefined = np.zeros((4, 2), np.int64)
    where = {"dataset": dataset}
    return ConflictProfile(layers, ("left", "right"), counts, undefined, steps, where, whole)


def furnish(folder: Path) -> list[str]:
    """A working folder with files of all kinds; returns the ids in its cache."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "folder").mkdir(parents=True)
    (folder / "good.json").write_text(profile("file").to_json())
    (folder / "bad.json").write_text('{"format": "libmtl-recon conflict profile"')
    (folder / "zeros.json").write_bytes(bytes(999))
    (folder / "log.csv").write_text(LOG)
    (folder / "main.py").write_text("import sys\nsys.exit(len(sys.argv) % 3)\n")
    cache = ProfileCache(folder / "cache")
    return [cache.save(profile(name)) for name in ("a", "b", "[/x]")]


def parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each subcommand's words and its flags."""
    yield path, [flag for flag in parser._option_string_actions if flag not in ("-h", "--help")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*path, name))


def mistyped(word: str, dice: random.Random) -> str:
    place = dice.randrange(len(word) + 1)
    return (
        word[:place]
        + dice.choice(["", "x", "-", "_", word[:1]])
        + word[place + dice.choice([0, 1]) :]
    )


def sound(dice: random.Random, ids: list[str]) -> list[str]:
    """A command line as a user means it, sometimes with one word amiss."""
    one, two = dice.sample(ids, 2)
    words = dice.choice(
        [
            ["layers", "list"],
            ["layers", "show", one[:6], "--s", "-0.05"],
            ["layers", "show", "--k", "1", one],
            ["layers", "compare", one, "good.json"],
            ["layers", "table", one, two, "--layers", "--edges=0,-0.1,-0.5"],
            ["layers", "add", one, "good.json"],
            ["layers", "export", one, "new.json"],
            ["layers", "import", "good.json"],
            ["layers", "remove", two],
            ["layers", "plot", one, two, "--out", "p.png"],
            ["gradops", "plot", "log.csv", "--smooth", "1"],
            ["run", "main.py", "--epochs", "3", "4"],
            ["run", "--", "main.py", "-m"],
        ]
    )
    if dice.random() < 0.4:
        place = dice.randrange(len(words))
        words[place] = mistyped(words[place], dice)
    return words


def command_line(dice: random.Random, ids: list[str]) -> list[str]:
    if dice.random() < 0.3:
        return sound(dice, ids)
    path, flags = dice.choice(list(parsers(build_parser())))
    words = list(path)
    if dice.random() < 0.1 and words:
        words[-1] = mistyped(words[-1], dice)
    some_id = dice.choice(ids)
    values = [NUMBERS, NAMES, ODD, FILES, OUT, ids, [some_id[: dice.randrange(12)]]]
    for _ in range(dice.randrange(5)):
        if flags and dice.random() < 0.6:
            flag = dice.choice(flags)
            flag = mistyped(flag, dice) if dice.random() < 0.1 else flag
            value = dice.choice(dice.choice(values))
            words += [f"{flag}={value}"] if dice.random() < 0.4 else [flag, value]
        else:
            words.append(dice.choice(dice.choice(values)))
    if path and path[0] == "search":  # alone it would search
        words.append(dice.choice(["none.yaml", "bad.json", "zeros.json", "folder", *ODD]))
    return words


class HangError(Exception):
    """A command line has not come to an end."""


def raise_hang(_: int, __: FrameType | None) -> None:
    raise HangError


@pytest.mark.parametrize("count", [80, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_command_line_ends_in_a_traceback_or_never(
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    ids = furnish(work)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(work / "cache"))
    before = signal.signal(signal.SIGALRM, raise_hang)
    dice = random.Random(SEED + count)
    ended: dict[object, int] = {}
    try:
        for number in range(count):
            if number % 20 == 0:
                monkeypatch.chdir(tmp_path)
                furnish(work)
            monkeypatch.chdir(work)
            words = command_line(dice, ids)
            signal.alarm(SECONDS)
            try:
                status: object = main(words)
            except SystemExit as request:
                status = request.code
            except BaseException as error:  # noqa: BLE001  # whatever it is, say of which line
                pytest.fail(f"line {number}, {words!r}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
            said = capfd.readouterr()
            assert status in (0, 1, 2, None), (number, words, status)
            no_python = "SyntaxError" in said.err  # a file that is no script, as Python says it
            assert no_python or "Traceback" not in said.err, (number, words, said.err)
            message = said.err.partition("error: ")[2]
            assert len(message) <= 1600, (number, words, message)
            assert message.replace("\n", "").isprintable(), (number, words, message)
            if status in (1, 2) and not no_python and "main.py" not in words:  # says nothing
                assert message.strip(), (number, words)
            ended[status] = ended.get(status, 0) + 1
    finally:
        signal.signal(signal.SIGALRM, before)
    # Not all are refused at the first word.
    assert ended[0] > count // 10
    assert ended[2] > count // 4
