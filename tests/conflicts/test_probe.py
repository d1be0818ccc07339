"""Conflicts counted in a training loop of one's own."""

from __future__ import annotations

import copy
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon import ConflictProbe, ProfileCache, ReconError, UsageError, split_layers
from libmtl_recon.conflicts.fingerprint import fingerprint
from libmtl_recon.conflicts.grid import EDGES
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.conflicts.merge import add_profiles
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.schedule import UntilStable
from libmtl_recon.gradients import summed
from libmtl_recon.profiles.selection import select_layers

TASKS = ("a", "b", "c")
SHARED = ("trunk.0", "trunk.1", "trunk.3")


class Network(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5, bias=False)
        )
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks})
        self.double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.trunk(x)
        return {task: head(z) for task, head in self.heads.items()}


def made(seed: int = 2) -> Network:
    torch.manual_seed(seed)
    return Network()


def losses_of(network: Network, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(9, 6, dtype=torch.float64, generator=generator)
    return {
        task: nn.functional.cross_entropy(out, (x[:, place] > 0).long())
        for place, (task, out) in enumerate(network(x).items())
    }


def cosines_by_hand(
    losses: dict[str, Tensor], layers: Iterable[nn.Module]
) -> list[list[float | None]]:
    """Per layer those of all pairs of TASKS, one ``autograd.grad`` per task; None: undefined."""
    found = []
    for layer in layers:
        parameters = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        rows: list[Any] = []
        for task in TASKS:
            if task not in losses or not parameters:
                rows.append(None)
                continue
            own = torch.autograd.grad(
                losses[task], parameters, retain_graph=True, allow_unused=True
            )
            own = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(own, parameters, strict=True)
            ]
            rows.append(torch.cat([g.flatten() for g in own]).numpy())
        pairs = []
        for u, v in itertools.combinations(rows, 2):
            norm = 0.0 if u is None or v is None else float(np.linalg.norm(u) * np.linalg.norm(v))
            pairs.append(float(u @ v) / norm if norm else None)
        found.append(pairs)
    return found


def check_counts(profile: ConflictProfile, cosines: list[list[list[float | None]]]) -> None:
    """The profile's counts are those of the cosines ``[steps][layers][pairs]``."""
    assert profile.steps == len(cosines)
    for row in range(len(profile.architecture)):
        of_layer = [c for step in cosines for c in step[row]]
        defined = [c for c in of_layer if c is not None]
        expected, _ = np.histogram(defined, EDGES)
        assert profile.histogram[row].tolist() == expected.tolist()
        assert profile.undefined[:, row].sum() == len(of_layer) - len(defined)


def shared_modules(network: Network) -> list[nn.Module]:
    return [network.trunk[0], network.trunk[1], network.trunk[3]]


@pytest.mark.parametrize("form", ["dict", "list"])
def test_a_loop_counts_what_each_tasks_gradients_give_and_trains_as_ever(form: str) -> None:
    network = made()
    plain = copy.deepcopy(network)
    probe = ConflictProbe(network, TASKS)
    optimizers = [torch.optim.SGD(one.parameters(), 0.2, 0.9) for one in (network, plain)]
    cosines = []
    for step in range(25):
        losses = losses_of(network, step)
        cosines.append(cosines_by_hand(losses, shared_modules(network)))
        assert probe.backward(losses if form == "dict" else [*losses.values()]) is None
        sum(losses_of(plain, step).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert probe.steps == 25
    profile = probe.profile()
    assert profile.layer_names == SHARED  # no head among them
    assert profile.tasks == TASKS
    check_counts(profile, cosines)
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_the_counts_of_all_layers_together_are_those_of_the_shared_layers() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    expected = []
    for step in range(5):
        losses = losses_of(network, step)
        rows = [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        losses[task], list(network.trunk.parameters()), retain_graph=True
                    )
                ]
            ).numpy()
            for task in TASKS
        ]
        for u, v in itertools.combinations(rows, 2):
            expected.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        probe.backward(losses)
    whole = probe.profile().whole
    assert whole is not None
    assert whole[:, :-1].sum(axis=0).tolist() == np.histogram(expected, EDGES)[0].tolist()
    assert not whole[:, -1].any()


