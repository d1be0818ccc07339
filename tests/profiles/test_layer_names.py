"""Names of layers without wrappers, and layers matched by position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import UsageError
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.layer_names import (
    Matching,
    check_match,
    match_names,
    match_order,
    without_wrappers,
)

LAYERS = tuple(
    Layer(name, type, shape)
    for name, type, shape in (
        ("conv1", "Conv2d", ((4, 1, 3, 3),)),
        ("layer1.0.bn1", "BatchNorm2d", ((4,), (4,))),
        ("layer1.0.module.fc", "Linear", ((2, 4), (2,))),
        ("(root)", "Net", ((4,),)),
    )
)
NAMES = [layer.name for layer in LAYERS]


@pytest.mark.parametrize(
    ("wrapped", "plain"),
    [
        ("module.conv1", "conv1"),
        ("_orig_mod.module.encoder.conv1", "conv1"),
        ("encoder._orig_mod.layer1.0.bn1.m_list.0", "layer1.0.bn1"),
        ("_fsdp_wrapped_module.layer1._checkpoint_wrapped_module.bn1", "layer1.bn1"),
        ("encoder.module", "(root)"),
        ("(root)", "(root)"),
        ("layer1.encoder.0", "layer1.encoder.0"),
        ("layer1.m_list.1", "layer1.m_list.1"),
        ("layer1.m_list.0.weight", "layer1.m_list.0.weight"),
        ("modules.conv1", "modules.conv1"),
    ],
)
def test_wrappers_are_taken_off_and_nothing_else(wrapped: str, plain: str) -> None:
    assert without_wrappers(wrapped) == plain


@given(st.data())
def test_wrapped_names_find_their_layers(data: st.DataObject) -> None:
    """Any wrappers, on each name others, in any order of the names."""
    before = st.lists(st.sampled_from(["module", "_orig_mod", "encoder"]), max_size=3)
    wrapped = {}
    for name in data.draw(st.permutations(NAMES[:3])):
        parts = [*data.draw(before), *name.split(".")]
        parts += ["m_list", "0"] if data.draw(st.booleans()) else []
        wrapped[".".join(parts)] = name
    found = match_names(list(wrapped), LAYERS, "x")
    assert found == Matching(wrapped)
    assert list(found.pairs) == list(wrapped)


def test_a_name_of_the_networks_own_is_that_layer() -> None:
    own = [Layer(name, "Linear", ()) for name in ("encoder.fc", "fc")]
    assert match_names(["fc", "encoder.fc"], own, "x").renamed == ()
    with pytest.raises(UsageError, match=r"'module\.fc'.*could be encoder\.fc or fc"):
        match_names(["module.fc"], own, "x")


def test_two_names_of_one_layer_are_refused() -> None:
    said = r"each layer once \(got 'module\.conv1'\).*encoder\.conv1 and module\.conv1 are one"
    with pytest.raises(UsageError, match=said):
        match_names(["encoder.conv1", "module.conv1"], LAYERS, "x")


def test_places_pair_whatever_the_names_are() -> None:
    order = ["a", "b", "c", "d"]
    found = match_order(["c", "a"], order, LAYERS, "x")
    assert dict(found.pairs) == {"c": NAMES[2], "a": NAMES[0]}
    assert found.by_order
    assert match_order(["c", "z"], order, LAYERS, "x").missing == ("z",)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["a", "b", "c"], "has 3 where this network has 4"),
        (["a", "b", "a", "d"], "each layer once"),
        (
            ["layer1.0.bn1", "module.conv1", *NAMES[2:]],
            r"same names in another order: at position 1 is layer1\.0\.bn1 there and conv1 here",
        ),
    ],
)
def test_orders_that_cannot_be_the_networks_are_refused(order: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match_order(order[:1], order, LAYERS, "x")


@pytest.mark.parametrize(
    ("place", "type", "shapes", "said"),
    [
        (1, "GroupNorm", ((4,), (4,)), r"position 2 is b there \(GroupNorm 4 \+ 4\) and layer1"),
        (2, "Linear", ((4, 2), (2,)), r"position 3 is c there \(Linear 4x2 \+ 2\)"),
    ],
)
def test_layers_at_a_place_must_be_alike(
    place: int, type: str, shapes: tuple[tuple[int, ...], ...], said: str
) -> None:
    theirs = [Layer(n, one.type, one.shapes) for n, one in zip("abcd", LAYERS, strict=True)]
    assert match_order("abcd", "abcd", LAYERS, "x", theirs).missing == ()
    theirs[place] = Layer("abcd"[place], type, shapes)
    with pytest.raises(UsageError, match=said):
        match_order("abcd", "abcd", LAYERS, "x", theirs)


@pytest.mark.parametrize("match", ["name", "orders", "", None, 3, ["names"]])
def test_other_ways_are_refused(match: object) -> None:
    with pytest.raises(UsageError, match="--recon_match must be names, order or order:FILE"):
        check_match("--recon_match", match)


@pytest.mark.parametrize(
    ("names", "order", "parameter"),
    [(["a"], ["a", "b", "a", "d"], "match"), (["a", "a"], ["a", "b", "c", "d"], "source")],
)
def test_a_name_that_is_given_twice_is_refused_where_it_is(
    names: list[str], order: list[str], parameter: str
) -> None:
    with pytest.raises(UsageError, match=rf"^{parameter} must name each layer once \(got 'a'\)"):
        match_order(names, order, LAYERS, "x")


def test_a_way_that_is_order_and_no_file_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^match must be names, order or order:FILE \(got 'order:"
    ):
        check_match("match", "order:")
    check_match("match", "order:names.json")
