"""The JSON Schema of a configuration: current, complete, and of the same mind as the search."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from libmtl_recon_search import load_config, shipped_configs, shipped_schema
from libmtl_recon_search.config import Config
from libmtl_recon_search.examples import EXAMPLES
from libmtl_recon_search.explaining import models_of
from libmtl_recon_search.schema import as_text, json_schema
from libmtl_recon_search.yaml12 import parse_yaml
from pydantic import BaseModel

from libmtl_recon import UsageError
from libmtl_recon.cli import main
from libmtl_recon.cli.search import _EPILOG

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def test_the_file_is_what_the_models_say() -> None:
    assert shipped_schema().read_text(encoding="utf-8") == as_text(), (
        "python -m libmtl_recon_search.schema > configs/schema.json writes it again"
    )
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_each_shipped_configuration_follows_it_and_names_it(name: str) -> None:
    file = shipped_configs()[name]
    text = file.read_text(encoding="utf-8")
    assert list(VALIDATOR.iter_errors(parse_yaml(text))) == []
    hint = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / hint).resolve() == shipped_schema().resolve()


def test_the_documented_configurations_follow_it() -> None:
    in_help = textwrap.dedent(_EPILOG.partition("a configuration:\n")[2].partition("\n\n")[0])
    for text in (DOCUMENTED.partition("```yaml\n")[2].partition("```")[0], in_help):
        assert list(VALIDATOR.iter_errors(parse_yaml(text))) == []


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", model
        for inside in models_of(field.annotation):
            yield from keys(inside, f"{prefix}{name}.")


def test_every_key_says_what_it_means() -> None:
    for key, model in keys(Config):
        part = SCHEMA if model is Config else SCHEMA["$defs"][model.__name__]
        about = part["properties"][key.rpartition(".")[2]]["description"]
        assert about.endswith("."), key
        assert "``" not in about
        assert part["additionalProperties"] is False


def test_every_key_at_the_top_has_an_example_that_is_good() -> None:
    known = {key for key, _ in keys(Config)}
    assert set(EXAMPLES) <= known
    assert set(Config.model_fields) <= set(EXAMPLES)
    least: dict[str, Any] = {"script": "main.py", "space": {"k": [0, 1]}}
    for key, line in EXAMPLES.items():
        made: Any = parse_yaml(line)
        for part in reversed(key.split(".")[:-1]):
            made = {part: made}
        top = key.split(".")[0]
        changed = {**least, **made}
        if top == "space":
            changed["space"] = {"k": [0, 1], **made["space"]}
            changed["space"].setdefault("weighting", ["EW", "RotoGrad"])
        if top == "pruner" and "name" not in made["pruner"]:
            changed["pruner"]["name"] = "MedianPruner"
        assert list(VALIDATOR.iter_errors(changed)) == [], line


GOOD = "script: multidigits\nspace: {k: {low: 0, high: 3}}\n"


@pytest.mark.parametrize(
    "more",
    [
        "trails: 3",
        "trials: 0",
        "trials: many",
        "name: ''",
        "name: a/b",
        "arguments: [--lr]",
        "arguments: ['']",
        "flags: {lr: {low: 1}}",
        "flags: {lr: {low: 0.0, high: 1.0, log: true}}",
        "flags: {lr: {low: 0.1, high: 1.0, step: 0.1, log: true}}",
        "flags: {lr: {low: 0.1, high: 1.0, step: 0}}",
        "flags: {lr: {low: 0.1, high: 1.0, stpe: 1}}",
        "flags: {lr: []}",
        "flags: {lr: [1, [2]]}",
        "flags: {lr: null}",
        "flags: {--lr: 1}",
        "flags: {recon_select: first}",
        "score: {flags: {lr: {low: 0.1, high: 1.0}}}",
        "score: {reuse: 1}",
        "objective: {on: train}",
        "objectives: []",
        "objectives: [foo]",
        "objectives: [delta_m, delta_m]",
        "metrics: {weights: {a: 0}}",
        "metrics: {undefined: go on}",
        "constraints: {parameters: {}}",
        "constraints: {each_task: {at_most: 1}}",
        "pick: {within: -1}",
        "sampler: {nam: TPESampler}",
        "pruner: {args: {}}",
        "prune: 1",
        "timeout: {study: 0}",
        "tune_baselines: yes",
        "callbacks: {wandb: {}}",
        "confirm: []",
        "launch: {nproc_per_node: 0}",
        "space: {s: [-0.1], k: [1], weighting: []}",
        "space: {k: [1, 1]}",
        "space: {k: 3}",
        "space: {k: [1], s: [0.1]}",
        "space: {k: [1], select: [frist]}",
        "space: {alpha: [a]}",
    ],
)
def test_what_it_refuses_the_search_refuses_too(more: str, tmp_path: Path) -> None:
    text = GOOD.splitlines()[0] + "\n" + more if more.startswith("space") else GOOD + more
    assert list(VALIDATOR.iter_errors(parse_yaml(text)))
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        load_config(file)