@settings(max_examples=25, deadline=None)
@given(
    present=st.lists(st.sets(st.sampled_from(TASKS), min_size=1), min_size=1, max_size=6).filter(
        lambda steps: len(set().union(*steps)) > 1
    ),
    scales=st.lists(st.sampled_from([1e-6, 1.0, 65536.0]), min_size=6, max_size=6),
)
@example(present=[{"a"}, {"b"}], scales=[1.0] * 6)  # never together
def test_absent_tasks_and_scales(present: list[set[str]], scales: list[float]) -> None:
    """Whatever is absent when, counts are those of the tasks that are there."""
    network = made()
    probe = ConflictProbe(network, TASKS)
    cosines = []
    for step, there in enumerate(present):
        losses = {task: loss for task, loss in losses_of(network, step).items() if task in there}
        cosines.append(cosines_by_hand(losses, shared_modules(network)))
        probe.backward({task: loss * scales[step] for task, loss in losses.items()})
        network.zero_grad()
    profile = probe.profile()
    assert profile.layer_names == SHARED
    check_counts(profile, cosines)


def test_a_task_may_be_absent_as_none() -> None:
    network = made()
    one, other = (ConflictProbe(network, TASKS) for _ in range(2))
    for step in range(3):
        losses = losses_of(network, step)
        del losses["b"]
        one.backward(losses)
        losses = losses_of(network, step)
        other.backward([losses["a"], None, losses["c"]])
    profiles = [probe.profile() for probe in (one, other)]
    assert (profiles[0].counts == profiles[1].counts).all()
    assert profiles[0].undefined.sum(axis=0).tolist() == [6, 6, 6]


def test_layers_that_are_frozen_or_reached_later_are_undefined_in_between() -> None:
    network = made()
    network.trunk[0].requires_grad_(False)
    probe = ConflictProbe(network, TASKS)
    cosines = []
    for step in range(6):
        network.trunk[0].requires_grad_(step > 1)
        network.trunk[3].requires_grad_(step != 3)
        losses = losses_of(network, step)
        cosines.append(cosines_by_hand(losses, shared_modules(network)))
        probe.backward(losses)
    profile = probe.profile()
    assert profile.layer_names == SHARED
    assert profile.undefined.sum(axis=0).tolist() == [6, 0, 3]
    check_counts(profile, cosines)
    # It is of the network as it trains, for `split_layers` and the cache.
    assert fingerprint(profile.architecture) == fingerprint(
        layers_of(network, list(network.trunk.parameters()))
    )


def test_a_layer_that_never_trained_is_none() -> None:
    network = made()
    network.trunk[1].requires_grad_(False)
    network.trunk[0].bias.requires_grad_(False)
    probe = ConflictProbe(network, TASKS)
    probe.backward(losses_of(network, 0))
    profile = probe.profile()
    assert profile.layer_names == ("trunk.0", "trunk.3")
    assert profile.architecture[0].shapes == ((8, 6),)


def test_a_layer_of_which_one_task_has_a_parameter_to_itself_is_none() -> None:
    class Tokens(Network):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Parameter(torch.ones(6, dtype=torch.float64))
            self.own = nn.Parameter(torch.ones(5, dtype=torch.float64))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.trunk(x * self.both)
            return {
                task: head(z * self.own if task == "a" else z) for task, head in self.heads.items()
            }

    torch.manual_seed(0)
    network = Tokens()
    probe = ConflictProbe(network, TASKS)
    probe.backward(losses_of(network, 0))
    assert probe.profile().layer_names == SHARED


def test_losses_that_were_stacked_have_the_same_layers() -> None:
    network = made()
    one, other = (ConflictProbe(network, TASKS) for _ in range(2))
    for step in range(4):
        one.backward(losses_of(network, step))
        other.backward(list(torch.stack([*losses_of(network, step).values()])))
    profiles = [probe.profile() for probe in (one, other)]
    assert profiles[1].layer_names == SHARED
    assert (profiles[0].counts == profiles[1].counts).all()
    assert (profiles[0].whole == profiles[1].whole).all()


def test_shared_parameters_may_be_named() -> None:
    network = made()
    named = (p for name, p in network.named_parameters() if name.startswith("trunk.0"))
    probe = ConflictProbe(network, TASKS, shared=named)
    cosines = []
    for step in range(3):
        losses = losses_of(network, step)
        cosines.append(cosines_by_hand(losses, [network.trunk[0]]))
        probe.backward(losses)
    profile = probe.profile()
    assert profile.layer_names == ("trunk.0",)
    check_counts(profile, cosines)
    assert profile.whole is not None
    assert (profile.whole[:, :-1] == profile.counts[:, 0]).all()


def test_a_part_of_the_network_names_layers_by_itself() -> None:
    network = made()
    probe = ConflictProbe(network.trunk, TASKS)
    probe.backward(losses_of(network, 0))
    assert probe.profile().layer_names == ("0", "1", "3")
    assert all(p.grad is not None for p in network.parameters())


# --- mixed precision --------------------------------------------------------------------------


