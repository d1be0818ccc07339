"""T plain networks beside a split one: what a split network must equal."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from libmtl_recon.splitting import TaskTensor, split_layers, task_parameters


class Twins:
    """A split network, and a plain one for each task that holds that task's values.

    Args:
        network: Not changed; copied, in float64, so that sums over tasks compare closely.
        layers: To split.
        tasks: Their names.
    """

    def __init__(
        self, network: nn.Module, layers: list[str], tasks: tuple[str, ...] = ("a", "b")
    ) -> None:
        network = copy.deepcopy(network).double()
        self.tasks = tasks
        self.plain = {task: copy.deepcopy(network) for task in tasks}
        self.split = split_layers(copy.deepcopy(network), layers, tasks)
        self._part_ways()
        self.copy_parameters()

    def _part_ways(self) -> None:
        """Make the tasks' copies differ, so that one taken for another is seen."""
        torch.manual_seed(5)
        with torch.no_grad():
            for task in self.tasks:
                for value in task_parameters(self.split, task).values():
                    if isinstance(value, nn.Parameter):
                        value.add_(0.05 * torch.randn_like(value))

    def copy_parameters(self) -> None:
        """Give each plain network the split network's parameters for its task."""
        shared = dict(self.split.named_parameters())
        with torch.no_grad():
            for task, plain in self.plain.items():
                own = task_parameters(self.split, task)
                for name, parameter in plain.named_parameters():
                    parameter.copy_(own[name] if name in own else shared[name])

    def outputs(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs of the split network and of the plain ones for each task."""
        x = x.double()
        out = self.split(x)
        ours = list(out.parts) if type(out) is TaskTensor else [out] * len(self.tasks)
        return ours, [self.plain[task](x) for task in self.tasks]

    def assert_equal(self, x: Tensor) -> None:
        """Equal to the last bit, for each task."""
        for task, ours, theirs in zip(self.tasks, *self.outputs(x), strict=True):
            assert torch.equal(ours, theirs), f"task {task}: {(ours - theirs).abs().max()}"

    def train_step(self, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """One step of the split network, its gradients checked against the plain networks'."""
        ours, theirs = self.outputs(x)
        self.split.zero_grad()
        total(ours).backward()
        for plain in self.plain.values():
            plain.zero_grad()
        total(theirs).backward()
        self._assert_gradients()
        optimizer.step()
        self.copy_parameters()

    def _assert_gradients(self) -> None:
        found = {
            task: dict(plain.named_parameters(remove_duplicate=False))
            for task, plain in self.plain.items()
        }
        own = {task: task_parameters(self.split, task) for task in self.tasks}
        for task in self.tasks:
            for name, parameter in own[task].items():
                if isinstance(parameter, nn.Parameter):
                    assert torch.equal(parameter.grad, found[task][name].grad), (task, name)
        for name, parameter in self.split.named_parameters():
            if name in found[self.tasks[0]]:
                expected = [found[task][name].grad for task in self.tasks]
                expected = [gradient for gradient in expected if gradient is not None]
                torch.testing.assert_close(parameter.grad, sum(expected), rtol=1e-9, atol=1e-12)


def total(outputs: list[Tensor]) -> Tensor:
    """A loss in which each task counts differently."""
    return sum((index + 1) * out.square().mean() for index, out in enumerate(outputs))
