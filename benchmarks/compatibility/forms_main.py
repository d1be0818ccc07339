"""The closed forms of the weightings that LibMTL's main branch added, written from their papers.

If LibMTL departs from a paper, the form follows LibMTL, and its docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import nnls
from torch import Tensor

from benchmarks.compatibility.forms import FORMS, Form, Unknown, by_gradients, by_losses
from benchmarks.compatibility.watching import Expected, Step

_SOLVED = 1e-3  # relative: how far from a solution LibMTL's iterative solvers may stop


class NashMTL(Form):
    """Loss weights with M w = 1 / w, for the scaled Gramian M; the shared gradient is clipped."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, weights = step.matrix(), step.weights
        gramian = gradients @ gradients.T
        gramian /= gramian.norm()  # as LibMTL and the authors; it determines the weights' size
        off = float((weights * (gramian @ weights) - 1).abs().max())
        faults = [f"the weights miss the bargaining solution by {off:.1g}"] * (off > _SOLVED)
        update = weights @ gradients
        update *= min(1.0, step.args["max_norm"] / float(update.norm() + 1e-6))
        return Expected(update, weights, weights, faults=faults)


class MoCo(Form):
    """Tracked gradients, weighted by projected descent on the simplex.

    LibMTL tracks unit gradients times their losses, and uses a softmax instead of the projection.
    """

    def __init__(self) -> None:
        self.count = 0
        self.tracked: Tensor | None = None
        self.weights = torch.empty(0)

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, tasks, args = step.matrix(), step.tasks, step.args
        seen = step.losses[:, None] * gradients / gradients.norm(dim=1, keepdim=True)
        if self.tracked is None:
            self.tracked, self.weights = torch.zeros_like(seen), torch.ones(tasks) / tasks
        self.count += 1
        beta = args["MoCo_beta"] / self.count ** args["MoCo_beta_sigma"]
        gamma = args["MoCo_gamma"] / self.count ** args["MoCo_gamma_sigma"]
        self.tracked = (1 - beta) * self.tracked + beta * seen
        slope = self.tracked @ (self.tracked.T @ self.weights) + args["MoCo_rho"] * self.weights
        self.weights = torch.softmax(self.weights - gamma * slope, 0)
        ones = torch.ones(tasks)
        return Expected(self.weights @ self.tracked, ones, ones)


class AlignedMTL(Form):
    """The gradients with all singular values set to the least."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        left, sizes, _ = torch.linalg.svd(step.deciding(), full_matrices=False)
        weights = sizes.min() * (left / sizes) @ left.sum(0)
        return by_gradients(step, weights)


class DBMTL(Form):
    """Gradients of log losses, averaged over time, all scaled to the length of the longest."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        self.count += 1
        beta = step.args["DB_beta"] / self.count ** step.args["DB_beta_sigma"]
        logs = 1 / step.losses
        self.mean = beta * self.mean + (1 - beta) * logs[:, None] * step.matrix()
        lengths = self.mean.norm(dim=1)
        return Expected((lengths.max() / lengths) @ self.mean, logs, logs)


class STCH(Form):
    """The smooth maximum of the losses.

    As in the authors' code for neural networks, it is T times the smooth maximum of the log losses
    relative to their means in the last epoch of the warm-up; until then, the log losses are summed.
    """

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        weights, last = 1 / step.losses, step.args["STCH_warmup_epoch"]
        if step.epoch > last:
            relative = (step.losses / step.history[last]).log() / step.args["STCH_mu"]
            weights = step.tasks * torch.softmax(relative, 0) * weights
        return by_losses(step, weights)


class ExcessMTL(Form):
    """Loss weights that grow with the estimated excess risk, relative to the first estimate.

    LibMTL scales the weights to a sum of T.
    """

    def __init__(self) -> None:
        self.squares: Tensor | float = 0.0
        self.first: Tensor | None = None
        self.weights = torch.empty(0)

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients = step.matrix()
        self.squares = self.squares + gradients**2
        risks = torch.einsum("td,td,td->t", gradients, 1 / (self.squares + 1e-7).sqrt(), gradients)
        if self.first is None:
            self.first, self.weights = risks, torch.ones(step.tasks)
        else:
            grown = self.weights * torch.exp(step.args["robust_step_size"] * risks / self.first)
            self.weights = step.tasks * grown / grown.sum()
        return by_losses(step, self.weights)