def test_a_scaler_does_not_change_counts_and_scales_gradients() -> None:
    profiles, weights = [], []
    for enabled in (False, True):
        network = made().float()
        probe = ConflictProbe(network, TASKS)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
        for step in range(8):
            x = torch.randn(9, 6, generator=torch.Generator().manual_seed(step))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = network(x)
                losses = {
                    task: nn.functional.cross_entropy(out, (x[:, place] > 0).long())
                    for place, (task, out) in enumerate(outputs.items())
                }
            probe.backward({task: scaler.scale(loss) for task, loss in losses.items()})
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        profiles.append(probe.profile())
        weights.append([p.detach() for p in network.parameters()])
    assert (profiles[0].counts == profiles[1].counts).all()
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)  # powers of two


def test_steps_that_a_scaler_leaves_out_are_undefined() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**3, growth_interval=1000)
    cosines = []
    for step in range(6):
        losses = losses_of(network, step)
        by_hand = cosines_by_hand(losses, shared_modules(network))
        if step < 2:  # its gradients overflow, its losses do not
            losses["a"] = losses["a"] + (network.trunk[0].weight * 0).abs().sqrt().sum()
            by_hand = [[None] * 3] * 3
        cosines.append(by_hand)
        probe.backward({task: scaler.scale(loss) for task, loss in losses.items()})
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 2.0
    profile = probe.profile()
    check_counts(profile, cosines)
    assert profile.provenance["steps_not_finite"] == 2


def test_nothing_but_overflows_is_refused() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    losses = losses_of(network, 0)
    losses["a"] = losses["a"] + (network.trunk[0].weight * 0).abs().sqrt().sum()
    probe.backward(losses)
    with pytest.raises(ReconError, match="In all 1 steps a gradient was not finite"):
        probe.profile()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_before_anything_is_done(value: float) -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    losses = losses_of(network, 0)
    losses["b"] = losses["b"] * value
    with pytest.raises(ReconError, match="loss of task 'b' was not finite"):
        probe.backward(losses)
    assert probe.steps == 0
    assert all(p.grad is None for p in network.parameters())


# --- loops ------------------------------------------------------------------------------------


def test_where_products_save_nothing_they_are_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    make_plan = summed.make_plan

    def look(*arguments: Any) -> Any:
        looks.append(1)
        plan = make_plan(*arguments)
        plan.calls = {}
        return plan

    monkeypatch.setattr(summed, "make_plan", look)
    network = made()
    probe = ConflictProbe(network, TASKS)
    for step in range(4):
        losses = losses_of(network, step)
        if step > 1:
            del losses["c"]
        probe.backward(losses)
    assert len(looks) == 2  # for three tasks, and for two


def test_micro_batches_are_steps_whose_gradients_add_up() -> None:
    network = made()
    plain = copy.deepcopy(network)
    probe = ConflictProbe(network, TASKS)
    for step in range(4):
        probe.backward({task: loss / 4 for task, loss in losses_of(network, step).items()})
        (sum(losses_of(plain, step).values()) / 4).backward()
    assert probe.steps == 4
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_parameters_may_be_replaced() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    probe.backward(losses_of(network, 0))
    network.load_state_dict(copy.deepcopy(network.state_dict()), assign=True)
    probe.backward(losses_of(network, 1))
    assert not probe.profile().undefined.any()


def test_a_network_that_was_split_needs_another_probe() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    probe.backward(losses_of(network, 0))
    worst = probe.profile().layers(S=0.0, K=1)
    split_layers(network, worst, TASKS, per_task_output=True)
    with pytest.raises(ReconError, match="layers or parameters of the network have changed"):
        probe.backward(losses_of(network, 1))
    assert probe.profile().layer_names == SHARED  # what was counted stays
    again = ConflictProbe(network, TASKS)
    again.backward(losses_of(network, 1))
    assert again.profile().layer_names == tuple(name for name in SHARED if name not in worst)


@pytest.mark.parametrize("wrapped", ["data parallel", "compiled"])
def test_wrapped_networks_have_the_names_of_what_is_inside(wrapped: str) -> None:
    network = made()
    plain = copy.deepcopy(network)
    outer: Any = nn.DataParallel(network)
    if wrapped == "compiled":
        outer = torch.compile(network, backend="eager")
    probe = ConflictProbe(outer, TASKS)
    expected = ConflictProbe(plain, TASKS)
    for step in range(3):
        probe.backward(losses_of(outer, step))
        expected.backward(losses_of(plain, step))
    torch.compiler.reset()
    assert probe.profile().layer_names == SHARED
    assert (probe.profile().counts == expected.profile().counts).all()


