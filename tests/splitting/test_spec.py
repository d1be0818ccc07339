"""What a checkpoint says of its split: written, read again, and refused where it is damaged."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import ReconError, SplitSpec, UsageError
from libmtl_recon.splitting.spec import FORMAT

SPEC = SplitSpec(
    ("layer1.0.bn1", "(root)"),
    ("digit", "article"),
    bn="mixed",
    init="fresh",
    per_task_output=None,
    root="encoder",
    origin={"base": "HPS", "K": 2, "S": -0.1, "profile": "3f2a"},
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=8)


@given(
    layers=st.lists(NAMES, unique=True, max_size=4),
    tasks=st.lists(NAMES.map(lambda name: f"t-{name}"), unique=True, min_size=1, max_size=4),
    bn=st.sampled_from(["per_task", "mixed"]),
    init=st.sampled_from(["copy", "fresh"]),
    per_task_output=st.sampled_from([True, False, None]),
    root=st.text(max_size=5),
    origin=st.dictionaries(NAMES, st.none() | st.integers() | st.booleans() | NAMES, max_size=3),
)
def test_what_is_written_is_read(layers: Any, tasks: Any, **more: Any) -> None:
    spec = SplitSpec(tuple(layers), tuple(tasks), **more)
    assert SplitSpec.from_json(spec.to_json()) == spec
    assert SplitSpec.from_dict(copy.deepcopy(spec.to_dict())) == spec


def test_the_text_is_for_people_to_read() -> None:
    data = json.loads(SPEC.to_json())
    assert data["format"] == FORMAT == "libmtl-recon split"
    assert data["version"] == 1
    assert data["layers"] == ["layer1.0.bn1", "(root)"]
    assert data["tasks"] == ["digit", "article"]
    assert data["origin"] == {"base": "HPS", "K": 2, "S": -0.1, "profile": "3f2a"}
    assert set(data["versions"]) == {"libmtl-recon", "torch"}
    assert {key: data[key] for key in ("bn", "init", "per_task_output", "root")} == {
        "bn": "mixed",
        "init": "fresh",
        "per_task_output": None,
        "root": "encoder",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "libmtl-recon conflict profile"}, 'it has no "format"'),
        ({"version": 2}, "it is of version 2, and this libmtl-recon"),
        (
            {"version": 3, "heads": [1]},
            "of version 3, with 'heads', and this .*install a newer one",
        ),
        ({"version": "1"}, "version must be a whole number, but is '1'"),
        ({"version": True}, "version must be a whole number, but is True"),
        ({"version": 0}, "version must be a whole number, but is 0"),
        ({"heads": 1}, "it has the unknown key 'heads'"),
        ({"layers": "conv1"}, "its 'layers' is 'conv1'"),
        ({"layers": [1]}, "layers must be a sequence of names"),
        ({"layers": ["a", "a"]}, "layers must be different names"),
        ({"tasks": []}, "tasks must contain at least one task"),
        ({"tasks": ["a", "a"]}, "tasks must be different names"),
        ({"tasks": ["a.b"]}, "tasks must be names fit for modules"),
        ({"bn": "both"}, "bn must be per_task or mixed"),
        ({"init": "zero"}, "init must be copy or fresh"),
        ({"per_task_output": 1}, "its 'per_task_output' is 1"),
        ({"root": None}, "its 'root' is None"),
        ({"origin": []}, r"its 'origin' is \[\]"),
        ({"versions": "0.1"}, "its 'versions' is '0.1'"),
    ],
)
def test_what_is_damaged_or_newer_is_a_sentence(change: dict[str, Any], said: str) -> None:
    data = {**SPEC.to_dict(), **change}
    with pytest.raises(
        ReconError, match=f"x.json does not record how a network was split: .*{said}"
    ):
        SplitSpec.from_json(json.dumps(data), "x.json")


@pytest.mark.parametrize("key", [key for key in SPEC.to_dict() if key != "format"])
def test_what_is_missing_is_named(key: str) -> None:
    data = SPEC.to_dict()
    del data[key]
    with pytest.raises(ReconError, match=key):
        SplitSpec.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"format": 1, "format": 2}', "NaN"])
def test_what_is_something_else_is_a_sentence(text: str) -> None:
    with pytest.raises(ReconError, match=r"x.json does not record how a network was split: .*\.$"):
        SplitSpec.from_json(text, "x.json")


def test_a_caller_s_values_are_checked() -> None:
    with pytest.raises(UsageError, match="layers must be a sequence of names"):
        SplitSpec("conv1", ("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tasks must be a sequence of names"):
        SplitSpec(("conv1",), "ab")  # type: ignore[arg-type]
