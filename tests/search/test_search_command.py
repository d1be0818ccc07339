"""The words of `libmtl-recon search`: check, schema, --storage, --report; what is handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from libmtl_recon_search.config import Config

import libmtl_recon.search
from libmtl_recon import UsageError
from libmtl_recon.cli import main
from libmtl_recon.cli.search import VARIABLE

Calls = list[tuple[str, Config, tuple[Any, ...], dict[str, Any]]]
TINY = Path(__file__).parent / "tiny.py"
URL = "postgresql://me:secret@host/studies"


class _Report:
    def print(self) -> None:
        print("the report")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for the search and its check; what they were called with."""
    found: Calls = []

    def run_search(config: Config, *given: Any, **more: Any) -> _Report:
        found.append(("run", config, given, more))
        return _Report()

    def check_search(config: Config, *given: Any) -> list[str]:
        found.append(("check", config, given, {}))
        return ["good.", "No mistakes found."]

    def write_report(config: Config, *given: Any, **more: Any) -> list[Path]:
        found.append(("report", config, given, more))
        return [Path("there/report.html")]

    monkeypatch.setitem(vars(libmtl_recon.search), "run_search", run_search)
    monkeypatch.setitem(vars(libmtl_recon.search), "write_report", write_report)
    monkeypatch.setitem(vars(libmtl_recon.search), "check_search", check_search)
    monkeypatch.delenv(VARIABLE, raising=False)
    return found


def write(file: Path, **more: Any) -> Path:
    config = {"script": "multidigits", "space": {"k": [0, 2]}, **more}
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def test_a_search_is_kept_in_the_folder_of_its_name(calls: Calls, tmp_path: Path) -> None:
    file = str(write(tmp_path / "one.yaml"))
    named = str(write(tmp_path / "two.yaml", name="three"))
    assert main(["search", file]) == main(["search", named]) == 0
    assert main(["search", named, "--out", "there"]) == 0
    assert main(["search"]) == 0
    assert [given[0] for _, _, given, _ in calls] == [
        *(Path("runs/one"), Path("runs/three"), Path("there"), Path("runs/multidigits")),
    ]
    assert [more for _, _, _, more in calls] == [{"storage": None}] * 4


def test_the_database_and_the_report_are_handed_on(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--storage", URL, "--trials", "3"]) == 0
    assert main(["search", "--report"]) == 0
    monkeypatch.setenv(VARIABLE, URL)
    assert main(["search", "--report", "--out", "here"]) == 0
    assert main(["search", "--storage", "sqlite:///x.db", "--out", "here"]) == 0
    assert [(kind, given[0], more) for kind, _, given, more in calls] == [
        ("run", None, {"storage": URL}),
        ("report", None, {"storage": None}),
        ("report", Path("here"), {"storage": URL}),
        ("run", Path("here"), {"storage": "sqlite:///x.db"}),
    ]
    assert calls[0][1].trials == 3
    assert capsys.readouterr().out.count("Report: there/report.html\n") == 2


@pytest.mark.parametrize("command", [["search"], ["search", "check"]])
def test_an_empty_address_is_said_by_the_name_it_was_given_under(
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    assert main([*command, "--storage", ""]) == 2
    assert "error: --storage must be the address" in capsys.readouterr().err
    monkeypatch.setenv(VARIABLE, " ")
    assert main(command) == 2
    assert f"error: {VARIABLE} must be the address" in capsys.readouterr().err
    assert main([*command, "--storage", URL]) == 0
    assert len(calls) == 1


@pytest.mark.parametrize(("given", "name"), [(["--storage", URL], "--storage"), ([], VARIABLE)])
def test_what_is_wrong_with_the_address_names_where_it_came_from(
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    name: str,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UsageError("storage", "must be better", None, "Write another `storage`.")

    monkeypatch.setenv(VARIABLE, URL)
    for command, function in (
        (["search"], "run_search"),
        (["search", "--report"], "write_report"),
        (["search", "check"], "check_search"),
    ):
        monkeypatch.setitem(vars(libmtl_recon.search), function, refuse)
        assert main([*command, *given]) == 2
        said = capsys.readouterr().err
        assert f"error: {name} must be better" in said
        assert f"Write another {name}." in said


def test_check_takes_a_file_and_overrides(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write(tmp_path / "study.yaml"))
    assert main(["search", "check", file, "--trials", "7", "--seed", "50"]) == 0
    ((kind, config, given, _),) = calls
    assert (kind, config.trials, config.seed, given[0]) == ("check", 7, 50, None)
    assert capsys.readouterr().out == f"{file}: good.\nNo mistakes found.\n"
    assert main(["search", "check", "--storage", URL]) == 0
    assert calls[1][2][0] == URL
    assert calls[1][1].name == "multidigits"


@pytest.mark.parametrize("word", ["check", "schema"])
def test_a_file_of_this_name_is_given_by_its_path(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / word)
    assert main(["search", f"./{word}", "--trials", "5"]) == 0
    assert main(["search", "check", word]) == 0
    assert main(["search", "check", f"./{word}"]) == 0
    assert [kind for kind, *_ in calls] == ["run", "check", "check"]
    assert {config.name for _, config, _, _ in calls} == {word}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "--out", "x"], "Unknown flag --out."),
        (["check", "--report"], "Unknown flag --report."),
        (["check", "a", "b"], "Unexpected argument 'b'."),
        (["schema", "a"], "Unexpected argument 'a'."),
        (["chek", "a"], "Unexpected argument 'a'."),
        (["--storge", "x"], "Did you mean --storage?"),
    ],
)
def test_what_has_no_place_is_refused(
    calls: Calls, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert calls == []


def test_help_teaches_the_keys_and_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["check", "--help"]):
        with pytest.raises(SystemExit):
            main(["search", *words])
    said = capsys.readouterr().out
    for word in (
        *("check study.yaml", "search schema", "--storage URL", "--report", VARIABLE, "sampler:"),
        *("objectives: [delta_m, parameters]", "constraints:", "tune_baselines:", "./check"),
        "usage: libmtl-recon search check",
    ):
        assert word in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_mistake_in_the_file_is_no_search(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {f"key{number}": number for number in range(40)}
    file = str(write(tmp_path / "study.yaml", **wrong))
    assert main(["search", file]) == 2
    assert " … and " in capsys.readouterr().err.splitlines()[-1]  # so many more
    assert main(["search", "check", file]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"libmtl-recon: error: {file} has 40 faults."
    assert {line.split()[1] for line in lines[1:]} == set(wrong)
    assert calls == []
