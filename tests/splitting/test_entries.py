"""Networks that return one entry per task: entry t is task t's, and nobody else's."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_libmtl import TASKS, Encoder, ListEncoder, batches, make
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError, extract_task, only_task, split_layers
from libmtl_recon.splitting import task_parameters
from libmtl_recon.splitting.state import plain_names


def block(given: int, gives: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, gives, size, padding=size // 2), nn.BatchNorm2d(gives), nn.ReLU(True)
    )


class Attention(nn.Module):
    """A small SegNet with attention: shared blocks down and up, a mask per task on each.

    Args:
        give: What it makes of the list of entries.
    """

    def __init__(self, give: Callable[[list[Tensor]], Any] = list, recompute: bool = False) -> None:
        super().__init__()
        self.give, self.recompute = give, recompute
        self.down = nn.ModuleList([block(3, 4), block(4, 6)])
        self.again = nn.ModuleList([block(4, 4), block(6, 6)])
        self.up = nn.ModuleList([block(6, 4), block(4, 4)])
        # By task, then by stage; what follows a mask is one for all tasks.
        self.masks = nn.ModuleList(
            [nn.ModuleList([self.mask(4, 4), self.mask(10, 6), self.mask(8, 4)]) for _ in TASKS]
        )
        self.next = nn.ModuleList([block(4, 4), block(6, 4)])
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    @staticmethod
    def mask(given: int, gives: int) -> nn.Sequential:
        return nn.Sequential(*block(given, gives, 1), nn.Conv2d(gives, gives, 1), nn.Sigmoid())

    def forward(self, x: Tensor, wanted: Sequence[int] = range(len(TASKS))) -> Any:
        first = self.down[0](x)
        seen = self.again[0](first)
        small, where = self.pool(seen)
        second = self.down[1](small)
        inner = self.again[1](second)
        back = self.up[0](inner)
        large = self.up[1](self.unpool(back, where))
        found: list[Any] = [None] * len(TASKS)
        for task in wanted:
            run = self.entry
            given = (task, first, seen, second, inner, back, large)
            found[task] = (
                checkpoint(run, *given, use_reentrant=False) if self.recompute else run(*given)
            )
        return self.give(found)

    def entry(self, task: int, *given: Tensor) -> Tensor:
        first, seen, second, inner, back, large = given
        masks = self.masks[task]
        own = nn.functional.max_pool2d(self.next[0](masks[0](first) * seen), 2)
        own = masks[1](torch.cat((second, own), 1)) * inner
        own = nn.functional.interpolate(self.next[1](own), size=back.shape[-2:])
        own = masks[2](torch.cat((back, own), 1))
        return nn.functional.interpolate(own, scale_factor=2.0) * large


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def keyed(entries: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(TASKS, entries, strict=True))


def entry(output: Any, place: int) -> Any:
    return output[TASKS[place]] if isinstance(output, dict) else output[place]


def built(**changes: Any) -> Attention:
    torch.manual_seed(0)
    return Attention(**changes).double()


def part_ways(split: nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for task in TASKS:
            for value in task_parameters(split, task).values():
                if isinstance(value, nn.Parameter):
                    value.add_(0.1 * torch.randn_like(value))


def of_task(split: nn.Module, task: str) -> dict[str, Tensor]:
    """The state of a plain network that is one task's."""
    state = split.state_dict()
    return {
        plain: state[next((k for k in keys if f"tasks.{task}." in k), keys[0])]
        for plain, keys in plain_names(split).items()
    }


