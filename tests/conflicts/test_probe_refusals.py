"""What a probe refuses before it is too late, and says in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import ConflictProbe, ProfileCache, ReconError, UsageError, draw_profile
from libmtl_recon._version import __version__

TASKS = ("a", "b")


class Network(nn.Module):
    """Two shared layers and a head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})

    def losses(self, tasks: tuple[str, ...] = TASKS) -> dict[str, Tensor]:
        z = self.trunk(torch.randn(5, 3))
        return {task: self.heads[task](z).square().mean() for task in tasks}


def made(steps: int = 0) -> tuple[Network, ConflictProbe]:
    torch.manual_seed(0)
    network = Network()
    probe = ConflictProbe(network, TASKS)
    for _ in range(steps):
        probe.backward(network.losses())
    return network, probe


class TestStable:
    def test_more_layers_than_the_network_has_are_refused_before_the_first_step(self) -> None:
        _, probe = made()
        with pytest.raises(UsageError, match=r"from 1 to 4, the number of layers of the network"):
            probe.stable()
        assert "4 worst layers cannot be estimated" in str(probe.stable(4))

    def test_more_than_are_shared_are_refused_once_all_tasks_were_there(self) -> None:
        network, probe = made()
        probe.backward(network.losses(("a",)))
        assert not probe.stable(3)
        probe.backward(network.losses(("b",)))
        rule = r"K must be a whole number from 1 to 2, the number of layers that two tasks share"
        for K in (3, range(1, 4), 12):
            with pytest.raises(UsageError, match=rule):
                probe.stable(K)
        assert not probe.stable(2)
        assert not probe.stable(None)

    def test_nothing_shared_is_said_after_the_first_step(self) -> None:
        heads = nn.ModuleList(nn.Linear(3, 1) for _ in range(2))
        probe, x = ConflictProbe(heads, TASKS), torch.randn(5, 3)
        probe.backward([head(x).square().mean() for head in heads])
        with pytest.raises(ReconError, match="No layer of the network has been reached by two"):
            probe.stable(1)

    def test_named_layers_are_known_at_once(self) -> None:
        network, _ = made()
        probe = ConflictProbe(network, TASKS, shared=network.trunk[0].parameters())
        with pytest.raises(UsageError, match="from 1 to 1"):
            probe.stable(2)

    @pytest.mark.parametrize("K", [range(0), range(5, 2), [1, 2], "2", 2.0, True])
    def test_what_is_no_number_of_layers(self, K: Any) -> None:
        _, probe = made()
        with pytest.raises(UsageError, match="K must be a number of layers, a range with at"):
            probe.stable(K)

    @pytest.mark.parametrize("K", [0, -1, range(0, 3)])
    def test_numbers_below_one(self, K: Any) -> None:
        _, probe = made()
        with pytest.raises(UsageError, match="K must be a whole number from 1 to 4"):
            probe.stable(K)


def test_the_same_losses_count_once() -> None:
    network, probe = made()
    losses = network.losses()
    probe.backward(losses, retain_graph=True)
    probe.backward(losses)
    gradients = copy.deepcopy([p.grad for p in network.parameters()])
    with pytest.raises(
        ReconError, match=r"freed by an earlier.* Call probe\.backward .* Pass retain_graph=True"
    ):
        probe.backward(losses)
    assert probe.steps == 2
    found = [p.grad for p in network.parameters()]
    assert all(torch.equal(one, g) for one, g in zip(found, gradients, strict=True))


def test_one_loss_for_two_tasks() -> None:
    network, probe = made()
    loss = network.losses()["a"]
    with pytest.raises(UsageError, match="loss of task 'b' must be its own, and not the same"):
        probe.backward([loss, loss])
    with pytest.raises(UsageError, match=r"tensor of one number \(got \[2\]\).*torch\.stack"):
        probe.backward({"a": torch.stack([loss, loss])})


@pytest.mark.parametrize("tasks", [("a.b", "c"), ("", "c"), (" ", "c"), ("train", "c")])
def test_tasks_that_no_layer_can_be_split_for(tasks: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="must be names fit for modules"):
        ConflictProbe(Network(), tasks)


def test_a_probe_is_no_profile(tmp_path: Path) -> None:
    _, probe = made(1)
    with pytest.raises(UsageError, match=r"ConflictProfile .*Pass .* probe\.profile\(\)"):
        ProfileCache(tmp_path).save(probe)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ConflictProfile .*Pass .* probe\.profile\(\)"):
        draw_profile(probe, tmp_path / "picture.png")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"got 'str'\)\. ConflictProfile\.from_json"):
        draw_profile("profile.json", tmp_path / "picture.png")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_profile_is_printed_in_a_line_and_has_this_version() -> None:
    _, probe = made(3)
    profile = probe.profile()
    assert str(profile) == repr(profile) == "ConflictProfile(2 layers, 3 steps, tasks a, b)"
    assert profile.provenance["versions"]["libmtl-recon"] == __version__


def entries(state: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in state.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from entries(value, (*path, key))


def changed(state: dict[str, Any], path: tuple[str, ...], value: Any = None) -> dict[str, Any]:
    found = copy.deepcopy(state)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


class TestState:
    def test_none_of_a_damaged_one_is_loaded(self) -> None:
        _, probe = made(3)
        state = probe.state_dict()
        before, other = str(state), made(2)[1]
        damaged: list[Any] = [{}, None, [], nn.Linear(2, 2).state_dict()]
        for path in entries(state):
            wrong = [None, {}, -1.5, [["x"]], torch.ones(3)]
            damaged += [changed(state, path, value) for value in wrong]
        count = state["counts"]["blocks"][0].clone()
        count[0, 0] += 1
        damaged += [
            changed(state, ("counts", "blocks"), [count, *state["counts"]["blocks"][1:]]),
            changed(state, ("counts", "block_steps"), [1]),
            changed(state, ("layers", "reached"), [[8, 0], *state["layers"]["reached"][1:]]),
            changed(state, ("passed_over",), 4),
        ]
        assert len(damaged) > 50
        kept = str(other.state_dict())
        for one in damaged:
            with pytest.raises(ReconError, match=r"The state is of|of a ConflictProbe"):
                other.load_state_dict(one)
            assert str(other.state_dict()) == kept
        other.load_state_dict(state)
        assert str(other.state_dict()) == before
