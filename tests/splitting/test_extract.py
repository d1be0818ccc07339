"""A task's plain network equals its branch to the last bit, and knows nothing of the split."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import pickle
from pathlib import Path
from typing import Any

import LibMTL
import LibMTL.weighting as weightings
import pytest
import torch
from plain import Twins
from sample_networks import NETWORKS, normed, resnet, rows, seeded
from test_bases import BASES, images, make_model, part_ways
from test_bases import TASKS as BASE_TASKS
from test_libmtl import ARGS, TASKS, Encoder, ListEncoder, batches, make
from torch import Tensor, nn
from turning import turned

from libmtl_recon import ReconError, UsageError, extract_task, only_task, split_layers
from libmtl_recon.integrations.libmtl.features import detect


def assert_no_trace(network: nn.Module) -> None:
    for name, module in network.named_modules():
        assert not type(module).__module__.startswith("libmtl_recon"), name
        for key, value in vars(module).items():
            held = list(value.values()) if isinstance(value, dict) else [value]
            for one in held:
                one = getattr(one, "hook", one)
                where = getattr(getattr(one, "func", one), "__module__", None) or ""
                where += type(one).__module__
                assert "libmtl_recon" not in where, (name, key)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_branch_in_class_keys_and_outputs(name: str) -> None:
    make_network, layers, data = NETWORKS[name]
    twins = Twins(seeded(make_network).train(), layers)
    x = data().double()
    twins.train_step(x, torch.optim.SGD(twins.split.parameters(), lr=1e-3))
    twins.split.eval()
    for task in twins.tasks:
        found, plain = extract_task(twins.split, task), twins.plain[task].eval()
        assert_no_trace(found)
        assert [type(m) for m in found.modules()] == [type(m) for m in plain.modules()]
        assert list(found.state_dict()) == list(plain.state_dict())
        with only_task(twins.split, task):
            assert torch.equal(found(x), twins.split(x))
        fresh = seeded(make_network).double().eval()
        fresh.load_state_dict(found.state_dict())
        assert torch.equal(fresh(x), found(x))


def test_shares_no_memory_and_trains_and_pickles() -> None:
    split = split_layers(normed(0.1), ["1"], ["a", "b"])
    split(rows())
    before = copy.deepcopy(split.state_dict())
    found = extract_task(split, "b").train()
    optimizer = torch.optim.SGD(found.parameters(), lr=1.0)
    found(rows()).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in split.state_dict().items())
    assert torch.equal(pickle.loads(pickle.dumps(found.eval()))(rows()), found(rows()))
    assert isinstance(extract_task(split, "a"), nn.Sequential)


def test_is_taken_out_of_what_was_compiled(tmp_path: Path) -> None:
    split = split_layers(normed(0.1), ["0"], ["a", "b"]).eval()
    model, x = make(tmp_path).model.eval(), batches()[0][0]
    model(x)  # which shows that its encoder returns no list
    found = [
        extract_task(torch.compile(network, backend="eager"), "b") for network in (split, model)
    ]
    for network in found:
        assert_no_trace(network)
        assert not any("_orig_mod" in key for key in network.state_dict())
    assert torch.equal(found[0](rows()), split(rows()).parts[1])
    assert torch.equal(found[1](x), model(x)["b"])


def test_is_exported() -> None:
    split = split_layers(resnet(), ["layer1.0.conv1", "layer3.0.bn2"], ["a", "b"]).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = split(x)
        for part, task in zip(expected.parts, "ab", strict=True):
            program = torch.export.export(extract_task(split, task), (x,))
            assert torch.equal(program.module()(x), part)


def test_libmtls_model_becomes_encoder_and_decoder(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.train(batches(), batches(), epochs=1)
    x, model = batches()[0][0], trainer.model
    for task in TASKS:
        found = extract_task(model, task)
        assert_no_trace(found)
        assert [type(m) for m in found.children()] == [Encoder, nn.Linear]
        assert list(found.encoder.state_dict()) == list(Encoder().state_dict())
        assert torch.equal(found(x), model(x)[task])
        assert torch.equal(torch.export.export(found, (x,)).module()(x), model(x)[task])
    with pytest.raises(UsageError, match="The tasks are a, b, c"):
        extract_task(model, "d")
    plain = make(tmp_path, arch="HPS").model.eval()
    assert torch.equal(extract_task(plain, "b")(x), plain(x)["b"])


@pytest.mark.parametrize("rep_grad", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_over_a_base_it_is_that_base_with_one_task(
    base: str, rep_grad: bool, tmp_path: Path, narrow: None
) -> None:
    plain = make_model(base, base, tmp_path).model
    model = make_model("Recon", base, tmp_path).model
    model.rep_grad = rep_grad
    model.rep, model.rep_tasks = {}, {}
    part_ways(model, plain)
    x = images()
    model(x)
    model.eval()
    task = BASE_TASKS[1]
    found = extract_task(model, task)
    assert_no_trace(found)
    assert f"{type(found).__module__}.{type(found).__name__}" == (
        f"LibMTL.architecture.{base}.{base}"
    )
    with torch.no_grad():
        expected = model(x)[task]
        assert list(found(x)) == [task]
        assert torch.equal(found(x)[task], expected)
        program = torch.export.export(found, (x,))
        torch.testing.assert_close(program.module()(x)[task], expected)
    # Nothing of the other tasks is in it.
    for other in (BASE_TASKS[0], BASE_TASKS[2]):
        assert not any(f".{other}." in f".{key}." for key in found.state_dict())
    alone = sum(p.numel() for p in found.parameters())
    assert alone < sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("arch", ["HPS", "Recon"])
def test_rotations_are_merged_into_the_decoder(arch: str, tmp_path: Path) -> None:
    model = make(tmp_path, "RotoGrad", arch).model
    x, labels = batches()[0]
    predictions = model(x)
    losses = [nn.functional.cross_entropy(predictions[task], labels[task]) for task in TASKS]
    turned(model, torch.stack(losses))
    for task in TASKS:
        found = extract_task(model, task)
        assert_no_trace(found)
        assert not torch.allclose(found.decoder.weight, model.decoders[task].weight)
        torch.testing.assert_close(found(x), model(x)[task])
        again = nn.Sequential()
        again.add_module("encoder", Encoder())
        again.add_module("decoder", nn.Linear(6, 2))
        again.load_state_dict(found.state_dict())
        assert torch.equal(again.eval()(x), found(x))


def test_rotations_are_merged_over_a_base(tmp_path: Path, narrow: None) -> None:
    weighting = "RotoGrad" if detect(LibMTL).by_name else weightings.RotoGrad
    changes = {"weighting": weighting, "weight_args": ARGS["RotoGrad"]}
    model: Any = make_model("Recon", "MMoE", tmp_path, **changes).model
    x, task = images(), BASE_TASKS[1]
    turned(model, torch.stack([out.square().mean() for out in model(x).values()]))
    found = extract_task(model, task)
    assert_no_trace(found)
    torch.testing.assert_close(found(x)[task], model(x)[task])


def test_what_was_not_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="neither a network that split_layers"):
        extract_task(resnet(), "a")
    with pytest.raises(UsageError, match="The tasks are a, b"):
        extract_task(split_layers(resnet(), ["fc"], ["a", "b"]), "c")


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("arch", ["HPS", "Recon"])
def test_its_entry_is_taken_from_an_encoders_list(arch: str, called: bool, tmp_path: Path) -> None:
    model: Any = make(tmp_path, arch=arch, encoder_class=ListEncoder).model.eval()
    x: Tensor = batches()[0][0]
    if called:
        model(x)
    for task in TASKS:
        found: Any = extract_task(model, task)
        expected = model(x)[task]
        assert torch.equal(found(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(found))(x), expected)
        assert torch.equal(torch.export.export(found, (x,)).module()(x), expected)
        assert [type(m) for m in found.children()] == [ListEncoder, nn.Linear]
        assert len(found[:1](x)) == len(TASKS)  # the encoder alone, as before


def test_a_decoders_list_is_left_whole(tmp_path: Path) -> None:
    class Several(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return [super().forward(x)] * 2

    decoders = nn.ModuleDict({task: Several(6, 2) for task in TASKS})
    model: Any = make(tmp_path, arch="HPS", decoders=decoders).model.eval()
    assert len(extract_task(model, "b")(batches()[0][0])) == 2