FIRST = ["down.0.0"]
LAYERS = {
    "first": FIRST,
    "middle": ["again.1.1", "next.0.1"],
    "the masks'": ["masks.0.1.0", "masks.1.0.1", "masks.2.2.3"],
    "what follows masks": ["next.0.0", "next.1.1"],
    "last": ["up.1.1"],
    "many": ["down.1.0", "up.0.1", "masks.1.1.1", "next.1.0"],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("give", [list, tuple, keyed])
def test_each_entry_is_a_plain_network_of_its_task(
    give: Callable[[list[Tensor]], Any], layers: list[str]
) -> None:
    split = split_layers(built(give=give), layers, TASKS, per_task_output=True)
    part_ways(split)
    plain = {task: built(give=give) for task in TASKS}
    for task, network in plain.items():
        network.load_state_dict(of_task(split, task))
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (split, *plain.values())]
    for step in range(3):
        found = split(image() + step)
        assert type(found) is type(give([torch.ones(1)] * len(TASKS)))
        expected = {t: entry(n(image() + step, [i]), i) for i, (t, n) in enumerate(plain.items())}
        for place, task in enumerate(TASKS):
            assert type(entry(found, place)) is Tensor
            assert torch.equal(entry(found, place), expected[task]), (step, task)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum((i + 1) * entry(found, i).square().mean() for i in range(3)).backward()
        for i, task in enumerate(TASKS):
            ((i + 1) * expected[task].square().mean()).backward()
        gradients = {
            t: {n: p.grad for n, p in network.named_parameters()} for t, network in plain.items()
        }
        for name, p in split.named_parameters():
            if name in gradients["a"]:
                each = [gradients[t][name] for t in TASKS if gradients[t][name] is not None]
                torch.testing.assert_close(p.grad, sum(each), rtol=1e-9, atol=1e-14)
        for task in TASKS:
            for name, value in task_parameters(split, task).items():
                if isinstance(value, nn.Parameter):
                    assert (value.grad is None) == (gradients[task][name] is None)
                    if value.grad is not None:
                        assert torch.equal(value.grad, gradients[task][name]), (step, task, name)
        optimizers[0].step()
        compare_statistics(split, plain, step + 1)
        for task, network in plain.items():
            network.load_state_dict(of_task(split, task))
    for network in (split, *plain.values()):
        network.eval()
    with torch.no_grad():
        found = split(image())
        for place, task in enumerate(TASKS):
            assert torch.equal(entry(found, place), entry(plain[task](image(), [place]), place))


def compare_statistics(split: nn.Module, plain: dict[str, Attention], steps: int) -> None:
    """A norm's statistics are each task's own behind the split, and all entries' before it."""
    state = split.state_dict()
    for task in TASKS:
        own = plain[task].state_dict()
        for name, keys in plain_names(split).items():
            if "running" not in name and "num_batches" not in name:
                continue
            mine = [key for key in keys if f"tasks.{task}." in key]
            if mine:
                assert torch.equal(state[mine[0]], own[name]), (task, name)
            elif name.startswith("next") and name.endswith("tracked"):
                assert int(state[name]) == steps * len(TASKS)
            elif name.startswith("down.0"):
                assert torch.equal(state[name], own[name]), (task, name)


