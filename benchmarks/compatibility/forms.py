"""The closed forms of LibMTL's weightings, written from their papers for these tests only.

A form is created for one training run, keeps the state that its method keeps, and computes the
gradients that a step should produce. If a method solves an optimisation problem, the weights that
LibMTL returned are used, and the optimality conditions are tested instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.compatibility.watching import Expected, Step

_CLOSE = 1e-3  # how far from optimal LibMTL's iterative solvers may stop


def by_losses(step: Step, weights: Tensor, **more: Any) -> Expected:
    """Return the gradients of a weighting of losses: every parameter gets the weighted sum."""
    return Expected(weights @ step.matrix(), weights, weights, **more)


def by_gradients(step: Step, weights: Tensor, **more: Any) -> Expected:
    """Return the gradients of a weighting of shared gradients; decoders get their own, unweighted.

    With ``rep_grad``, the weights also apply to the encoder's task-specific layers, since all of
    the encoder is trained by the gradients of the representation.
    """
    ones = torch.ones(step.tasks)
    return Expected(weights @ step.matrix(), weights if step.rep_grad else ones, ones, **more)


def on_simplex(weights: Tensor) -> list[str]:
    """Return a fault if the weights are not those of a convex combination."""
    good = bool((weights > -1e-6).all()) and abs(float(weights.sum()) - 1) < 1e-5
    return [] if good else [f"the weights {weights.tolist()} do not lie on the simplex"]


class Form:
    """Base class of closed forms, without a state."""

    watched = True
    checked = True
    dtype = torch.float64  # so that rounding hides no error

    def __call__(self, step: Step) -> Expected | None:
        """Return the gradients that a step should produce; None if they are not known."""
        raise NotImplementedError


class Unknown(Form):
    """A weighting without a closed form: only that all parameters change is tested."""

    checked = False

    def __call__(self, step: Step) -> None:
        """Return None."""


class Bilevel(Unknown):
    """MOML, FORUM and AutoLambda, which train copies of the model inside each step."""

    watched = False
    dtype = torch.float32  # the dtype of LibMTL's task weights


class EW(Form):
    """All weights are 1."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        return by_losses(step, torch.ones(step.tasks))


class UW(Form):
    """Weights exp(-s)/2, and s learned by the regularised loss."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        scale = step.parameters["loss_scale"]
        weights = 1 / (2 * scale.exp())
        return by_losses(step, weights, own={"loss_scale": 0.5 - weights * step.losses})


class RLW(Form):
    """Random weights; those that LibMTL drew are used."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        return by_losses(step, step.weights, faults=on_simplex(step.weights))


class DWA(Form):
    """Weights that depend on how fast each loss decreased in the last two epochs."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        weights = torch.ones(step.tasks)
        if step.epoch > 1:
            pace = step.history[-1] / step.history[-2]
            weights = step.tasks * torch.softmax(pace / step.args["T"], 0)
        return by_losses(step, weights)


class GLS(Form):
    """The geometric mean of the losses: weights mean / (T loss)."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        mean = step.losses.log().mean().exp()
        return by_losses(step, mean / (step.tasks * step.losses))


class GradNorm(Form):
    """Learned weights, with which all tasks train at one rate; equal in the first epoch."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        if step.epoch < 1:
            return by_losses(step, torch.ones(step.tasks))
        scale = step.parameters["loss_scale"].clone().requires_grad_()
        weights = step.tasks * torch.softmax(scale, 0)
        norms = weights * step.deciding().norm(dim=1)
        pace = step.losses / step.history[0]
        target = (norms.mean() * (pace / pace.mean()) ** step.args["alpha"]).detach()
        (own,) = torch.autograd.grad((norms - target).abs().sum(), scale)
        return by_gradients(step, weights.detach(), own={"loss_scale": own})


class MGDA(Form):
    """The convex combination of least norm."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gramian = step.deciding() @ step.deciding().T
        weights = step.weights
        faults = on_simplex(weights)
        if step.tasks == 2:
            gap = gramian[1, 1] - gramian[0, 1]
            best = float(gap / (gramian[0, 0] - gramian[0, 1] + gap))
            if not 0 < best < 1:  # one gradient alone is the shortest; LibMTL uses 0.001 for 0
                best = min(max(best, 0.001), 0.999)
            wrong = abs(float(weights[0]) - best) > 1e-6
        else:
            least = float(weights @ gramian @ weights)
            wrong = float((gramian @ weights).min()) < least - _CLOSE * float(gramian.max())
        faults += ["the combination is not of least norm"] * wrong
        return by_gradients(step, weights, faults=faults)


