"""Attention in evaluation: one function for split, unsplit, taken-out and exported networks."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from plain import Twins
from torch import Tensor, nn

from libmtl_recon import extract_task, only_task, split_layers
from libmtl_recon.splitting.attention import evaluate_as_trained

LENGTH, WIDTH, ROWS = 5, 8, 4
# What torch's fast path says of itself.
NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


@pytest.fixture(autouse=True)
def _fast_path_as_torch_starts() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def padding() -> Tensor:
    """``[B, L]``, True where it is padded: the last positions, and the whole of the second row."""
    pad = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    pad[:, 3:], pad[0, 2:], pad[1] = True, True, True
    return pad


def as_numbers(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
MASKS: dict[str, tuple[Tensor | None, Tensor | None]] = {
    "none": (None, None),
    "padding": (None, padding()),
    "numbers": (None, as_numbers(padding())),
    "attention": (CAUSAL, None),
    "both": (CAUSAL, padding()),
    "both-numbers": (as_numbers(CAUSAL), as_numbers(padding())),
}


class Masked(nn.Module):
    """Layers before and behind a transformer, whose output is averaged over all positions."""

    def __init__(self, masks: str, *, nested: bool = True, **kind: Any) -> None:
        super().__init__()
        kind = {"batch_first": True, "dropout": 0.0, **kind}
        self.attention, self.padding = MASKS[masks]
        self.first = kind["batch_first"]
        self.before = nn.Linear(WIDTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, **kind)
        self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.behind = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = x if self.first else x.transpose(0, 1)
        x = self.inner(x, mask=self.attention, src_key_padding_mask=self.padding)
        x = self.behind(x)
        return x.mean(1 if self.first else 0)


class Alone(nn.Module):
    """Attention by itself, with its weights."""

    def __init__(self, masks: str, *, weights: bool) -> None:
        super().__init__()
        self.attention, self.padding = MASKS[masks]
        self.weights = weights
        self.before = nn.Linear(WIDTH, WIDTH)
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.behind = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        out, _ = self.inner(
            x, x, x, self.padding, need_weights=self.weights, attn_mask=self.attention
        )
        return self.behind(out)


class Translating(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, masks: str) -> None:
        super().__init__()
        self.attention, self.padding = MASKS[masks]
        self.inner = nn.Transformer(WIDTH, 2, 1, 1, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(
            x,
            x.flip(1),
            src_mask=self.attention,
            src_key_padding_mask=self.padding,
            memory_key_padding_mask=self.padding,
        )


WHERE = {
    "before": ["before"],
    "inside attention": ["inner.layers.1.self_attn"],
    "projection": ["inner.layers.0.self_attn.out_proj"],
    "second linear": ["inner.layers.0.linear2", "inner.layers.1.linear1"],
    "norm": ["inner.layers.1.norm2"],
    "behind": ["behind"],
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "not nested": {"nested": False},
    "norm first": {"nested": False, "norm_first": True},
    "sequence first": {"nested": False, "batch_first": False},
    "gelu": {"activation": "gelu"},
    "own activation": {"nested": False, "activation": nn.functional.silu},
}


@contextlib.contextmanager
def trained_mode(network: nn.Module) -> Iterator[None]:
    network.train()
    with torch.no_grad():
        yield
    network.eval()


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "with gradients": lambda _: contextlib.nullcontext(),
    "no_grad": lambda _: torch.no_grad(),
    "inference_mode": lambda _: torch.inference_mode(),
    "training without gradients": trained_mode,
}


def check(network: nn.Module, layers: list[str], *, numbers_may_lack: bool = False) -> None:
    """All ways of computing each task's output give one output."""
    torch.manual_seed(1)
    x = torch.randn(ROWS, LENGTH, WIDTH, dtype=torch.float64)
    twins = Twins(network.eval(), layers)
    twins.split.eval()
    expected = {task: plain.eval()(x).detach() for task, plain in twins.plain.items()}
    same = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": numbers_may_lack}
    for way, context in WAYS.items():
        with context(twins.split):
            found = twins.split(x).by_task()
            for task, value in found.items():
                torch.testing.assert_close(value, expected[task], msg=f"{way} {task}", **same)
        task = twins.tasks[1]
        for plain in (twins.plain[task], extract_task(twins.split, task)):
            with context(plain):
                torch.testing.assert_close(plain(x), expected[task], msg=way, **same)
        with only_task(twins.split, task), context(twins.split):
            torch.testing.assert_close(twins.split(x), expected[task], msg=way, **same)