# --- going on ---------------------------------------------------------------------------------


def count(probe: ConflictProbe, network: Network, steps: Iterable[int]) -> None:
    for step in steps:
        probe.backward(losses_of(network, step))


@pytest.mark.parametrize("before", [0, 1, 25])
def test_a_state_goes_on_where_it_was(before: int) -> None:
    network = made()
    whole = ConflictProbe(network, TASKS)
    count(whole, network, range(45))
    first = ConflictProbe(network, TASKS)
    count(first, network, range(before))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    saved = first.state_dict()
    count(first, network, range(before, 30))  # which the state does not have
    file.seek(0)
    for state in (torch.load(file, weights_only=True), saved):
        second = ConflictProbe(made(), TASKS)
        second.load_state_dict(state)
        assert second.steps == before
        # Of a network that has other weights by now; the layers are its own.
        second = ConflictProbe(network, TASKS)
        second.load_state_dict(state)
        count(second, network, range(before, 45))
        profiles = [probe.profile() for probe in (whole, second)]
        for part in ("counts", "undefined", "block_steps", "whole"):
            assert (getattr(profiles[0], part) == getattr(profiles[1], part)).all(), part
        assert profiles[0].architecture == profiles[1].architecture
        if before:
            assert profiles[1].provenance["run"] == first.profile().provenance["run"]


def test_a_state_of_something_else_is_refused() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    count(probe, network, range(2))
    with pytest.raises(ReconError, match=r"for the tasks \['a', 'b', 'c'\]"):
        ConflictProbe(network, ["a", "b"]).load_state_dict(probe.state_dict())
    with pytest.raises(ReconError, match="a network with other layers"):
        ConflictProbe(network.trunk, TASKS).load_state_dict(probe.state_dict())


def test_profiles_of_several_runs_add_up_and_of_one_do_not() -> None:
    network = made()
    first, second = (ConflictProbe(network, TASKS) for _ in range(2))
    count(first, network, range(3))
    early = first.profile()
    count(first, network, range(3, 5))
    count(second, network, range(7))
    assert add_profiles([first.profile(), second.profile()]).steps == 12
    with pytest.raises(ReconError, match="contain the steps of one scoring run"):
        add_profiles([early, first.profile()])


def test_a_profile_is_kept_found_and_split_by(tmp_path: Any) -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    count(probe, network, range(12))
    profile = probe.profile({"dataset": "noise", "seed": 2})
    cache = ProfileCache(tmp_path)
    cache.save(profile)
    layers = layers_of(network, list(network.trunk.parameters()))
    match = cache.find(layers)
    assert match is not None
    assert match.exact
    assert match.entry.profile.to_json() == profile.to_json()
    assert match.entry.profile.provenance["dataset"] == "noise"
    chosen = select_layers(layers, 2, -0.1, cache=cache)
    assert list(chosen.names) == profile.layers(S=-0.1, K=2)
    split_layers(network, chosen.names, TASKS, per_task_output=True)
    assert set(network(torch.ones(3, 6, dtype=torch.float64))) == set(TASKS)


# --- enough steps -----------------------------------------------------------------------------


def test_enough_steps_are_told_by_the_sentence_of_scoring() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    answer = probe.stable(K=2)
    assert not answer
    assert str(answer).startswith(
        "The certainty of the 2 worst layers cannot be estimated: 0 steps"
    )
    count(probe, network, range(199))
    assert not probe.stable(K=3)
    assert "199 steps are too few" in str(probe.stable(K=3))
    count(probe, network, range(199, 200))
    answer = probe.stable(K=3, S=0.0)  # all of them
    assert answer
    assert answer.found == UntilStable.usual(0.0, 3).look(probe.profile())
    assert answer.found.agreement == 1.0
    assert str(answer) == (
        "The 3 worst layers agree to 100.0% with what other such steps would have given."
    )
    unsure = probe.stable(K=1, S=0.0)
    assert bool(unsure) == unsure.found.holds(0.97)
    ranking = probe.stable(K=None, S=0.0)
    assert ranking.confidence == 0.9
    assert str(ranking).startswith("The ranking agrees to ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"K": 0}, "K must be a whole number"), ({"K": 7}, "from 1 to 6"), ({"S": 0.1}, "S must be")],
)
def test_what_is_asked_is_checked_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ConflictProbe(made(), TASKS).stable(**{"K": 2} | arguments)


# --- refusals ---------------------------------------------------------------------------------


class Sharded(nn.Module):
    pass


