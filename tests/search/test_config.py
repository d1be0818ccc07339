"""Reading configurations, and what is said of bad ones."""

from __future__ import annotations

import math
import pickle
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search import load_config, shipped_configs
from libmtl_recon_search.config import Config, Space
from libmtl_recon_search.faults import FaultsError
from libmtl_recon_search.yaml12 import parse_yaml

from libmtl_recon import ReconError, UsageError
from libmtl_recon.cli.search import _EPILOG

GOOD = "script: multidigits\nspace: {k: {low: 0, high: 3}}\n"


# Each line stands for nine times as much as the one before.
BOMB = "\n".join(
    f"{key}: &{key} [{', '.join([f'*{before}' if before else 'x'] * 9)}]"
    for before, key in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
).encode()


def bad(where: str, value: object, *words: str) -> tuple[str, object, tuple[str, ...]]:
    return where, value, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{GOOD}trails: 3", bad("trails", "trails", "Did you mean trials?")),
        (f"{GOOD}trials: 0", bad("trials", 0, "greater than or equal to 1")),
        (f"{GOOD}trials: yes", bad("trials", "yes", "a valid integer")),
        (f"{GOOD}trials: 1.5", bad("trials", 1.5, "a valid integer")),
        (f"{GOOD}trials: true", bad("trials", True, "a valid integer")),
        (f"{GOOD}workers: -2", bad("workers", -2, "greater than or equal to 1")),
        (f"{GOOD}seed: -1", bad("seed", -1, "greater than or equal to 0")),
        (f"{GOOD}prune: 1", bad("prune", 1, "a valid boolean")),
        (f"{GOOD}objective: {{on: train}}", bad("objective.on", "train", "'val' or 'test'")),
        (f"{GOOD}objective: {{in: val}}", bad("objective.in", "in", "The only one is on.")),
        (f"{GOOD}objective: val", bad("objective", "val", "keys with values", "{on: val}")),
        (f"{GOOD}flags: [1]", bad("flags", [1], "mapping", "{epochs: 20}")),
        (f"{GOOD}flags: {{--lr: 1}}", bad("flags", "--lr", "without the leading dashes")),
        (f"{GOOD}flags: {{lr: }}", bad("flags.lr", None, "a number, a string")),
        (f"{GOOD}flags: {{lr: {{a: 1}}}}", bad("flags.lr.a", "a", "low, high, step, log")),
        (f"{GOOD}flags: {{lr: []}}", bad("flags.lr", [], "a number, a string")),
        (f"{GOOD}flags: {{arch: HPS}}", bad("flags.arch", "HPS", "must not be set here")),
        (f"{GOOD}score: {{flags: {{seed: 1}}}}", bad("score.flags.seed", 1, "must not be set")),
        (f"{GOOD}score: {{steps: 0}}", bad("score.steps", 0, "greater than or equal to 1")),
        (f"{GOOD}confirm: []", bad("confirm", [], "must not be empty", "[1, 2, 3]")),
        (f"{GOOD}confirm: [1, 0]", bad("confirm", 0, "already in seed")),
        (f"{GOOD}confirm: [1, 1]", bad("confirm", 1, "already in confirm")),
        (f"{GOOD}finalists: {{seeds: [2]}}", bad("confirm", 2, "already in finalists.seeds")),
        (f"{GOOD}arguments: train", bad("arguments", "train", "a valid list", "[train, fast]")),
        (f"{GOOD}arguments: [a, 3]", bad("arguments[1]", 3, "must be a string", "in quotes: '3'")),
        (f"{GOOD}arguments: ['']", bad("arguments[0]", "", "non-empty")),
        (f"{GOOD}arguments: [--lr]", bad("arguments[0]", "--lr", "{epochs: 20}")),
        (f"{GOOD}timeout: 60", bad("timeout", 60, "keys with values", "{run: 3600")),
        (f"{GOOD}timeout: {{run: 0}}", bad("timeout.run", 0, "greater than 0")),
        (f"{GOOD}timeout: {{run: .inf}}", bad("timeout.run", math.inf, "a finite number")),
        (f"{GOOD}timeout: {{run: true}}", bad("timeout.run", True, "a valid number")),
        (f"{GOOD}timeout: {{runs: 3}}", bad("timeout.runs", "runs", "Did you mean run?")),
        (f"{GOOD}launch: 2", bad("launch", 2, "keys with values", "{nproc_per_node: 2}")),
        (f"{GOOD}lanch: {{}}", bad("lanch", "lanch", "Did you mean launch?")),
        (f"{GOOD}launch: {{nproc_per_node: 0}}", bad("launch.nproc_per_node", 0, "equal to 1")),
        (f"{GOOD}launch: {{nproc_per_node: 2.0}}", bad("launch.nproc_per_node", 2.0, "integer")),
        (f"{GOOD}launch: {{nproc_per_node: true}}", bad("launch.nproc_per_node", True, "integer")),
        (f"{GOOD}launch: {{nproc_per_node: gpu}}", bad("launch.nproc_per_node", "gpu", "integer")),
        (f"{GOOD}launch: {{nproc_per_node: }}", bad("launch.nproc_per_node", None, "integer")),
        (
            f"{GOOD}launch: {{nproc_per_nod: 2}}",
            bad("launch.nproc_per_nod", "nproc_per_nod", "mean nproc_per_node?"),
        ),
        (
            f"{GOOD}launch: {{nnodes: 2}}",
            bad("launch.nnodes", "nnodes", "The only one is nproc_per_node."),
        ),
        ("script: multidigits", bad("space", None, "must be given")),
        ("space: {k: {low: 0, high: 3}}", bad("script", None, "must be given")),
        (f"{GOOD}1: 2", bad("[1]", 1, "a known key")),
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
        ("{k: {low: 0, hihg: 1}}", "space.k.hihg", "Did you mean high?"),
        ("{k: {low: -1, high: 1}}", "space.k.low", "greater than or equal to 0"),
        ("{k: {low: 0}}", "space.k.high", "must be given"),
        ("{k: {low: 0, high: 3}, s: [-0.101]}", "space.s", "multiples of 0.005"),
        ("{k: {low: 0, high: 3}, s: [-0.1, 0.1]}", "space.s[1]", "less than or equal to 0"),
        ("{k: {low: 0, high: 3}, s: [-1]}", "space.s[0]", "greater than -1"),
        ("{k: {low: 0, high: 3}, s: []}", "space.s", "must not be empty"),
        ("{k: {low: 0, high: 3}, s: 3}", "space.s", "a list of values, or a range"),
        ("{k: {low: 0, high: 3}, s: {low: -1, high: 0, step: 0.5}}", "space.s", "above -1"),
        ("{k: {low: 0, high: 3}, s: {low: -0.2, high: 0, step: 0.01, n: 1}}", "space.s.n", "step"),
        ("{k: {low: 0, high: 3}, weighting: EW}", "space.weighting", "a valid list"),
        ("{k: {low: 0, high: 3}, weighting: []}", "space.weighting", "must not be empty"),
        ("{k: {low: 0, high: 3}, weighting: [EW, EW]}", "space.weighting", "once"),
        ("{k: {low: 0, high: 3}, flags: {UW: {T: 1}}}", "space.flags", "EW, GradOPS"),
        ("{k: {low: 0, high: 3}, flags: {EW: {seed: 1}}}", "space.flags.EW.seed", "not be set"),
        (
            "{k: {low: 0, high: 3}, alpha: {low: 0, high: .inf, step: 1}}",
            "space.alpha.high",
            "finite",
        ),
        (
            "{k: {low: 0, high: 3}, alpha: {low: 0, high: 1, step: 0}}",
            "space.alpha.step",
            "must be greater than 0",
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


def test_all_faults_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "script: nothing.py\nseed: 3\nconfirm: [1, 3]\nworkrs: 2\ntrials: 0\n"
        "finalists: {count: 1.5, seeds: [7]}\nflags: {--lr: 1, seed: 2, bs: []}\n"
        "score: {steps: many}\ntimeout: {run: -1}\n"
        "space: {weighting: [EW, EW], s: [-0.101], k: {low: 3, high: 1},\n"
        "        alpha: {low: 0, high: 1, step: 1e-9}, flags: {UW: {}, EW: {arch: HPS}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(FaultsError) as caught:
        load_config(file)
    named = {fault.parameter.removeprefix(f"{file}: ") for fault in caught.value.faults}
    assert named == {
        *("script", "confirm", "workrs", "trials", "finalists.count", "flags", "flags.seed"),
        *("flags.bs", "score.steps", "timeout.run", "space.weighting", "space.s"),
        *("space.k.high", "space.alpha.step", "space.flags.EW.arch"),
    }
    said = str(caught.value)
    assert caught.value.exit_status == 2
    assert said.splitlines()[0] == f"{file} has 15 faults."
    assert len(said) <= 1500
    shown = len(said.splitlines()) - 2
    assert said.splitlines()[-1] == f"  … and {15 - shown} more."
    assert pickle.loads(pickle.dumps(caught.value)).faults[0].rule == caught.value.faults[0].rule


def test_faults_that_lie_between_keys_join_those_within(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "script: multidigits\ntrials: 0\nfinalists: {seeds: [5]}\nconfirm: [5]\n"
        "space: {weighting: [EW], k: {low: 3, high: 1}, s: {low: 0, high: -1, step: .1},\n"
        "        flags: {UW: {}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(FaultsError) as caught:
        load_config(file)
    said = str(caught.value).splitlines()
    found = {line.split()[1] for line in said[1:]}
    assert found == {"trials", "confirm", "space.flags", "space.k.high", "space.s.high"}


@pytest.mark.parametrize(
    ("space", "where", "word"),
    [
        ("alpha: {low: 0, high: 1, step: 1e-5}", "space.alpha.step", "at most 10000 steps"),
        ("alpha: {low: -1e308, high: 1e308, step: 1}", "space.alpha.high", "finite distance"),
        ("s: {low: -0.9, high: 0, step: 5e-5}", "space.s.step", "at most 10000 steps"),
        ("s: [-0.1, -0.1]", "space.s", "each value once"),
        ("k: {low: 0, high: 1000001}", "space.k.high", "less than or equal to 1000000"),
    ],
)
def test_ranges_are_bounded(tmp_path: Path, space: str, where: str, word: str) -> None:
    file = tmp_path / "study.yaml"
    rest = "" if space.startswith("k:") else ", k: {low: 0, high: 3}"
    file.write_text(f"script: multidigits\nspace: {{{space}{rest}}}\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_config(file)
    assert caught.value.parameter == f"{file}: {where}"
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 3", "just words"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="must contain keys with values"):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a: [", "line 1"),
        (b"seed: 1\ntrials: 2\nseed: 3\n", "the key 'seed' occurs twice, line 3"),
        (b"\xff\xfe\x00", "not text in UTF-8 .byte 1"),
        (b"a: \x00", "U.0000, which YAML does not allow"),
        (b'a: "\\0"', "a string contains the character U.0000, line 1, column 4"),
        (b'a: "\\e[31m"', "a string contains the character U.001B"),
        (b'a: "\\uD800"', "a string contains the character U.D800"),
        (b"seed: !!int abc", "'abc' is not a valid int, line 1, column 7"),
        (b"seed: !!float 1_0", "'1_0' is not a valid float"),
        (b"prune: !!bool yes", "'yes' is not a valid bool"),
        (b"seed: !!timestamp 2020-01-01", "could not determine a constructor"),
        (b"seed: " + b"9" * 5000, "a number has 5000 digits"),
        (b"flags: {lr: 0." + b"1" * 300 + b"}", "a number has 302 digits"),
        (b"[" * 3000, "more than 30 levels deep"),
        (b"{a: " * 3000, "more than 30 levels deep"),
        (b"&a [*a]", "a value contains itself"),
        (b"a: &a {b: {c: *a}}", "a value contains itself"),
        (BOMB, "expands to more than 20000 values, line 5"),
        (b"? [a]\n: 1", "unhashable key"),
        (b"a: 1\n\tb: 2", "line 2, column 1"),
        (b"# " + b"x" * 100_000, "more than 100000 characters"),
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
    with pytest.raises(UsageError, match=r"Did you mean multidigits\?") as caught:
        load_config("multidigit")
    assert "multi_fashion_mnist" in str(caught.value)


def test_every_shipped_configuration_can_be_read() -> None:
    assert set(shipped_configs()) == {
        *("multidigits", "multi_fashion_mnist", "multi_fashion_mnist-small"),
        *("census_income", "census_income-small"),
        *("celeba", "celeba-small", "pascal_context", "pascal_context-small"),
        *("cityscapes", "cityscapes-small", "nyuv2", "nyuv2-small"),
    }
    for name in shipped_configs():
        assert load_config(name).script == name.removesuffix("-small")


def test_the_configurations_in_the_documentation_can_be_read(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    in_help = _EPILOG.partition("a configuration:\n")[2].partition("\n\n")[0]
    (tmp_path / "main.py").write_text("pass", encoding="utf-8")
    file = tmp_path / "study.yaml"
    file.write_text(documented.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    config = load_config(file)
    # Every key that there is.
    assert config.model_fields_set == set(Config.model_fields)
    assert config.space.model_fields_set == set(Space.model_fields)
    assert config.arguments == ["train", "fast"]
    file.write_text(textwrap.dedent(in_help), encoding="utf-8")
    assert load_config(file).timeout.run == 3600.0
    assert load_config(file).name == "study"


def test_overrides_take_the_files_place_and_are_checked(tmp_path: Path) -> None:
    assert load_config("multidigits", {"trials": 3, "seed": 50}).trials == 3
    assert load_config("multidigits", {"seed": 50}).seed == 50
    with pytest.raises(UsageError, match="--trials must be greater than or equal to 1"):
        load_config("multidigits", {"trials": 0})
    with pytest.raises(UsageError, match="use another one here or for `seed`"):
        load_config("multidigits", {"seed": 1})


def test_a_run_has_no_time_limit_unless_one_is_given(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert load_config(file).timeout.run is None
    file.write_text(f"{GOOD}timeout: {{run: 90}}\n", encoding="utf-8")
    assert load_config(file).timeout.run == 90.0


def test_a_run_is_one_process_unless_a_launch_is_given(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert load_config(file).launch.nproc_per_node == 1
    file.write_text(f"{GOOD}launch: {{}}\n", encoding="utf-8")
    assert load_config(file).launch.nproc_per_node == 1
    file.write_text(f"{GOOD}launch: {{nproc_per_node: 4}}\n", encoding="utf-8")
    assert load_config(file).launch.nproc_per_node == 4


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


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")))


@given(
    st.dictionaries(
        TEXTS.filter(bool),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    )
)
def test_what_yaml_writes_is_read_back(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, default_style='"')
    plain = {key: text for key, text in value.items() if isinstance(text, str)}
    found = parse_yaml(text)
    assert {key: text for key, text in found.items() if key in plain} == plain
