"""What a decoder holds of a layer that is split is that task's copy, and nothing else."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_libmtl import ARGS, TASKS, make
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from turning import turned

from libmtl_recon import ReconError, ScoringHook, UsageError, extract_task, split_layers
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

IDS = torch.randint(0, 7, (16, 5), generator=torch.Generator().manual_seed(3))
LABELS = {task: IDS[:, place] % 2 for place, task in enumerate(TASKS)}


class Words(nn.Module):
    """A bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mix = nn.Embedding(7, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.emb(x))).mean(1)


class Reads(nn.Module):
    """Holds the embedding itself."""

    def __init__(self, emb: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.emb, self.last = emb, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x @ self.emb.weight.T)


def parameter(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = nn.Linear(6, 7, bias=False)
    heads["b"].weight = encoder.emb.weight


def beside_a_bias(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = nn.Sequential(nn.Tanh(), nn.Linear(6, 7))
    heads["b"][1].weight = encoder.emb.weight


def module(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = Reads(encoder.emb, nn.Linear(7, 2))


def two_decoders(heads: nn.ModuleDict, encoder: Any) -> None:
    for task in "bc":
        heads[task] = nn.Linear(6, 7)
        heads[task].weight = encoder.emb.weight


def one_decoder_for_two(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = heads["c"] = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 7))
    heads["b"][2].weight = encoder.emb.weight


def one_module_in_two(heads: nn.ModuleDict, encoder: Any) -> None:
    last = nn.Linear(7, 2)
    for task in "bc":
        heads[task] = Reads(encoder.emb, last)


def twice_in_one(heads: nn.ModuleDict, encoder: Any) -> None:
    last = nn.Linear(6, 7, bias=False)
    last.weight = encoder.emb.weight
    heads["b"] = nn.Sequential(last, nn.Linear(7, 6), nn.Tanh(), last)


def normed(heads: nn.ModuleDict, encoder: Any) -> None:
    weight_norm(encoder.emb)
    heads["b"] = weight_norm(nn.Linear(6, 7))
    for name in ("original0", "original1"):
        theirs = encoder.emb.parametrizations.weight
        setattr(heads["b"].parametrizations.weight, name, getattr(theirs, name))


KINDS = [parameter, beside_a_bias, module, two_decoders, one_decoder_for_two, one_module_in_two,
         twice_in_one, normed]  # fmt: skip


def build(
    kind: Callable[[nn.ModuleDict, Any], None], folder: Path, weighting: str = "EW", **changes: Any
) -> Any:
    """LibMTL's Trainer of a tied model; `emb` is split."""
    torch.manual_seed(0)
    heads = nn.ModuleDict({task: nn.Linear(6, 2) for task in TASKS})

    def encoder() -> nn.Module:
        made = Words()
        kind(heads, made)
        return made

    file = folder / "worst.json"
    layer = "emb.parametrizations.weight" if kind is normed else "emb"
    file.write_text(f'["{layer}"]')
    arch_args = {"recon_layers": str(file), "recon_k": 1, **changes.pop("arch_args", {})}
    given = {"encoder_class": encoder, "decoders": heads, "arch_args": arch_args}
    return make(folder, weighting, **given, **changes)


def losses(model: nn.Module) -> Tensor:
    found = model(IDS)
    return torch.stack([nn.functional.cross_entropy(found[t], LABELS[t]) for t in TASKS])


def train(trainer: Any, weighting: str = "EW") -> None:
    """Three steps, as LibMTL's Trainer makes them."""
    trainer.model.train()
    for _ in range(3):
        trainer.optimizer.zero_grad()
        trainer.model.backward(losses(trainer.model), **ARGS.get(weighting, {}))
        trainer.optimizer.step()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    named = dict(model.named_parameters(remove_duplicate=False))
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


def copies(model: nn.Module, task: str) -> set[int]:
    inside = f".tasks.{task}."
    return {id(p) for name, p in model.named_parameters() if inside in name}


def assert_tied(model: Any, plain: Any) -> None:
    """Each decoder holds what it held, its own task's copy in place of what is split."""
    theirs = {id(p) for p in plain.encoder.emb.parameters()}
    for task in TASKS:
        own = dict(plain.decoders[task].named_parameters(remove_duplicate=False))
        found = dict(model.decoders[task].named_parameters(remove_duplicate=False))
        assert list(found) == list(own)
        mine = copies(model.encoder, task)
        assert [id(p) in mine for p in found.values()] == [id(p) in theirs for p in own.values()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["EW", "GradOPS", "PCGrad"])
def test_a_tie_is_the_tasks_own_through_training(weighting: str, kind: Any, tmp_path: Path) -> None:
    plain = build(kind, tmp_path, arch="HPS").model.double()
    trainer = build(kind, tmp_path, weighting)
    model = trainer.model.double()
    assert_tied(model, plain)
    expected = {t: gradients(plain, loss) for t, loss in zip(TASKS, losses(plain), strict=True)}
    found = losses(model)
    assert torch.equal(found, losses(plain))
    model.zero_grad()
    model.backward(found, **ARGS.get(weighting, {}))
    for task in TASKS:
        for name, p in model.encoder.named_parameters():
            if f".tasks.{task}." in name:
                key = "encoder." + name.replace(f"tasks.{task}.", "")
                torch.testing.assert_close(p.grad, expected[task][key], rtol=1e-12, atol=1e-14)
        for name, p in model.decoders[task].named_parameters():
            if id(p) not in copies(model.encoder, task):
                key = f"decoders.{task}.{name}"
                users = [u for u in TASKS if any(p is q for q in model.decoders[u].parameters())]
                each = [expected[user][key] for user in users]
                torch.testing.assert_close(p.grad, sum(each), rtol=1e-12, atol=1e-14)
    trainer.model.float()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(trainer, weighting)
    assert not [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert_tied(trainer.model, plain)
    for other in (copy.deepcopy(model), model.to(torch.float64)):
        assert_tied(other, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_states_fresh_draws_and_extraction_keep_the_tie(kind: Any, tmp_path: Path) -> None:
    plain = build(kind, tmp_path, arch="HPS")
    train(plain)
    file = tmp_path / "plain.pt"
    torch.save({"model": plain.model.state_dict(), "optimizer": plain.optimizer.state_dict()}, file)
    split = build(kind, tmp_path, arch_args={"recon_from": str(file)})
    assert_tied(split.model, plain.model)
    assert torch.equal(losses(split.model), losses(plain.model))
    states = plain.optimizer.state_dict()["state"]
    known = dict(zip([id(p) for p in plain.model.parameters()], states.values(), strict=True))
    want = [known[id(p)]["exp_avg"] for p in plain.model.encoder.emb.parameters()]
    for task in TASKS:
        own = [
            p
            for p in split.model.encoder.parameters()
            if id(p) in copies(split.model.encoder, task)
        ]
        for p, expected in zip(own, want, strict=True):
            assert torch.equal(split.optimizer.state[p]["exp_avg"], expected)
    train(split)
    again = build(kind, tmp_path)
    again.model.load_state_dict(split.model.state_dict())
    assert_tied(again.model, plain.model)
    assert torch.equal(losses(again.model), losses(split.model))
    for task in TASKS:
        found: Any = extract_task(split.model, task)
        assert torch.equal(found(IDS), split.model(IDS)[task])
        inside = {id(p) for p in found.encoder.emb.parameters()}
        theirs = {id(p) for p in plain.model.encoder.emb.parameters()}
        held = [id(p) in theirs for p in plain.model.decoders[task].parameters()]
        assert [id(p) in inside for p in found.decoder.parameters()] == held
    if kind is not normed:
        fresh = build(kind, tmp_path, arch_args={"recon_init": "fresh"}).model
        assert_tied(fresh, plain.model)
        drawn = [fresh.encoder.emb.tasks.get_submodule(task).weight for task in TASKS]
        assert not torch.equal(drawn[0], drawn[1])


def test_a_tie_to_a_layer_that_stays_shared_stays(tmp_path: Path) -> None:
    file = tmp_path / "mix.json"
    file.write_text('["mix"]')
    trainer = build(parameter, tmp_path, "GradOPS", arch_args={"recon_layers": str(file)})
    train(trainer, "GradOPS")
    assert trainer.model.decoders["b"].weight is trainer.model.encoder.emb.weight
    assert [p is trainer.model.encoder.emb.weight for p in trainer.model.get_share_params()] == [
        True
    ]


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.two(self.norm(torch.tanh(self.one(x)))))


def test_over_a_base_whose_names_begin_at_the_model(tmp_path: Path) -> None:
    from test_libmtl import batches as rows

    file = tmp_path / "expert.json"
    file.write_text('["experts_shared.1.two"]')
    made: list[Any] = []
    split = {"recon_layers": str(file), "recon_k": 1, "recon_base": "MMoE"}
    for arch, more in (("MMoE", {}), ("Recon", split)):
        torch.manual_seed(0)
        heads = nn.ModuleDict({task: nn.Linear(6, 6) for task in TASKS})
        experts: list[Rows] = []

        def encoder(heads: nn.ModuleDict = heads, experts: list[Rows] = experts) -> nn.Module:
            experts.append(Rows())
            heads["b"].weight = experts[-1].two.weight  # the last expert's
            return experts[-1]

        arch_args = {"img_size": [5], "num_experts": [2], **more}
        made.append(make(tmp_path, arch=arch, encoder_class=encoder, decoders=heads,
                         arch_args=arch_args))  # fmt: skip
    plain, trainer = made[0].model, made[1]
    model = trainer.model
    own = model.experts_shared[1].two.tasks
    assert model.decoders["b"].weight is own.b.weight
    assert type(model.decoders["b"]) is nn.Linear
    x, labels = rows()[0]
    found, expected = model(x), plain(x)
    for task in TASKS:
        assert type(found[task]) is Tensor
        assert torch.equal(found[task], expected[task])
    for task in TASKS:
        model.zero_grad()
        plain.zero_grad()
        nn.functional.cross_entropy(model(x)[task], labels[task]).backward()
        nn.functional.cross_entropy(plain(x)[task], labels[task]).backward()
        torch.testing.assert_close(
            own.get_submodule(task).weight.grad, plain.experts_shared[1].two.weight.grad
        )
    trainer.train(rows(), rows(), 1)
    assert model.decoders["b"].weight is own.b.weight
    assert not torch.equal(own.a.weight, own.c.weight)


def list_of_its_own(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = nn.Linear(6, 7)
    heads["b"].held = [encoder.emb.weight]


def test_what_torch_does_not_know_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"without being registered with torch.*'held' of "
        r"decoders\.b",
    ):
        build(list_of_its_own, tmp_path)
    network = Words()
    network.held = {"first": network.emb.weight}
    with pytest.raises(UsageError, match="'held' of Words"):
        split_layers(network, ["emb"], ["a", "b"])


def counts(folder: Path, weighting: str, **changes: Any) -> Any:
    """Return the counts of each layer after one scored step of an unsplit tied model."""
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(parameter, folder, weighting, arch="HPS", **changes)
        # Scoring begins where training does.
        trainer.model.backward(losses(trainer.model), **ARGS.get(weighting, {}))
    profile = hook.profile()
    assert profile is not None
    return profile.histogram


@pytest.mark.parametrize(("weighting", "changes"), [
    ("GradOPS", {}), ("MGDA", {"rep_grad": True}), ("RotoGrad", {}),
])  # fmt: skip
def test_scoring_counts_a_decoders_share_of_a_shared_layer_once(
    weighting: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert (counts(tmp_path, weighting, **changes) == counts(tmp_path, "EW")).all()


def same_memory(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = nn.Linear(6, 7)
    heads["b"].weight.data = encoder.emb.weight.data


def test_ties_by_memory_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"memory.*\(got 'emb'\).*The other parameter is "
        r"decoders\.b\.weight",
    ):
        build(same_memory, tmp_path)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = nn.Parameter(network[0].weight.detach()[1:])
    with pytest.raises(UsageError, match=r"memory.*\(got '0'\).*The other parameter is 1\.weight"):
        split_layers(network, ["0"], ["a", "b"])


class Reaches(nn.Module):
    """Uses the encoder's embedding without holding it as a part."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.inside, self.last = [encoder], nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x @ self.inside[0].emb.weight.T)


def reaching(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = Reaches(encoder)


def test_a_decoder_that_reaches_into_the_encoder_uses_its_tasks_copy(tmp_path: Path) -> None:
    plain = build(reaching, tmp_path, arch="HPS").model
    trainer = build(reaching, tmp_path, "GradOPS")
    found = trainer.model(IDS)
    assert all(type(prediction) is Tensor for prediction in found.values())
    assert torch.equal(losses(trainer.model), losses(plain))
    trainer.model.backward(losses(trainer.model), **ARGS["GradOPS"])
    for task, loss in zip(TASKS, losses(plain), strict=True):
        expected = gradients(plain, loss)["encoder.emb.weight"]
        own = trainer.model.encoder.emb.tasks.get_submodule(task).weight
        torch.testing.assert_close(own.grad, expected)


class Buffered(nn.Module):
    def __init__(self, emb: nn.Module) -> None:
        super().__init__()
        self.emb = emb
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.emb.weight.T


def buffered(heads: nn.ModuleDict, encoder: Any) -> None:
    heads["b"] = heads["c"] = Buffered(encoder.emb)


def test_a_shared_decoder_with_buffers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"decoders\.b shares Buffered"):
        build(buffered, tmp_path)


def test_a_rotation_cannot_go_into_a_tied_weight(tmp_path: Path) -> None:
    model = build(parameter, tmp_path, "RotoGrad").model
    turned(model, losses(model))
    with pytest.raises(ReconError, match=r"rotation of task 'b' cannot be merged.*encoder\.emb"):
        extract_task(model, "b")
    assert torch.allclose(extract_task(model, "a")(IDS), model(IDS)["a"], atol=1e-6)


class Whole(nn.Module):
    """Encoder and heads in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Words()
        self.heads = nn.ModuleDict({task: nn.Linear(6, 7, bias=False) for task in "ab"})
        self.heads["a"].weight = self.encoder.emb.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rep = self.encoder(x)
        return {task: head(rep) for task, head in self.heads.items()}


def test_as_a_library_a_tie_inside_the_network_is_kept() -> None:
    torch.manual_seed(0)
    plain = Whole().double()
    split: Any = split_layers(copy.deepcopy(plain), ["encoder.emb"], ["a", "b"])
    assert split.heads["a"].tasks.a.weight is split.encoder.emb.tasks.a.weight
    networks = {task: copy.deepcopy(plain) for task in "ab"}
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    for _ in range(3):
        found = split(IDS)
        for place, task in enumerate("ab"):
            assert torch.equal(found[task].parts[place], networks[task](IDS)[task])
        loss = [nn.functional.cross_entropy(found[t].parts[i], LABELS[t]) for i, t in
                enumerate("ab")]  # fmt: skip
        optimizer.zero_grad()
        sum(loss).backward()
        shared = split.encoder.mix.weight.grad.clone()
        for task in "ab":
            networks[task].zero_grad()
            nn.functional.cross_entropy(networks[task](IDS)[task], LABELS[task]).backward()
        each = [networks[task].encoder.mix.weight.grad for task in "ab"]
        torch.testing.assert_close(shared, sum(each), rtol=1e-12, atol=1e-14)
        for task in "ab":
            own = split.encoder.emb.tasks.get_submodule(task).weight.grad
            expected = networks[task].encoder.emb.weight.grad
            torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)
        optimizer.step()
        for task in "ab":
            state = extract_task(split, task).state_dict()
            networks[task].load_state_dict(state)
    assert split.heads["a"].tasks.a.weight is split.encoder.emb.tasks.a.weight