Sharded.__name__ = "FSDPModule"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConflictProbe("net", TASKS), r"network must be a torch\.nn\.Module \(got 'net'\)"),
        (lambda: ConflictProbe(nn.ReLU(), TASKS), "network must have parameters"),
        (lambda: ConflictProbe(nn.Sequential(Sharded()), TASKS), "network must have whole param"),
        (lambda: ConflictProbe(made(), "abc"), "tasks must be the names of at least two tasks"),
        (lambda: ConflictProbe(made(), ["a"]), "tasks must be the names of at least two tasks"),
        (lambda: ConflictProbe(made(), ["a", "a"]), "tasks must be the names of at least two"),
        (lambda: ConflictProbe(made(), [1, 2]), "tasks must be the names of at least two tasks"),
        (lambda: ConflictProbe(made(), TASKS, shared=[]), "shared must be parameters of `network`"),
        (lambda: ConflictProbe(made(), TASKS, shared=["trunk"]), "shared must be parameters"),
        (
            lambda: ConflictProbe(made(), TASKS, shared=made().parameters()),
            "got '11 of 11 that are not its parameters'",
        ),
        (
            lambda: ConflictProbe(n := made(), TASKS, shared=[n.trunk[0].weight]),
            "shared must have all parameters of a layer or none",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused_at_the_start(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make()


ONE = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({}, "losses must have the loss of at least one task"),
        ([None] * 3, "losses must have the loss of at least one task"),
        ({"a": ONE, "d": ONE}, r"losses must be of the probe's tasks, which are a, b, c"),
        ([ONE], r"losses must be 3, one for each .* \(got '1 losses'\)"),
        (torch.ones(3, requires_grad=True), "losses must be a dict by task, or a list"),
        (None, "losses must be a dict by task, or a list"),
        ({"a": 1.0}, "task 'a' must be a tensor of one number"),
        (
            {"a": torch.ones(2, requires_grad=True)},
            r"task 'a' must be a tensor of one number \(got \[2\]",
        ),
        ({"b": torch.ones((), dtype=torch.complex64, requires_grad=True)}, "task 'b' must be real"),
        ([ONE, torch.ones(()), None], "task 'b' must have a graph"),
    ],
)
def test_other_losses_are_refused(losses: Any, words: str) -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    with pytest.raises(UsageError, match=words):
        probe.backward(losses)
    assert probe.steps == 0


def test_a_network_that_no_loss_reaches_is_refused() -> None:
    network = made()
    probe = ConflictProbe(copy.deepcopy(network), TASKS)
    with pytest.raises(ReconError, match="No loss reaches a trainable parameter"):
        probe.backward(losses_of(network, 0))
    assert all(p.grad is None for p in network.parameters())
    frozen = ConflictProbe(copy.deepcopy(network).requires_grad_(False), TASKS)
    frozen.backward(losses_of(network, 0))  # it may train later
    with pytest.raises(ReconError, match="No layer of the network has been reached by two tasks"):
        frozen.profile()


def test_a_profile_needs_steps_and_two_tasks() -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    with pytest.raises(ReconError, match="no step has been counted"):
        probe.profile()
    probe.backward({"a": losses_of(network, 0)["a"]})
    with pytest.raises(ReconError, match="No layer of the network has been reached by two tasks"):
        probe.profile()


@pytest.mark.parametrize("given", [{"x": object()}, {"x": float("nan")}, ["x"], {1j: 2}])
def test_a_provenance_must_fit_into_json(given: Any) -> None:
    network = made()
    probe = ConflictProbe(network, TASKS)
    probe.backward(losses_of(network, 0))
    with pytest.raises(UsageError, match="provenance must be a dict"):
        probe.profile(given)
    json.dumps(dict(probe.profile().provenance))


# --- without LibMTL ---------------------------------------------------------------------------

LOOP = """
import sys
sys.modules["LibMTL"] = None
import torch, libmtl_recon
network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
probe = libmtl_recon.ConflictProbe(network, ["a", "b"])
optimizer = torch.optim.SGD(network.parameters(), 0.1)
for _ in range(9):
    a, b = network(torch.randn(5, 4)).square().mean(dim=0)
    probe.backward([a, b])
    optimizer.step(); optimizer.zero_grad()
profile = probe.profile()
print(probe.stable(K=1))
libmtl_recon.ProfileCache(sys.argv[1]).save(profile)
libmtl_recon.draw_profile(profile, sys.argv[1] + "/x.png", K=1)
libmtl_recon.split_layers(network, profile.layers(S=-0.1, K=1), ["a", "b"])
assert sys.modules["LibMTL"] is None
assert not [name for name in sys.modules if name.startswith("LibMTL.")]
"""


def test_a_plain_loop_never_imports_libmtl(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOP, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").stat().st_size > 1000
