"""Reading configurations, and what is said of bad ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import ReconError, UsageError
from search import load_config, shipped_configs
from search.config import FloatRange
from search.yaml12 import parse_yaml

GOOD = "script: multidigits\nspace: {k: {low: 0, high: 3}}\n"


def bad(where: str, value: object, *words: str) -> tuple[str, object, tuple[str, ...]]:
    return where, value, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{GOOD}trails: 3", bad("trails", "trails", "Did you mean 'trials'?")),
        (f"{GOOD}trials: 0", bad("trials", 0, "greater than or equal to 1")),
        (f"{GOOD}trials: yes", bad("trials", "yes", "a valid integer")),
        (f"{GOOD}trials: 1.5", bad("trials", 1.5, "a valid integer")),
        (f"{GOOD}trials: true", bad("trials", True, "a valid integer")),
        (f"{GOOD}workers: -2", bad("workers", -2, "greater than or equal to 1")),
        (f"{GOOD}seed: -1", bad("seed", -1, "greater than or equal to 0")),
        (f"{GOOD}prune: 1", bad("prune", 1, "a valid boolean")),
        (f"{GOOD}objective: {{on: train}}", bad("objective.on", "train", "'val' or 'test'")),
        (f"{GOOD}objective: {{in: val}}", bad("objective.in", "in", "There are on.")),
        (f"{GOOD}objective: val", bad("objective", "val", "keys with values", "{on: val}")),
        (f"{GOOD}flags: [1]", bad("flags", [1], "mapping", "{epochs: 20}")),
        (f"{GOOD}flags: {{--lr: 1}}", bad("flags", "--lr", "without the dashes")),
        (f"{GOOD}flags: {{lr: }}", bad("flags.lr", None, "a number, a text")),
        (f"{GOOD}flags: {{lr: {{a: 1}}}}", bad("flags.lr", {"a": 1}, "a number, a text")),
        (f"{GOOD}flags: {{lr: []}}", bad("flags.lr", [], "a number, a text")),
        (f"{GOOD}flags: {{arch: HPS}}", bad("flags.arch", "HPS", "must not be set here")),
        (f"{GOOD}score: {{flags: {{seed: 1}}}}", bad("score.flags.seed", 1, "must not be set")),
        (f"{GOOD}score: {{steps: 0}}", bad("score.steps", 0, "greater than or equal to 1")),
        (f"{GOOD}confirm: []", bad("confirm", [], "must not be empty", "[1, 2, 3]")),
        (f"{GOOD}confirm: [1, 0]", bad("confirm", 0, "not in seed already")),
        (f"{GOOD}confirm: [1, 1]", bad("confirm", 1, "not in confirm already")),
        (f"{GOOD}finalists: {{seeds: [2]}}", bad("confirm", 2, "not in finalists.seeds")),
        (f"{GOOD}timeout: 60", bad("timeout", 60, "keys with values", "{run: 3600}")),
        (f"{GOOD}timeout: {{run: 0}}", bad("timeout.run", 0, "greater than 0")),
        (f"{GOOD}timeout: {{run: .inf}}", bad("timeout.run", math.inf, "a finite number")),
        (f"{GOOD}timeout: {{run: true}}", bad("timeout.run", True, "a valid number")),
        (f"{GOOD}timeout: {{runs: 3}}", bad("timeout.runs", "runs", "Did you mean 'run'?")),
        ("script: multidigits", bad("space", None, "must be given")),
        ("space: {k: {low: 0, high: 3}}", bad("script", None, "must be given")),
        (f"{GOOD}1: 2", bad("[1]", 1, "one of the keys that there are")),
    ],
)
def test_bad_values_are_named(
    tmp_path: Path, text: str, expected: tuple[str, object, tuple[str, ...]]
) -> None:
    where, value, words = expected
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_config(file)
    assert caught.value.parameter == f"{file}: {where}"
    assert caught.value.value == value
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("space", "where", "word"),
    [
        ("{k: {low: 3, high: 1}}", "space.k.high", "must not be below low (3)"),
        ("{k: {low: 0, hihg: 1}}", "space.k.hihg", "Did you mean 'high'?"),
        ("{k: {low: -1, high: 1}}", "space.k.low", "greater than or equal to 0"),
        ("{k: {low: 0}}", "space.k.high", "must be given"),
        ("{weighting: [EW]}", "space.k", "must be given"),
        ("{k: {low: 0, high: 3}, s: [-0.101]}", "space.s", "multiples of 0.005"),
        ("{k: {low: 0, high: 3}, s: [-0.1, 0.1]}", "space.s[1]", "less than or equal to 0"),
        ("{k: {low: 0, high: 3}, s: [-1]}", "space.s[0]", "greater than -1"),
        ("{k: {low: 0, high: 3}, s: []}", "space.s", "must not be empty"),
        ("{k: {low: 0, high: 3}, s: 3}", "space.s", "keys with values"),
        ("{k: {low: 0, high: 3}, s: {low: -1, high: 0, step: 0.5}}", "space.s", "above -1"),
        ("{k: {low: 0, high: 3}, s: {low: -0.2, high: 0, step: 0.01, n: 1}}", "space.s.n", "step"),
        ("{k: {low: 0, high: 3}, weighting: EW}", "space.weighting", "a valid list"),
        ("{k: {low: 0, high: 3}, weighting: []}", "space.weighting", "must not be empty"),
        ("{k: {low: 0, high: 3}, weighting: [EW, EW]}", "space.weighting", "once"),
        ("{k: {low: 0, high: 3}, flags: {UW: {T: 1}}}", "space.flags", "EW, GradOPS"),
        ("{k: {low: 0, high: 3}, flags: {EW: {seed: 1}}}", "space.flags.EW.seed", "not be set"),
        ("{k: {low: 0, high: 3}, alpha: {low: 0, high: 1}}", "space.alpha.step", "be given"),
        (
            "{k: {low: 0, high: 3}, alpha: {low: 0, high: .inf, step: 1}}",
            "space.alpha.high",
            "finite",
        ),
        (
            "{k: {low: 0, high: 3}, alpha: {low: 0, high: 1, step: 0}}",
            "space.alpha.step",
            "greater than 0",
        ),
    ],
)
def test_bad_spaces_are_named(tmp_path: Path, space: str, where: str, word: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"script: multidigits\nspace: {space}\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_config(file)
    assert caught.value.parameter == f"{file}: {where}"
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 3", "just words"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="must hold keys with values"):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a: [", "line 1"),
        (b"seed: 1\ntrials: 2\nseed: 3\n", "the key 'seed' is there twice .* line 3"),
        (b"\xff\xfe\x00", "YAML"),
        (b"script: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_what_is_no_yaml_is_refused(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(ReconError, match=word) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("script", ["nothing.py", "sub/main.py", "multidigit", "."])
def test_a_script_that_does_not_exist_is_named(tmp_path: Path, script: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD.replace("multidigits", script), encoding="utf-8")
    with pytest.raises(UsageError, match="multi_fashion_mnist") as caught:
        load_config(file)
    assert caught.value.parameter == f"{file}: script"
    assert str(tmp_path / script) in str(caught.value)


def test_the_script_is_looked_for_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "main.py").write_text("pass", encoding="utf-8")
    file = tmp_path / "there" / "study.yaml"
    file.write_text(GOOD.replace("multidigits", "main.py"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert Path(load_config("there/study.yaml").script) == Path("there/main.py")


def test_an_unknown_configuration_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'multidigits'\?") as caught:
        load_config("multidigit")
    assert "multi_fashion_mnist" in str(caught.value)


def test_every_shipped_configuration_can_be_read() -> None:
    assert set(shipped_configs()) == {"multidigits", "multi_fashion_mnist"}
    for name in shipped_configs():
        assert load_config(name).script == name


def test_overrides_take_the_files_place_and_are_checked(tmp_path: Path) -> None:
    assert load_config("multidigits", {"trials": 3, "seed": 50}).trials == 3
    assert load_config("multidigits", {"seed": 50}).seed == 50
    with pytest.raises(UsageError, match="--trials must be greater than or equal to 1"):
        load_config("multidigits", {"trials": 0})
    with pytest.raises(UsageError, match="take another here or for `seed`"):
        load_config("multidigits", {"seed": 1})


def test_a_run_has_no_time_limit_unless_one_is_given(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert load_config(file).timeout.run is None
    file.write_text(f"{GOOD}timeout: {{run: 90}}\n", encoding="utf-8")
    assert load_config(file).timeout.run == 90.0


def test_flags_are_spelled_as_on_a_command_line(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    flags = "flags: {epochs: 3, lr: 1e-3, quiet: true, loud: false, sizes: [1, 2], name: a b}\n"
    file.write_text(GOOD + flags, encoding="utf-8")
    config = load_config(file)
    spelled = ["--epochs", "3", "--lr", "0.001", "--quiet", "--sizes", "1", "2", "--name"]
    assert config.arguments() == (*spelled, "a b")
    assert config.arguments({"epochs": 4}, {"loud": True})[:2] == ("--epochs", "4")
    assert config.arguments({"loud": True})[-1] == "a b"
    assert "--loud" in config.arguments({"loud": True})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{on: off, a: yes, b: true}", {"on": "off", "a": "yes", "b": True}),
        ("[1e-3, 1E3, -.5, 10, 010, +3, 1.]", [0.001, 1000.0, -0.5, 10, 10, 3, 1.0]),
        ("[1:30, 2020-01-01, 0x10, 1_000]", ["1:30", "2020-01-01", "0x10", "1_000"]),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("[~, null, '']", [None, None, ""]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert [type(v) for v in parse_yaml(text)] == [type(v) for v in value]


def test_infinities_are_read() -> None:
    found = parse_yaml("[.inf, -.inf, .nan]")
    assert found[:2] == [math.inf, -math.inf]
    assert math.isnan(found[2])


@given(
    st.dictionaries(
        st.text(min_size=1),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    )
)
def test_what_yaml_writes_is_read_back(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, default_style='"')
    plain = {key: text for key, text in value.items() if isinstance(text, str)}
    found = parse_yaml(text)
    assert {key: text for key, text in found.items() if key in plain} == plain


def test_a_range_ends_on_its_last_step() -> None:
    assert FloatRange(low=-0.3, high=0.0, step=0.1).values == [-0.3, -0.2, -0.1, 0.0]
    assert FloatRange(low=-1.0, high=0.9, step=0.5).values == [-1.0, -0.5, 0.0, 0.5]
    assert FloatRange(low=2.0, high=2.0, step=1.0).values == [2.0]