class FairGrad(Form):
    """Loss weights with M w = w^(-1/alpha)."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, weights = step.matrix(), step.weights
        sides = (gradients @ (gradients.T @ weights)) * weights ** (1 / step.args["FairGrad_alpha"])
        off = float((sides - 1).abs().max())
        faults = [f"the weights miss the fair solution by {off:.1g}"] * (not off < _SOLVED)
        return by_losses(step, weights, faults=faults)


class FAMO(Form):
    """Loss weights z / loss with sum 1; z is trained by the decrease of each log loss."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.before = torch.empty(0)

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        if self.logits is None:
            self.logits = torch.zeros(step.tasks, requires_grad=True)
            rate, decay = step.args["FAMO_w_lr"], step.args["FAMO_w_gamma"]
            self.adam = torch.optim.Adam([self.logits], lr=rate, weight_decay=decay)
        elif step.afterwards is not None:
            fell = self.before.log() - step.afterwards.log()
            (slope,) = torch.autograd.grad(torch.softmax(self.logits, 0) @ fell, self.logits)
            self.logits.grad = slope
            self.adam.step()
        self.before = step.losses
        weights = torch.softmax(self.logits.detach(), 0) / step.losses
        return by_losses(step, weights / weights.sum())


def on_simplex_nearest(point: Tensor) -> Tensor:
    """Return the nearest point of the simplex; the amount to subtract is found by bisection."""
    low, high = point.min() - 1, point.max()
    for _ in range(100):
        middle = (low + high) / 2
        over = (point - middle).clamp(min=0).sum() > 1
        low, high = (middle, high) if over else (low, middle)
    return (point - high).clamp(min=0)


class MoDo(Form):
    """Projected descent on the simplex with two batches, and the update with a third.

    The decoders get the mean of the three batches' gradients; in LibMTL, other parameters of a
    single task get their sum.
    """

    def __init__(self) -> None:
        self.weights: Tensor | None = None

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        first, second, third = (step.matrix(sample) for sample in range(3))
        if self.weights is None:
            self.weights = torch.ones(step.tasks) / step.tasks
        slope = first @ (second.T @ self.weights) + step.args["MoDo_rho"] * self.weights
        self.weights = on_simplex_nearest(self.weights - step.args["MoDo_gamma"] * slope)
        ones = torch.ones(step.tasks)
        return Expected(self.weights @ third, ones, ones / 3)


class SDMGrad(Form):
    """MoDo with a pull towards the mean gradient, and many steps for the weights.

    LibMTL's steps have momentum, a rate of 5 and a scaled Gramian. The parameters of a single task
    get the sum of the three batches' gradients.
    """

    def __init__(self) -> None:
        self.weights: Tensor | None = None

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        batch, first, second = (step.matrix(sample) for sample in range(3))
        if self.weights is None:
            self.weights = torch.ones(step.tasks) / step.tasks
        pull = step.args["SDMGrad_lamda"]
        gramian = first @ second.T
        gramian = gramian / (gramian.diagonal().clamp(min=0).sqrt().mean() ** 2 + 1e-8)
        velocity = torch.zeros(step.tasks)
        for _ in range(step.args["SDMGrad_niter"]):
            velocity = 0.5 * velocity + gramian @ self.weights + pull * gramian.mean(1)
            self.weights = on_simplex_nearest(self.weights - 5 * velocity)
        update = (self.weights @ batch + pull * batch.mean(0)) / (1 + pull)
        ones = torch.ones(step.tasks)
        return Expected(update, ones, ones)


class UPGrad(Form):
    """The mean of the gradients' projections onto the cone in which no loss grows.

    As in the authors' code, the Gramian has trace 1, and a small number is added to its diagonal.
    """

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients = step.matrix()
        gramian = gradients @ gradients.T
        trace = gramian.trace()
        gramian = gramian / trace if trace >= step.args["UPGrad_norm_eps"] else gramian * 0
        root = torch.linalg.cholesky(gramian + step.args["UPGrad_reg_eps"] * torch.eye(step.tasks))
        weights = torch.zeros(step.tasks)
        for wish in torch.eye(step.tasks) / step.tasks:
            # Proposition 1: the least v'Mv with v at least the wish, so v = wish + slack.
            slack, _ = nnls(root.T.numpy(), -(root.T @ wish).numpy())
            weights += wish + torch.tensor(slack)
        return by_gradients(step, weights)


_MAIN: dict[str, Callable[[], Form]] = {
    "Nash_MTL": NashMTL,
    "MoCo": MoCo,
    "Aligned_MTL": AlignedMTL,
    "DB_MTL": DBMTL,
    "STCH": STCH,
    "ExcessMTL": ExcessMTL,
    "FairGrad": FairGrad,
    "FAMO": FAMO,
    "MoDo": MoDo,
    "SDMGrad": SDMGrad,
    "UPGrad": UPGrad,
}


def make_form(weighting: str) -> Form:
    """Create the closed form of a weighting of LibMTL or of this package, for one training run."""
    return {**FORMS, **_MAIN}.get(weighting, Unknown)()