class Work(TorchDispatchMode):
    """Counts convolutions, forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().startswith("aten::convolution")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("layers", "more"), [(["up.1.0"], 2), (["again.1.0"], 6), (FIRST, 12)])
def test_what_is_one_entrys_runs_once(layers: list[str], more: int) -> None:
    """Shared blocks behind the split run once per task, masks and what follows them as before."""
    plain = built().eval()
    split = split_layers(built(), layers, TASKS, per_task_output=True).eval()
    split(image())
    with Work() as before:
        plain(image())
    with Work() as after:
        split(image())
    assert after.count == before.count + more


def test_recomputation_serves_the_same_entries() -> None:
    found = []
    for recompute in (False, True):
        # Each recomputation would update statistics once more.
        network = built(recompute=recompute).eval()
        split = split_layers(network, ["again.0.0", "next.0.0"], TASKS, per_task_output=True)
        part_ways(split)
        sum((i + 1) * e.square().mean() for i, e in enumerate(split(image()))).backward()
        found.append({name: p.grad for name, p in split.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) == (found[1][name] is None)
        assert gradient is None or torch.equal(gradient, found[1][name])


def test_copies_pickles_and_compiled_networks_keep_entries_apart() -> None:
    split = split_layers(built(), FIRST, TASKS, per_task_output=True)
    part_ways(split)
    others = [copy.deepcopy(split), pickle.loads(pickle.dumps(split))]
    expected = split(image())
    others += [copy.deepcopy(others[0]), pickle.loads(pickle.dumps(split))]
    compiled = torch.compile(copy.deepcopy(others[0]), backend="eager")
    for other in (*others[:3], compiled):
        for one, same in zip(other(image()), expected, strict=True):
            assert torch.equal(one, same)
    counts = compiled._orig_mod.state_dict()
    assert int(counts["next.0.1.tasks.b.num_batches_tracked"]) == 1


def test_a_tasks_network_is_taken_out() -> None:
    split = split_layers(built(give=keyed), ["again.0.1", "next.1.1"], TASKS, per_task_output=True)
    part_ways(split)
    split(image())
    split.eval()
    for task in TASKS:
        found = extract_task(split, task)
        assert type(found) is Attention
        assert not any("libmtl_recon" in str(type(v).__module__) for v in vars(found).values())
        assert list(found.state_dict()) == list(built().state_dict())
        assert torch.equal(found(image())[task], split(image())[task])


def test_one_task_alone_learns_nothing_from_other_entries() -> None:
    split = split_layers(built(), ["again.0.1"], TASKS, per_task_output=True)
    part_ways(split)
    plain = built()
    plain.load_state_dict(of_task(split, "b"))
    for step in range(2):
        with only_task(split, "b"):
            found = split(image() + step)
        assert (found[0], found[2]) == (None, None)
        assert torch.equal(found[1], plain(image() + step, [1])[1])
    state, own = split.state_dict(), plain.state_dict()
    for name in ("next.0.1", "masks.1.1.1", "again.0.1", "up.1.1"):
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(state[f"{name}.tasks.b.{key}"], own[f"{name}.{key}"]), (name, key)
    assert int(state["next.0.1.tasks.a.num_batches_tracked"]) == 0


def test_mixed_statistics_take_in_each_entry_once() -> None:
    split = split_layers(built(), ["again.0.1"], TASKS, per_task_output=True, bn="mixed")
    split(image())
    state = split.state_dict()
    assert int(state["next.0.1.num_batches_tracked"]) == len(TASKS)
    assert int(state["down.1.1.num_batches_tracked"]) == len(TASKS)
    assert int(state["masks.0.0.1.num_batches_tracked"]) == 1
    assert int(state["down.0.1.num_batches_tracked"]) == 1


class Tree(nn.Module):
    """Entries 0 and 1 have a branch in common; a norm is everybody's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.branch, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])

    def forward(self, x: Tensor, wanted: Sequence[int] = range(3)) -> list[Any]:
        x = self.one(x)
        found: list[Any] = [None] * 3
        if set(wanted) & {0, 1}:
            branch = torch.tanh(self.norm(self.branch(x)))
        for task in wanted:
            found[task] = self.norm(self.own[task](branch if task < 2 else x))
        return found


def test_a_branch_of_some_entries_leaves_the_others_alone() -> None:
    torch.manual_seed(0)
    network = Tree().double()
    split = split_layers(copy.deepcopy(network), ["one"], TASKS, per_task_output=True)
    x = torch.randn(8, 4).double()
    found = split(x)
    for place, task in enumerate(TASKS):
        plain = copy.deepcopy(network)
        assert torch.equal(found[place], plain(x, [place])[place])
        for key, value in plain.norm.state_dict().items():
            own = split.norm.tasks.get_submodule(task)
            assert torch.equal(getattr(own, key, value), value), (task, key)


class Crossed(nn.Module):
    """Entries are made of each other's; layers are dropped at random if asked."""

    def __init__(self, drop: bool = False) -> None:
        super().__init__()
        self.one, self.drop = nn.Linear(4, 4), drop
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        x = self.one(x)
        if self.drop and int(self.calls) == 2:
            return [x, x, x]
        made = [layer(x) for layer in self.own]
        return [made[i] + 0.1 * sum(made) for i in range(3)]


def test_entries_made_of_each_other_are_computed_by_each_task() -> None:
    network = Crossed().double()
    split = split_layers(copy.deepcopy(network), ["own.0", "one"], TASKS, per_task_output=True)
    part_ways(split)
    x = torch.randn(8, 4).double()
    found = split(x)
    assert int(split.calls) == 1
    for place, task in enumerate(TASKS):
        plain = copy.deepcopy(network)
        plain.load_state_dict(of_task(split, task))
        assert torch.equal(found[place], plain(x)[place])


def test_another_way_and_other_outputs_are_refused() -> None:
    x = torch.randn(8, 4).double()
    split = split_layers(Crossed(drop=True).double(), ["one"], TASKS, per_task_output=True)
    split(x)
    with pytest.raises(ReconError, match="called its layers differently"):
        split(x)
    split(x)  # and goes on as before
    plain = nn.Sequential(nn.Linear(4, 4)).double()
    with pytest.raises(ReconError, match=r"one entry per task.*it returned a TaskTensor"):
        split_layers(plain, ["0"], TASKS, per_task_output=True)(x)
    pair = Attention(give=lambda entries: entries[:2]).double()
    with pytest.raises(ReconError, match="it returned a list of 2"):
        split_layers(pair, FIRST, TASKS, per_task_output=True)(image())


