"""Names from outside are shown as they are: no markup, nothing that a terminal obeys, no end."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main, tables
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.consoles import make_console

ODD = [
    "mnist[v2]",
    "[/x]",
    "[bold red]x[/]",
    ":smile:",
    "\x1b[2J\x07",
    "a\u202eb",
    "c\udce9",
    "größe",
]
SHOWN = [
    "mnist[v2]",
    "[/x]",
    "[bold red]x[/]",
    ":smile:",
    r"\x1b[2J\x07",
    r"a\u202eb",
    r"c\udce9",
    "größe",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileCache:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["main.py"])
    return ProfileCache()


def profile_named(name: str, layers: int = 2, **origin: Any) -> ConflictProfile:
    found = tuple(Layer(f"{name}{n}", name, ((2,),)) for n in range(layers))
    counts = np.zeros((1, layers, 400), np.int64)
    counts[0, :, 100] = 3
    counts[0, :, 300] = 7
    whole = np.zeros((1, 401), np.int64)
    whole[0, [100, 300]] = 3, 7
    where = dict.fromkeys(("dataset", "encoder", "weighting", "date", name), name) | origin
    return ConflictProfile(
        found,
        (name, "other"),
        counts,
        np.zeros((1, layers), np.int64),
        np.array([10]),
        where,
        whole,
    )


@pytest.mark.parametrize(("name", "shown"), list(zip(ODD, SHOWN, strict=True)), ids=ascii)
def test_every_command_shows_a_name_as_it_is(
    name: str, shown: str, cache: ProfileCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = cache.save(profile_named(name))
    two = cache.save(profile_named(name, added=[{"dataset": name}, name, 3], seed=1))
    file = str(tmp_path / "p.json")
    for words in (
        ["layers", "list"],
        ["layers", "show", one, "--plot", str(tmp_path / "p.png")],
        ["layers", "show", two, "--k", "1"],
        ["layers", "table", one, two, "--layers"],
        ["layers", "plot", one, two, "--out", str(tmp_path / "q.svg")],
        ["layers", "compare", one, two],
        ["layers", "export", one, file],
        ["layers", "import", file],
    ):
        assert main(words) == 0, words
        out = capsys.readouterr().out
        assert out.replace("\n", "").isprintable(), words
        if words[1] in ("list", "show"):
            assert shown in out, words


def test_a_stream_that_has_no_such_characters_gets_escapes(
    cache: ProfileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.save(profile_named("größe数"))
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    assert main(["layers", "list"]) == 0
    assert main(["layers", "show"]) == 0
    plain.seek(0)
    assert r"gr\xf6\xdfe\u6570" in plain.read()


def test_no_profile_makes_the_output_endless(
    cache: ProfileCache, capsys: pytest.CaptureFixture[str]
) -> None:
    many = profile_named("n" * 3000, added=[{"dataset": "d" * 9000}] * 300, layers=1500)
    cache.save(many)
    assert main(["layers", "show"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 1300
    assert "  and 200 more\n" in out
    assert "\nand 500 more\n" in out
    assert main(["layers", "show", "--k", "1200"]) == 0
    assert "\nand 300 more\n" in capsys.readouterr().out


def test_the_names_of_a_damaged_file_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(profile_named("x").to_json())
    data["blocks"][0]["cosines"] = {
        "\x1b]0;title\x07" + "y" * 5000: {},
        **data["blocks"][0]["cosines"],
    }
    data["blocks"][0]["cosines"]["\x1b[2J" * 3000] = {"0.000": 1}
    file = tmp_path / "\x1b[31mred.json"
    file.write_text(json.dumps(data))
    assert main(["layers", "import", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.strip().isprintable()
    assert len(error) < 1500


def test_a_console_knows_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    table = tables.make_table(console, "[b]head[/b]")
    table.add_row("[/nothing opened]")
    tables.show_table(console, table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[b]head[/b]",
        "[/nothing opened]",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["layers", "show", ""], "ID must be the ID of exactly one profile"),
        (["layers", "show", "--plot", ""], "--plot must be a file name that ends in"),
        (["score", "--out", "", "main.py"], "--out must be the name of a file"),
        (["score", "--plot", "", "main.py"], "--plot must be a file name that ends in"),
        (["search", "--out", ""], "--out must be the name of a folder"),
    ],
)
def test_an_empty_name_is_not_taken_for_none(
    words: list[str], says: str, cache: ProfileCache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.save(profile_named("one"))
    assert main(words) == 2
    assert says in capsys.readouterr().err
