"""The reference has every public name, every flag and every key, with the defaults of the code."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("griffe", reason="the extra `docs`")

from flag_pages import command, problem_flags, script_flags
from key_page import search_keys
from name_pages import PAGES, asked_for, chosen, names, names_index
from pydantic import BaseModel
from renamed import renamed

import libmtl_recon
from libmtl_recon.cli import build_parser
from libmtl_recon.errors import MissingPackageError
from libmtl_recon.problems import BUILT_IN, path_of
from libmtl_recon.search import Config

TREE = Path(__file__).parents[2]
PUBLIC = {
    *("libmtl_recon", "libmtl_recon.gradients", "libmtl_recon.weighting"),
    *("libmtl_recon.torchjd", "libmtl_recon.search"),
    # Those of other frameworks; LibMTL's public names are the package's.
    *(
        f"libmtl_recon.integrations.{file.stem}"
        for file in Path(libmtl_recon.__file__).parent.glob("integrations/*.py")
        if file.stem != "__init__" and "__all__" in file.read_text(encoding="utf-8")
    ),
}


def documented() -> list[str]:
    """The path of each public name on the pages of the reference."""
    return [
        f"{module}.{name}"
        for page in PAGES.glob("*.md")
        for module, rooms in asked_for(page)
        for name in chosen(module, *rooms)
    ]


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_name_is_there_once(module: str) -> None:
    found = [path for path in documented() if path.rpartition(".")[0] == module]
    try:
        import_module(module)
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert sorted(found) == sorted(f"{module}.{name}" for name in import_module(module).__all__)


def test_a_name_is_on_the_page_of_the_smallest_room() -> None:
    pages = {
        name: page.stem
        for page in PAGES.glob("*.md")
        for module, rooms in asked_for(page)
        for name in (chosen(module, *rooms) if module == "libmtl_recon" else ())
    }
    assert pages["split_layers"] == pages["split_from"] == "splitting"
    assert pages["ProfileCache"] == pages["ConflictProfile"] == "conflicts"
    assert pages["run_script"] == pages["TrainerHook"] == "libmtl"
    assert pages["UsageError"] == pages["__version__"] == "errors"


def test_what_two_modules_list_is_documented_once() -> None:
    assert "::: libmtl_recon.gradops_weights" in names("libmtl_recon", "weighting")
    lines = names("libmtl_recon.weighting").splitlines()
    assert "::: libmtl_recon.weighting.gradops_weights" not in lines
    assert "The same as [`libmtl_recon.gradops_weights`][libmtl_recon.gradops_weights]." in lines
    assert "::: libmtl_recon.weighting.mgda_weights" in lines


def test_the_index_has_the_first_sentence_of_each() -> None:
    index = names_index()
    assert index.count("\n| [`") == len(documented())
    assert "| [`weighting.GradVac`][libmtl_recon.weighting.GradVac] | " in index
    sentences = re.findall(r"^\| \[`.*\]\[.*\] \| (.*) \|$", index, re.MULTILINE)
    assert [text for text in sentences if not text.endswith(".")] == []


@pytest.mark.parametrize("name", ["recording", "gramian"])
def test_a_function_is_found_beside_the_module_of_its_name(name: str) -> None:
    path = f"libmtl_recon.gradients.{name}.{name}"
    function = getattr(import_module("libmtl_recon.gradients"), name)
    sentence = function.__doc__.partition("\n\n")[0].replace("``", "`")
    assert f"| [`gradients.{name}`][{path}] | {sentence} |" in names_index().splitlines()
    assert f"::: {path}" in names("libmtl_recon.gradients").splitlines()


def test_code_in_the_index_is_as_in_the_docstring() -> None:
    found = re.findall(r"`[^`]*`", names_index())
    assert "`[T, d]`" in found
    assert [code for code in found if "\\[" in code] == []


def test_flags_of_scripts_are_those_of_libmtls_parser() -> None:
    """Asked of LibMTL's own parser, which the package has registered with."""
    parser = import_module("LibMTL.config").LibMTL_args
    ours = [
        action
        for action in parser._actions
        if re.match("--(gradops|rotograd|recon)_", "".join(action.option_strings))
    ]
    assert len(ours) > 20
    entries = dict(_entries(script_flags()))
    assert sorted(entries) == sorted(action.option_strings[0] for action in ours)
    for action in ours:
        said = re.search(r"\*Default:\* (.*)", entries[action.option_strings[0]])
        assert said, action.dest
        if action.default is not None:
            assert re.search(rf"(?<![\w.-]){re.escape(str(action.default))}(?![\w])", said[1])