def test_lists_are_whole_to_each_task_unless_said_otherwise() -> None:
    split = split_layers(built(), ["again.0.1"], TASKS)
    found = split(image())
    assert [len(one.parts) for one in found] == [3, 3, 3]
    assert int(split.next[0][1].tasks.a.num_batches_tracked) == 3


def test_sizes_may_change_and_inference_learns_nothing() -> None:
    split = split_layers(built(), ["again.0.1"], TASKS, per_task_output=True)
    split(image())
    split(image()[:3])
    assert int(split.state_dict()["next.0.1.tasks.c.num_batches_tracked"]) == 2
    split.eval()
    expected = split(image())
    with torch.inference_mode():
        for one, same in zip(split(image()), expected, strict=True):
            assert torch.equal(one, same)


class Written(nn.Module):
    """Changes its activations in place, through views and by index."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])

    def forward(self, x: Tensor, wanted: Sequence[int] = range(3)) -> list[Any]:
        x = self.one(x)
        x[:, 0] = torch.tanh(x[:, 1])
        x.view(-1)[::3].mul_(2)
        found: list[Any] = [None] * 3
        for task in wanted:
            own = self.own[task](x)
            own[:, :2].relu_()
            own[:, 3:] = self.norm(own)[:, :1]
            found[task] = own
        return found


def test_what_is_written_in_place_is_followed() -> None:
    torch.manual_seed(0)
    network = Written().double()
    split = split_layers(copy.deepcopy(network), ["one"], TASKS, per_task_output=True)
    part_ways(split)
    x = torch.randn(8, 4).double()
    for mode in (torch.enable_grad, torch.inference_mode):
        plain = {task: copy.deepcopy(network) for task in TASKS}
        for task in TASKS:
            plain[task].load_state_dict(of_task(copy.deepcopy(split), task), strict=False)
        with mode():
            found = split(x)
            for place, task in enumerate(TASKS):
                assert torch.equal(found[place], plain[task](x, [place])[place])
    assert int(split.norm.tasks.b.num_batches_tracked) == 2


class Keyed(ListEncoder):
    def forward(self, x: Tensor) -> Any:
        return dict(zip(TASKS, super().forward(x), strict=True))


class Pair(ListEncoder):
    def forward(self, x: Tensor) -> Any:
        return tuple(super().forward(x))


class Takes(nn.Module):
    """A decoder of what an encoder returns for all tasks."""

    def __init__(self, key: Any) -> None:
        super().__init__()
        self.key, self.last = key, nn.Linear(6, 2)

    def forward(self, given: Any) -> Tensor:
        return self.last(given[self.key])


@pytest.mark.parametrize("weighting", ["EW", "GradOPS", "MGDA"])
@pytest.mark.parametrize("encoder", [ListEncoder, Keyed])
def test_libmtls_encoders_keep_their_entries_apart(
    encoder: type[Encoder], weighting: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    changes: dict[str, Any] = {"encoder_class": encoder, "optim_param": {"optim": "sgd", "lr": 0.1}}
    if encoder is Keyed:
        changes["decoders"] = nn.ModuleDict({task: Takes(task) for task in TASKS})
    elif weighting == "MGDA":
        changes["rep_grad"] = True
    trainer = make(tmp_path, weighting, **changes)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(), batches(), epochs=2)
    state = trainer.model.state_dict()
    for task in TASKS:
        assert int(state[f"encoder.norm.tasks.{task}.num_batches_tracked"]) == 8
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    # A norm takes away what a bias before it adds.
    assert [n for n in still if "one" not in n] == []
    x = batches()[0][0]
    for task in TASKS:
        found: Any = extract_task(trainer.model, task)
        own = found.encoder(x)
        own = own if encoder is Keyed else own[TASKS.index(task)]
        assert torch.equal(found.decoder(own), trainer.model(x)[task])
        with only_task(trainer.model, task):
            assert torch.equal(trainer.model(x)[task], found.decoder(own))


def test_a_decoder_has_its_own_entry_alone(tmp_path: Path) -> None:
    decoders = nn.ModuleDict({task: Takes("a") for task in TASKS})
    model = make(tmp_path, encoder_class=Keyed, decoders=decoders).model
    with pytest.raises(ReconError, match="decoder of task 'b' reads 'a'"):
        model(batches()[0][0])


def test_a_tuple_is_whole_to_each_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoders = nn.ModuleDict({task: Takes(0) for task in TASKS})
    plain = make(tmp_path, arch="HPS", encoder_class=Pair, decoders=copy.deepcopy(decoders)).model
    split = make(tmp_path, encoder_class=Pair, decoders=decoders).model
    x = batches()[0][0]
    expected, found = plain(x), split(x)
    for task in TASKS:
        assert torch.equal(found[task], expected[task])


def test_several_inputs_may_have_an_entry_each(tmp_path: Path) -> None:
    trainer = make(tmp_path, encoder_class=ListEncoder, multi_input=True)
    loaders = {task: [(x, labels[task]) for x, labels in batches()] for task in TASKS}
    trainer.train(loaders, loaders, epochs=1)
    state = trainer.model.state_dict()
    for task in TASKS:
        assert int(state[f"encoder.norm.tasks.{task}.num_batches_tracked"]) == 4


class Decides(nn.Module):
    """A branch decides, in Python, what becomes of the other entries."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])

    def forward(self, x: Tensor) -> list[Tensor]:
        made = [layer(self.one(x)) for layer in self.own]
        return [made[0], *(-entry if made[0].sum() > 0 else entry for entry in made[1:])]