@pytest.mark.parametrize(
    ("kind", "masks"),
    [*(("plain", masks) for masks in MASKS), *itertools.product(list(KINDS)[1:], ["both"])],
)
def test_a_transformer_is_evaluated_as_it_is_trained(kind: str, masks: str) -> None:
    torch.manual_seed(0)
    for layers in WHERE.values():
        check(Masked(masks, **KINDS[kind]), layers)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("masks", MASKS)
def test_attention_alone(masks: str, weights: bool) -> None:
    """With its weights, a row that is padded throughout has none: no number, as in training."""
    torch.manual_seed(0)
    for layers in (["before"], ["inner"], ["inner.out_proj"], ["behind"]):
        check(Alone(masks, weights=weights), layers, numbers_may_lack=weights)


@pytest.mark.parametrize("masks", ["none", "padding", "both"])
def test_encoder_and_decoder(masks: str) -> None:
    torch.manual_seed(0)
    for layer in ("encoder.layers.0.linear1", "decoder.layers.0.multihead_attn", "decoder.norm"):
        check(Translating(masks), [f"inner.{layer}"])


def split_transformer(layers: list[str], masks: str = "padding") -> nn.Module:
    torch.manual_seed(0)
    return split_layers(Masked(masks).eval(), layers, ["a", "b"])


@pytest.mark.parametrize("where", ["before", "inside attention"])
def test_an_exported_program_is_the_network(where: str) -> None:
    split, x = split_transformer(WHERE[where]), torch.randn(ROWS, LENGTH, WIDTH)
    with torch.no_grad():
        expected = split(x)
        programs = [torch.export.export(extract_task(split, task), (x,)) for task in "ab"]
        found = [program.module()(x) for program in programs]
    for part, one in zip(expected.parts, found, strict=True):
        torch.testing.assert_close(one, part)


@pytest.mark.parametrize("where", WHERE)
def test_under_autocast(where: str) -> None:
    split, x = split_transformer(WHERE[where]), torch.randn(ROWS, LENGTH, WIDTH)
    found = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            found += [split(x)["b"], extract_task(split, "b")(x)]
    for value in found:
        assert torch.equal(value, found[0])


@NESTED
def test_holds_from_the_split_on_and_after_a_script_switched_back() -> None:
    plain, x = Masked("padding").eval(), torch.randn(ROWS, LENGTH, WIDTH)
    with torch.no_grad():
        other = plain(x)
    split = split_layers(copy.deepcopy(plain), ["inner.layers.1.self_attn"], ["a", "b"])
    assert not torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.no_grad():
        assert torch.equal(split(x)["a"], plain(x))
    assert not torch.allclose(plain(x), other), "the fast path gives zeros at padded positions"


def test_a_network_that_comes_from_a_file_says_it_too() -> None:
    split = split_transformer(["behind"])
    copied = copy.deepcopy(split)
    for make in (lambda: copy.deepcopy(split), lambda: extract_task(copied, "a")):
        torch.backends.mha.set_fastpath_enabled(True)
        make()
        assert not torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("lstm", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("where", ["before", "inner", "behind"])
def test_recurrent_layers_have_no_other_function(lstm: type[nn.Module], where: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.behind = nn.Linear(WIDTH, WIDTH), nn.Linear(6, 3)
            self.inner = lstm(WIDTH, 6, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.behind(self.inner(self.before(x))[0])

    torch.manual_seed(0)
    check(Recurrent(), [where])


@NESTED
def test_torch_still_has_the_other_function() -> None:
    """If this fails, torch evaluates as it trains, and nothing of ours is needed any more."""
    network, x = Masked("padding").eval(), torch.randn(ROWS, LENGTH, WIDTH)
    found = []
    for switch, gradients in itertools.product([True, False], repeat=2):
        torch.backends.mha.set_fastpath_enabled(switch)
        with torch.set_grad_enabled(gradients):
            found.append(network(x).detach())
    assert [torch.allclose(value, found[0]) for value in found] == [True, False, True, True]
    evaluate_as_trained()
    assert not torch.backends.mha.get_fastpath_enabled()
