"""The tutorial's commands and programs, run one after the other as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from libmtl_recon.cli import main
from libmtl_recon.search import load_config

TREE = Path(__file__).parents[2]


class Block(NamedTuple):
    language: str
    code: str


def blocks() -> list[Block]:
    text = (TREE / "docs" / "tutorial.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(*one) for one in found]


def commands() -> Iterator[list[str]]:
    for block in blocks():
        if block.language == "bash":
            for line in block.code.splitlines():
                yield shlex.split(line)


def test_it_installs_as_the_readme_does() -> None:
    install, *_ = (block.code.strip() for block in blocks() if block.language == "bash")
    readme = (TREE / "README.md").read_text(encoding="utf-8")
    assert install.removesuffix(" && source .venv/bin/activate") in readme
    assert all(words[0] == "libmtl-recon" for words in list(commands())[1:])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_its_commands_and_programs_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the search; with a tenth of the training, but for the profile."""
    for language, code in blocks():
        if language == "python":
            exec(compile(code, "tutorial.md", "exec"), {})
        if language != "bash":
            continue
        for _, *words in map(shlex.split, code.splitlines()):
            if words[0] in ("run", "score", "layers"):
                short = ["--epochs", "2"] if "multidigits" in words else []
                assert main([*words, *short]) == 0, words
    printed = capsys.readouterr().out
    assert "Layers by conflict score at S = -0.1" in printed
    assert "Layers by conflict score at S = -0.05" in printed
    assert "Recon: 4 of 13 layers are task-specific now:" in printed
    assert "encoder parameters 5,660 ->" in printed
    assert "torch.Size([8, 16])" in printed
    assert (here / "conflicts.png").stat().st_size > 10_000


def test_its_configuration_is_read(here: Path) -> None:
    (text,) = (block.code for block in blocks() if block.language == "yaml")
    (here / "study.yaml").write_text(text, encoding="utf-8")
    (here / "main.py").write_text("", encoding="utf-8")
    config = load_config(here / "study.yaml")
    assert config.trials == yaml.safe_load(text)["trials"] == 30
    assert config.space.ks == list(range(21))


@pytest.mark.slow
def test_its_search_runs(here: Path) -> None:
    (search,) = (words for words in commands() if words[1:2] == ["search"])
    assert main(search[1:]) == 0
    assert (here / "runs" / "multidigits" / "report.html").exists()
    assert (here / "runs" / "multidigits" / "improvement.png").exists()