def test_what_decides_for_all_entries_is_computed_for_all_tasks() -> None:
    torch.manual_seed(0)
    x, network = torch.randn(8, 4).double(), Decides().double()
    split = split_layers(copy.deepcopy(network), ["one"], TASKS, per_task_output=True)
    for place, entry_ in enumerate(split(x)):
        assert torch.equal(entry_, network(x)[place])
    with torch.no_grad():
        for task, shift in zip(TASKS, (9.0, -9.0, 9.0), strict=True):
            task_parameters(split, task)["one.bias"].add_(shift * network.own[0].weight.sum(0))
    with pytest.raises(ReconError, match="returned different values for the tasks"):
        split(x)


class Doubled(torch.autograd.Function):
    """Code that no mode sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Unseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.between = nn.Linear(4, 4), nn.BatchNorm1d(4), Doubling()
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])

    def forward(self, x: Tensor, wanted: Sequence[int] = range(3)) -> list[Any]:
        x = self.between(self.one(x))
        found: list[Any] = [None] * 3
        for task in wanted:
            found[task] = self.norm(self.between(self.own[task](x)))
        return found


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_custom_functions_are_followed_by_the_modules_around_them(mode: Any) -> None:
    torch.manual_seed(0)
    network = Unseen().double()
    split = split_layers(copy.deepcopy(network), ["one", "own.1"], TASKS, per_task_output=True)
    part_ways(split)
    plain = {task: copy.deepcopy(network) for task in TASKS}
    for task in TASKS:
        plain[task].load_state_dict(of_task(split, task))
    x = torch.randn(8, 4).double()
    with mode():
        found = split(x)
        for place, task in enumerate(TASKS):
            assert torch.equal(found[place], plain[task](x, [place])[place])
            own = split.norm.tasks.get_submodule(task)
            assert torch.equal(own.running_mean, plain[task].norm.running_mean)
            assert int(own.num_batches_tracked) == 1


class Lends(nn.Module):
    """What serves the first entry is written, through a view, into what the others are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.own = nn.ModuleList([nn.Linear(4, 4) for _ in TASKS])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.one(x)
        first, lent = self.own[0](x), x.clone()
        lent.view(-1, 2, 2)[:, 0] = first[:, :2]
        return [first, self.own[1](lent), self.own[2](lent)]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_what_is_written_into_others_memory_serves_them(mode: Any) -> None:
    torch.manual_seed(0)
    network = Lends().double()
    split = split_layers(copy.deepcopy(network), ["one"], TASKS, per_task_output=True)
    part_ways(split)
    x = torch.randn(8, 4).double()
    with mode():
        found = split(x)
        for place, task in enumerate(TASKS):
            plain = copy.deepcopy(network)
            plain.load_state_dict(of_task(split, task))
            assert torch.equal(found[place], plain(x)[place])
