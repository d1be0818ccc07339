"""Configurations that nobody means: each is read, or refused in a bounded message, in no time."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.in_time import time_limit
from libmtl_recon_search import load_config
from libmtl_recon_search.config import Config
from libmtl_recon_search.ranges import Range
from libmtl_recon_search.space import SearchSpace

from libmtl_recon import ReconError

SECONDS = 10  # for a file; it is thousandths, but machines are busy
LONGEST = 1500  # characters of a message

# Scalars as they are written: each stands where another is meant.
SCALARS = (
    *("0", "1", "-1", "3", "1.5", "-0.1", "0.0", "1e-9", "1e-300", "1e308", "-1e308", "1e999"),
    *(".nan", ".inf", "-.inf", "true", "false", "yes", "off", "null", "~", "''", '""', "a b"),
    *("9" * 5000, "-" + "9" * 90, "0." + "3" * 4000, "0x10", "0o17", "1_000", "1:30", "1e", "+"),
    *("2020-01-01", "2020-01-01T00:00:00Z", "2020-13-45", "=", "<<", "!", "!!int abc", "*a", "&a"),
    *("!!float x", "!!bool 3", "!!timestamp x", "!!binary aGk=", "!!binary é", "!!set {a, b}"),
    *("!!omap [a: 1]", "!!pairs [a: 1]", "!!str 3", "!!null x", "!!map []", "!!seq {}", "!x y"),
    *("!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!<tag:x> 1", "!!int ''"),
    *('"\\0"', '"\\e[31m"', '"\\uD800"', '"\\uDBFF\\uDFFF"', '"\\x85"', '"\\u2028"', '"a\\nb"'),
    *(
        "'[/x]'",
        "'mnist[v2]'",
        "'[red]a[/]'",
        "é",
        "日本",
        "\U0001f600",
        "\u202e",
        "\ufeff",
        "\ufffe",
    ),
    *("a" * 300, "a" * 5000, "'" + "[" * 400 + "'", "a/" * 200, "..", ".", "/", "/dev/null", "-"),
    *("multidigits", "multidigit", "main.py", "EW", "GradOPS", "UW", "[EW]", "val", "test"),
    *("[]", "{}", "[[]]", "[1, 2]", "{a: 1}", "[{}]", "{[a]: 1}", "{{a: 1}: 2}", "? a", "|", ">"),
    *("[" * 50, "[" * 4000, "{a: " * 4000, "[" * 29 + "]" * 29, "- " * 3000, "@", "`", "%", "#"),
)
KEYS = (
    *("script", "flags", "objective", "space", "score", "trials", "seed", "finalists", "confirm"),
    *("workers", "threads", "prune", "timeout", "arguments", "on", "weighting", "alpha", "s", "k"),
    *("low", "high", "step", "log", "count", "seeds", "run", "EW", "GradOPS", "lr", "epochs"),
    *("name", "objectives", "metrics", "constraints", "pick", "sampler", "pruner", "callbacks"),
    *("tune_baselines", "select", "args", "best", "within", "weights", "leave_out", "at_most"),
    *("trails", "1", "true", "null", "''", "'[/x]'", '"\\e[0m"', "<<", "k" * 3000, "? [a]", "é"),
)
TEXTS = (
    *("\t", "\0", "\x1b[31m", "\ud800", "\r", "\x85", "\u2028", "\ufeff", ": ", "- ", "#", "&a "),
    *("*a ", "<<: *a\n", "---\n", "...\n", "%YAML 9.9\n---\n", "%TAG ! x\n---\n", "{", "}", "["),
    *("]", ",", "!!", "!!int ", "|\n", ">-\n", "? ", "'", '"', "\\", "\n", "\n\n  ", "@", "`", "~"),
)


def good(chance: random.Random) -> dict[str, Any]:
    """A configuration that is right, as text by text."""
    low = chance.randint(0, 3)
    space: dict[str, Any] = {"k": {"low": str(low), "high": str(low + chance.randint(0, 9))}}
    more: dict[str, Callable[[], Any]] = {
        "weighting": lambda: ["EW", "GradOPS"],
        "alpha": lambda: chance.choice(
            [
                {"low": "-2.0", "high": "1", "step": chance.choice(["0.5", "1", "1e-2"])},
                {"low": "-2", "high": "1"},
                ["0", "0.5"],
            ]
        ),
        "select": lambda: ["conflict", "first"],
        "s": lambda: chance.choice([["-0.1", "0"], {"low": "-0.2", "high": "0", "step": "0.05"}]),
        "flags": lambda: {chance.choice(["EW", "GradOPS"]): {"lr": "1e-3"}},
    }
    space |= {key: make() for key, make in more.items() if chance.random() < 0.4}
    if "flags" in space:
        space["weighting"] = ["EW", "GradOPS"]
    whole: dict[str, Any] = {"script": "multidigits", "space": space}
    rest: dict[str, Callable[[], Any]] = {
        "flags": lambda: {
            "epochs": "3",
            "quiet": "true",
            "sizes": ["1", "2"],
            "lr": {"low": "1e-4", "high": "0.1", "log": "true"},
            "width": {"low": "1", "high": "9", "step": "2"},
            "pairs": [["1", "2"], ["3"]],
        },
        "name": lambda: chance.choice(["digits", "two digits"]),
        "objectives": lambda: ["delta_m", chance.choice(["parameters", "seg.mIoU"])],
        "metrics": lambda: {
            "weights": {"seg": "2"},
            "leave_out": ["seg.acc"],
            "undefined": "leave_out",
        },
        "constraints": lambda: {
            "parameters": {"at_most": "1.5"},
            "each_task": {"not_below": "-1"},
        },
        "pick": lambda: {"within": chance.choice(["0", "0.5"])},
        "sampler": lambda: {"name": "RandomSampler", "args": {"seed": "3"}},
        "callbacks": lambda: {"tensorboard": "null"},
        "objective": lambda: {"on": chance.choice(["val", "test"])},
        "score": lambda: {"weighting": "EW", "steps": "20"},
        "trials": lambda: "5",
        "seed": lambda: chance.choice(["0", "50"]),
        "finalists": lambda: {"count": "2", "seeds": ["101"]},
        "confirm": lambda: ["11", "12"],
        "workers": lambda: "2",
        "threads": lambda: "1",
        "prune": lambda: chance.choice(["true", "false"]),
        "timeout": lambda: {"run": chance.choice(["60", "0.5"]), "study": "900"},
        "arguments": lambda: ["train", "fast"],
    }
    return whole | {key: make() for key, make in rest.items() if chance.random() < 0.4}


def by_grammar(chance: random.Random) -> str:
    """A right configuration, some of whose parts are put in the place of others."""
    whole = good(chance)
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3, 6])):
        holders = list(_holders(whole))
        holder = chance.choice(holders)
        value: Any = chance.choice(SCALARS)
        if chance.random() < 0.2:
            value = chance.choice([{chance.choice(KEYS): value}, [value] * chance.choice([1, 900])])
        if isinstance(holder, list):
            holder[chance.randrange(len(holder))] = value
        elif chance.random() < 0.25:
            holder[chance.choice(KEYS)] = value
        elif chance.random() < 0.15 and len(holder) > 1:
            del holder[chance.choice(list(holder))]
        else:
            holder[chance.choice(list(holder))] = value
    return _block(whole) if chance.random() < 0.6 else _flow(whole)


def by_mutation(chance: random.Random) -> str:
    """A configuration in whose text something was cut, doubled, put elsewhere or in."""
    text = by_grammar(chance) if chance.random() < 0.3 else _block(good(chance))
    for _ in range(chance.choice([1, 1, 2, 4, 12])):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 3, 20]))
        part = text[start:end]
        put = chance.choice(["", part * 2, part * 40, chance.choice(TEXTS), chance.choice(SCALARS)])
        text = text[:start] + put + text[end:]
    if chance.random() < 0.1:
        lines = text.splitlines(keepends=True)
        chance.shuffle(lines)
        text = "".join(lines)
    return text


def as_bytes(text: str, chance: random.Random) -> bytes:
    """The text in some encoding, seldom with a byte that is wrong."""
    encoding = chance.choice(["utf-8"] * 20 + ["utf-16", "utf-32", "latin-1", "utf-8-sig"])
    wrong = "surrogatepass" if encoding.startswith("utf") else "replace"
    content = bytearray(text.encode(encoding, wrong))
    if content and chance.random() < 0.05:
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value)


def _block(value: dict[str, Any], indent: str = "") -> str:
    text = ""
    for key, part in value.items():
        if isinstance(part, dict) and part:
            text += f"{indent}{key}:\n{_block(part, indent + '  ')}"
        else:
            text += f"{indent}{key}: {_flow(part)}\n"
    return text


def check(source: str | Path) -> str:
    """Read it; how that ended: "read", or the message without the file's name and what is quoted.

    Raises:
        AssertionError: It took too long, raised something of another library, or said it badly.
    """
    with time_limit(SECONDS, str(source)):
        try:
            config = load_config(source)
        except ReconError as error:
            said = str(error)
        else:
            use(config)
            return "read"
    assert len(said) <= LONGEST, said
    said.encode("utf-8")
    assert [c for c in said if not c.isprintable() and c != "\n"] == [], repr(said)
    return said


def use(config: Config) -> None:
    """Use a configuration as a search does before the first run."""
    json.dumps(config.model_dump(mode="json"))
    space = SearchSpace(config, None)
    assert len(space.line(space.untuned("EW"), seed=0)) < 100_000
    assert 1 <= len(space.anchors()) <= 4000
    assert len(config.space.severities) <= 201
    ranges = [one for one in config.flags.values() if isinstance(one, Range)]
    for one in [*ranges, *(a for a in [config.space.alpha] if isinstance(a, Range))]:
        assert one.low <= one.middle <= one.high
        assert one.values is None or len(one.values) >= 1


def run(first: int, count: int, folder: Path) -> Counter[str]:
    """Read this number of files, each from its own seed, and return how each ended."""
    ends: Counter[str] = Counter()
    file = folder / "study.yaml"
    for seed in range(first, first + count):
        chance = random.Random(seed)
        text = chance.choice([by_grammar, by_mutation])(chance)
        file.write_bytes(as_bytes(text, chance))
        try:
            said = check(file)
        except BaseException as error:
            error.add_note(f"seed {seed}:\n{text[:2000]!r}")
            raise
        many = " faults." in said.partition("\n")[0]
        kinds = ("read as YAML", "one of the keys", "must be given", "must contain keys", "(got ")
        kind = "several" if many else next((one for one in kinds if one in said), said)
        ends[kind] += 1
    return ends


needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the system has no alarm")


@needs_alarm
def test_a_sample_is_read_or_refused(tmp_path: Path) -> None:
    ends = run(0, 200, tmp_path)
    assert set(ends) <= {
        *("read", "several", "read as YAML", "one of the keys", "must be given"),
        *("must contain keys", "(got "),
    }
    # Neither all nor none.
    assert 20 <= ends["read"] <= 120
    assert ends["several"] >= 5
    assert ends["read as YAML"] >= 20


@needs_alarm
@pytest.mark.slow
def test_thousands_are_read_or_refused(tmp_path: Path) -> None:
    ends = run(1000, 4000, tmp_path)
    print(dict(ends))
    assert ends.total() == 4000
    assert 400 <= ends["read"] <= 2400
    assert ends["several"] >= 200


@needs_alarm
@pytest.mark.parametrize(
    "name",
    ["a" * 300, "a/" * 3000, "a\0b", "\ud800", "", ".", "/", "[/x].yaml", "\x1b[31m", "a\nb.yaml"],
    ids=range(10),
)
def test_a_name_that_no_file_has_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(name).startswith("CONFIG must be a YAML file, or a configuration that comes with")


@needs_alarm
@pytest.mark.parametrize("script", [f'"{"a" * 300}"', '"a\\nb"', "'a/\u202eb'", "''", "'..'"])
def test_a_script_that_no_file_is_is_refused(script: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"script: {script}\nspace: {{k: {{low: 0, high: 3}}}}\n", encoding="utf-8")
    assert "script must be the path of a LibMTL script" in check(file)