def test_the_default_of_a_flag_follows_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from libmtl_recon.integrations.libmtl.flags import recon

    assert "*Default:* `-0.1`" in dict(_entries(script_flags()))["--recon_s"]
    monkeypatch.setattr(recon, "DEFAULT_S", -0.3)
    assert "*Default:* `-0.3`" in dict(_entries(script_flags()))["--recon_s"]


def test_flags_of_the_built_in_problems_are_those_of_their_scripts() -> None:
    """Each flag that a script's text adds, once; with the defaults of LibMTL's that it changes."""
    page = problem_flags()
    sections = dict(
        zip(*[iter(re.split(r"^## (\w+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True)
    )
    assert list(sections) == list(BUILT_IN)
    for name, section in sections.items():
        added = re.findall(r'add_argument\(\s*"(--\w+)"', path_of(name).read_text("utf-8"))
        entries = dict(_entries(section))
        assert set(added) <= set(entries), name
        assert len(entries) > 3, name
    nyu = dict(_entries(sections["nyuv2"]))
    assert "*Default:* `segnet_mtan`" in nyu["--network"]
    assert "*Default:* `2`" in nyu["--bs"]
    assert "`--optim adam --lr 0.0001 --weight_decay 0.0 " in sections["nyuv2"]


def _entries(page: str) -> Iterator[tuple[str, str]]:
    """The entries of a page: the flag or key, and what stands below it."""
    parts = re.split(r"^#+ `([^` ]+)[^`]*` \{ #\S+ \.entry \}$", page, flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def test_the_command_is_there_with_all_that_its_parsers_take() -> None:
    page = command()
    sections = dict(
        zip(
            *[iter(re.split(r"^#+ (libmtl-recon.*)$", page, flags=re.MULTILINE)[1:])] * 2,
            strict=True,
        )
    )
    parsers = list(_parsers(build_parser()))
    assert sorted(sections) == sorted(parser.prog for parser in parsers)
    assert {"libmtl-recon layers add", "libmtl-recon search check"} < set(sections)
    for parser in parsers:
        taken = [
            word
            for action in parser._actions
            for word in action.option_strings
            if not isinstance(action, argparse._HelpAction)
        ]
        entries = " ".join(re.findall(r"^#+ `(.*)` \{", sections[parser.prog], re.MULTILINE))
        assert sorted(re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", entries)) == sorted(taken)


def _parsers(parser: Any) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in set(action.choices.values()):
                yield from _parsers(below)
    for below in parser._others.values():
        yield from _parsers(below)


def test_anchors_are_there_once() -> None:
    for page in (command(), script_flags(), problem_flags(), search_keys()):
        anchors = re.findall(r"\{ #(\S+) \.entry \}$", page, re.MULTILINE)
        assert len(anchors) == len(set(anchors))
        assert len(anchors) == page.count(".entry }")


def test_every_key_of_a_search_is_there_with_its_default() -> None:
    entries = dict(_entries(search_keys()))
    expected = dict(_keys(Config, ""))
    bounds = {"low", "high", "step", "log"}
    assert set(entries) - bounds == set(expected)
    for key, field in expected.items():
        about = entries[key].strip().partition("\n")[0]
        if field.is_required():
            assert about.endswith("; required*"), key
        elif field.default in (None, ""):
            assert about.endswith("; default: none*"), key
        elif isinstance(field.default, bool):
            assert about == f"*true or false; default: `{str(field.default).lower()}`*"
        elif isinstance(field.default, int | float | str):
            assert about.endswith(f"; default: `{field.default}`*"), key
        assert len(entries[key].strip().splitlines()) > 2, f"{key} says nothing"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    from libmtl_recon_search.explaining import models_of

    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        for inside in models_of(field.annotation):
            if inside.__name__ != "Range":
                yield from _keys(inside, f"{prefix}{name}.")


def test_all_names_that_have_changed_are_listed() -> None:
    table = renamed()
    assert "| `Bundle` | `TaskTensor` |" in table
    assert "| `conflict.cache` | `profiles.cache` |" in table
    page = (TREE / "docs" / "migrating.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith("<!-- generated: renamed -->")