class PCGrad(Form):
    """Each gradient without its components that oppose others, removed in random order."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, draw = step.matrix(), random.Random()
        draw.setstate(step.random_state)
        total = torch.zeros_like(gradients[0])
        for own in range(step.tasks):
            order = list(range(step.tasks))
            draw.shuffle(order)
            vector = gradients[own].clone()
            for other in order:
                along = vector @ gradients[other]
                if other != own and along < 0:
                    vector -= along / (gradients[other] @ gradients[other]) * gradients[other]
            total += vector
        ones = torch.ones(step.tasks)
        return Expected(total, ones, ones)


class GradVac(Form):
    """Each gradient is turned until its cosines with the others reach their running means."""

    def __init__(self) -> None:
        self.target: Tensor | None = None

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, draw = step.matrix(), random.Random()
        draw.setstate(step.random_state)
        if self.target is None:
            self.target = torch.zeros(step.tasks, step.tasks)
        beta = step.args["GradVac_beta" if "GradVac_beta" in step.args else "beta"]
        total = torch.zeros_like(gradients[0])
        for own in range(step.tasks):
            order = [other for other in range(step.tasks) if other != own]
            draw.shuffle(order)
            vector = gradients[own].clone()
            for other in order:
                towards = gradients[other]
                cosine = torch.cosine_similarity(vector, towards, dim=0)
                goal = self.target[own, other].clone()
                self.target[own, other] = (1 - beta) * goal + beta * cosine
                if cosine < goal:
                    sine, wanted = (1 - cosine**2).sqrt(), (1 - goal**2).sqrt()
                    length = vector.norm() * (goal * sine - cosine * wanted)
                    vector = vector + length / (towards.norm() * wanted) * towards
            total += vector
        ones = torch.ones(step.tasks)
        return Expected(total, ones, ones)


class CAGrad(Form):
    """The mean gradient, moved towards the worst task within a ball around it."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients, weights, c = step.matrix(), step.weights, step.args["calpha"]
        mean = gradients.mean(0)
        radius = c * mean.norm()
        worst = weights @ gradients
        faults = on_simplex(weights)
        # At the minimum of w.g0 + r |w G|, no vertex of the simplex lies downhill.
        slope = gradients @ (mean + radius * worst / worst.norm())
        if float(slope.min() - weights @ slope) < -1e-2 * float(slope.abs().max()):
            faults.append("the weights do not minimise the dual")
        update = mean + radius / worst.norm() * worst
        update = update / (1, 1 + c**2, 1 + c)[step.args["rescale"]]
        ones = torch.ones(step.tasks)
        return Expected(update, ones, ones, faults=faults)


class GradDrop(Form):
    """For each entry of the representation's gradient, the values of one randomly chosen sign."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        sample, leak = step.samples[0], step.args["leak"]
        gradients = torch.stack(sample.rep_gradients)
        signed = (gradients * torch.stack(sample.reps).detach().sign()).sum(1)
        positive = 0.5 * (1 + signed.sum(0) / (signed.abs().sum(0) + 1e-7))
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(step.torch_state)
            draw = torch.rand_like(positive)
        kept = ((positive > draw) & (signed > 0)) | ((positive < draw) & (signed < 0))
        masked = gradients * (leak + (1 - leak) * kept.unsqueeze(1))
        ones = torch.ones(step.tasks)
        return Expected(None, ones, ones, whole=step.pull(list(masked)))


class IMTL(Form):
    """The combination with equal projections on the gradients of all scaled losses."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        scale = step.parameters["loss_scale"].exp()
        gradients = scale[:, None] * step.deciding()
        units = gradients / gradients.norm(dim=1, keepdim=True)
        # Equal projections on all units, and weights that add up to 1.
        rows = (units[:1] - units[1:]) @ gradients.T
        system = torch.cat([rows, torch.ones(1, step.tasks)])
        alpha = torch.linalg.solve(system, torch.eye(step.tasks)[-1])
        own = {"loss_scale": scale * step.losses - 1}
        weights = alpha * scale
        specific = weights if step.rep_grad else scale
        return Expected(weights @ step.matrix(), specific, scale, own=own)


class GradOPS(Form):
    """Conflicting gradients minus their projections onto the span of the others, reweighted."""

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients = step.matrix()
        projected = gradients.clone()
        for own in range(step.tasks):
            others = gradients[torch.arange(step.tasks) != own]
            if bool((others @ gradients[own] < 0).any()):
                along = torch.linalg.lstsq(others.T, gradients[own]).solution
                projected[own] = gradients[own] - along @ others
        share = (projected @ gradients.T).sum(0) / gradients.norm(dim=1)
        powers = (share / share.mean()) ** step.args["gradops_alpha"]
        ones = torch.ones(step.tasks)
        return Expected((powers / powers.mean()) @ projected, ones, ones)


class RotoGrad(Form):
    """The gradients of the rotated representations, all scaled to one norm (mode ``full``)."""

    def __init__(self) -> None:
        self.steps, self.first = 0, torch.empty(0)

    def __call__(self, step: Step) -> Expected:
        """Return the gradients of this step; see the class."""
        gradients = step.samples[0].rep_gradients
        norms = torch.stack([gradient.norm() for gradient in gradients])
        if self.steps in (0, step.args["rotograd_burn_in"]):
            self.first = norms
        self.steps += 1
        speeds = norms / self.first
        common = (speeds / speeds.sum()) @ norms
        whole = step.pull([common / n * g for n, g in zip(norms, gradients, strict=True)])
        ones = torch.ones(step.tasks)
        return Expected(None, ones, ones, whole=whole)


FORMS: dict[str, Callable[[], Form]] = {
    form.__name__: form
    for form in (
        *(EW, UW, RLW, DWA, GLS, GradNorm, MGDA, PCGrad, GradVac, CAGrad, GradDrop, IMTL),
        *(GradOPS, RotoGrad),
    )
}
FORMS |= dict.fromkeys(("MOML", "FORUM", "AutoLambda"), Bilevel)
