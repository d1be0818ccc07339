"""State dicts of split networks and of plain ones, copies and pickles."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from plain import Twins
from sample_networks import NETWORKS, image, resnet, seeded

from libmtl_recon.splitting import TaskTensor, only_task, split_layers, task_parameters


@pytest.mark.parametrize("ran", [True, False])
def test_a_state_dict_loads_into_a_fresh_split_network(ran: bool) -> None:
    trained = Twins(resnet(), ["layer2.0.conv1"])
    trained.train_step(image(), torch.optim.SGD(trained.split.parameters(), lr=1e-2))
    fresh = split_layers(resnet().double(), ["layer2.0.conv1"], ["a", "b"])
    x = image().double()
    if ran:
        fresh(x)
    fresh.load_state_dict(trained.split.state_dict())
    fresh.eval(), trained.split.eval()
    for ours, theirs in zip(fresh(x).parts, trained.split(x).parts, strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_dict_from_before_the_first_step_loads_after_it() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    early = copy.deepcopy(split.state_dict())
    split(image())
    split.load_state_dict(early)
    statistics = task_parameters(split, "b")["layer2.0.bn1.running_mean"]
    assert not statistics.any()


@pytest.mark.parametrize("versions", [True, False])
def test_a_plain_state_dict_gives_each_task_a_copy(versions: bool) -> None:
    plain = resnet().double()
    plain(image().double())
    state = plain.state_dict() if versions else dict(plain.state_dict())
    split = split_layers(resnet().double(), ["conv1", "layer2.0.bn1"], ["a", "b"])
    split(3 * image().double())
    split.load_state_dict(state)
    x = image().double()
    for network in (split, plain):
        network.eval()
    for part in split(x).parts:
        assert torch.equal(part, plain(x))
    fresh = split_layers(resnet().double(), ["conv1", "layer2.0.bn1"], ["a", "b"])
    fresh.load_state_dict(dict(split.state_dict()))  # a plain dict has no versions
    assert torch.equal(fresh.eval()(x).parts[0], plain(x))


def test_mixed_and_separate_statistics_do_not_load_as_each_other() -> None:
    separate, mixed = (
        split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"], bn=bn)
        for bn in ("per_task", "mixed")
    )
    for network in (separate, mixed):
        network(image())
    with pytest.raises(RuntimeError, match=r"layer2\.0\.bn1 keeps statistics that all tasks share"):
        mixed.load_state_dict(separate.state_dict())
    # The other way each task starts from the mixture.
    separate.load_state_dict(mixed.state_dict())
    own = task_parameters(separate, "b")["layer2.0.bn1.running_mean"]
    assert torch.equal(own, mixed.layer2[0].bn1.running_mean)


@pytest.mark.parametrize("name", ["resnet-middle", "lstm", "vit-positions"])
def test_copies_and_pickles(name: str) -> None:
    make, layers, data = NETWORKS[name]
    split = Twins(seeded(make), layers).split
    split.eval()
    x = data().double()
    expected = split(x).parts
    for other in (copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
        for ours, theirs in zip(other(x).parts, expected, strict=True):
            assert torch.equal(ours, theirs)
        with only_task(other, "a"):
            assert type(split(x)) is TaskTensor, "a copy has a selection of its own"
