"""Compare the gradients of each step of a LibMTL Trainer with those that they should be."""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# In float64, relative to a parameter's largest gradient, and to the whole network's largest.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-8
# A forward pass: the input, the task (or all), the generator's state before it, and the epoch.
Call = tuple[Tensor, str | None, Tensor, int]


@dataclass
class Sample:
    """One batch of every task, in an independent forward pass whose graph is not cut.

    Attributes:
        losses: ``[T]``.
        gradients: One dict per task: the gradients of the parameters on which its loss depends.
        reps: The inputs of the decoders, with their graph.
        rep_gradients: The gradient of each task's loss with respect to the input of its decoder.
    """

    losses: Tensor
    gradients: list[dict[str, Tensor]]
    reps: list[Tensor]
    rep_gradients: list[Tensor]


@dataclass
class Step:
    """The data of a step from which a closed form computes the gradients.

    Attributes:
        samples: One, or three for the weightings that draw three batches per step.
        shared: The names of the shared parameters, in LibMTL's order.
        parameters: All parameters before the step, by name.
        weights: The weights that LibMTL's ``backward`` returned, as floats.
        history: The mean losses of all earlier epochs.
        afterwards: ``[T]``: the losses of the last step's batch with the present parameters, if
            LibMTL computed them again after that step.
        random_state, torch_state: The states of the generators at the beginning of ``backward``.
    """

    samples: list[Sample]
    shared: list[str]
    parameters: dict[str, Tensor]
    weights: Tensor
    epoch: int
    history: list[Tensor]
    args: dict[str, Any]
    rep_grad: bool
    random_state: Any
    torch_state: Tensor
    afterwards: Tensor | None = None

    @property
    def tasks(self) -> int:
        """The number of tasks T."""
        return len(self.losses)

    @property
    def losses(self) -> Tensor:
        """The losses ``[T]`` of the first batch."""
        return self.samples[0].losses

    def matrix(self, sample: int = 0) -> Tensor:
        """Return the gradients ``[T, d]`` of the shared parameters."""
        rows = [
            torch.cat([self._part(own, name) for name in self.shared])
            for own in self.samples[sample].gradients
        ]
        return torch.stack(rows)

    def _part(self, gradients: dict[str, Tensor], name: str) -> Tensor:
        found = gradients.get(name)
        return (torch.zeros_like(self.parameters[name]) if found is None else found).flatten()

    def deciding(self) -> Tensor:
        """Return the gradients ``[T, m]`` from which the weighting computes its weights.

        These are the rows of :meth:`matrix`, or with ``rep_grad`` the gradients of the
        representations, summed over the batch.
        """
        if not self.rep_grad:
            return self.matrix()
        return torch.stack([g.sum(0).flatten() for g in self.samples[0].rep_gradients])

    def pull(self, cotangents: list[Tensor]) -> dict[str, Tensor]:
        """Return the gradients of the encoder's parameters for gradients of the representations."""
        names = [n for n in self.parameters if not n.startswith("decoders.")]
        sample = self.samples[0]
        found = torch.autograd.grad(
            sample.reps,
            [self._live[n] for n in names],
            cotangents,
            retain_graph=True,
            allow_unused=True,
        )
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}

    _live: dict[str, nn.Parameter] = field(default_factory=dict)


@dataclass
class Expected:
    """The gradients that a step should produce.

    Attributes:
        shared: ``[d]``, the gradient of the shared parameters; None if ``whole`` has it.
        scale: ``[T]``, the factors of the task gradients in the encoder's task-specific layers.
        decoders: ``[T]``, the factors of the task gradients in the decoders.
        own: The gradients of the weighting's own parameters, by name.
        faults: The conditions of the method that its weights violate.
        whole: All gradients of the encoder, by name, instead of ``shared`` and ``scale``.
    """

    shared: Tensor | None
    scale: Tensor
    decoders: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    whole: dict[str, Tensor] | None = None


class Watch:
    """Check of every step of a Trainer against a closed form."""

    def __init__(self, trainer: Any, form: Any) -> None:
        self.trainer, self.form = trainer, form
        self.model = trainer.model
        self.reference = copy.deepcopy(trainer.model)
        self.reference.rep_grad = False
        self.reference.train()
        if hasattr(self.reference, "rotograd"):
            self.reference.rotograd.eval()  # Otherwise it would cut the graph.
        own = [*self.model.parameters(), *self.model.buffers()]
        copies = [*self.reference.parameters(), *self.reference.buffers()]
        self.copies = list(zip(copies, own, strict=True))
        self.faults: list[str] = []
        self.start = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.reached: set[str] = set()
        self.calls: list[Call] = []
        self.looks: list[Call] = []
        self.labels: dict[str, Tensor] = {}
        self.history: list[Tensor] = []
        self.of_epoch: list[Tensor] = []
        self.steps = 0
        # RotoGrad's rotations before the forward pass; each step updates them.
        self.rotations: dict[str, Tensor] = {}
        self.seen: dict[str, list[Tensor]] = {name: [] for name in trainer.task_name}
        if form.watched:
            self._hook()

    def _hook(self) -> None:
        watch = self  # closures, since a deep copy of the model also copies its hooks

        def before(module: nn.Module, args: Any) -> None:
            if module is watch.model and module.training:
                task = args[1] if len(args) > 1 else None
                calls = watch.calls if torch.is_grad_enabled() else watch.looks
                calls.append((args[0], task, torch.get_rng_state(), watch.model.epoch))
                state = module.rotograd.state_dict() if hasattr(module, "rotograd") else {}
                watch.rotations = {name: value.clone() for name, value in state.items()}

        def after(module: nn.Module, _: Any, __: Any) -> None:
            if module is watch.model and module.training and torch.is_grad_enabled():
                watch.torch_state = torch.get_rng_state()
                watch.random_state = random.getstate()

        def step(*_: Any) -> None:
            watch._look()

        self.model.register_forward_pre_hook(before)
        self.model.register_forward_hook(after)
        self.trainer.optimizer.register_step_pre_hook(step)
        for task, loss in self.trainer.meter.losses.items():
            loss.seen = self.seen[task]

    def _look(self) -> None:
        step = self._read()
        self.steps += 1
        expected = self.form(step)
        if expected is None:
            of_tasks = [own for sample in step.samples for own in sample.gradients]
            self._note_reached(of_tasks)
            return
        wanted = self._spread(step, expected)
        self._note_reached([wanted])
        if not self.faults:
            self.faults += expected.faults
            self._compare(step, wanted)

    def _note_reached(self, gradients: list[dict[str, Tensor]]) -> None:
        """Record the parameters that must change; a weighting may give a task no weight."""
        largest = max(float(g.abs().max()) for own in gradients for g in own.values())
        # A bias before a batch norm has a gradient of rounding errors alone.
        self.reached |= {
            name
            for own in gradients
            for name, g in own.items()
            if float(g.abs().max()) > _ABSOLUTE * largest
        }

    def _read(self) -> Step:
        trainer, names = self.trainer, self.trainer.task_name
        if self.model.epoch > len(self.history):
            self.history.append(torch.stack(self.of_epoch).mean(0))
            self.of_epoch.clear()
        reference = self.reference
        with torch.no_grad():
            for copied, own in self.copies:
                copied.copy_(own)
        if self.rotations:
            reference.rotograd.load_state_dict(self.rotations)
        reference.epochs = getattr(self.model, "epochs", None)  # only LibMTL's main branch has this
        per_sample = len(names) if trainer.multi_input else 1
        state = torch.get_rng_state()
        samples = [
            self._sample(self.calls[at : at + per_sample], at // per_sample)
            for at in range(0, len(self.calls), per_sample)
        ]
        afterwards = self._sample(self.looks).losses if self.looks else None
        torch.set_rng_state(state)
        batch = self.steps % trainer.batch_weight.shape[2]
        ids = {id(p): n for n, p in self.model.named_parameters()}
        step = Step(
            samples=samples,
            shared=[ids[id(p)] for p in self.model.get_share_params()],
            parameters={n: p.detach() for n, p in reference.named_parameters()},
            weights=torch.tensor(trainer.batch_weight[:, self.model.epoch, batch]),
            epoch=self.model.epoch,
            history=self.history,
            args=trainer.kwargs["weight_args"],
            rep_grad=trainer.rep_grad,
            random_state=self.random_state,
            torch_state=self.torch_state,
            afterwards=afterwards,
            _live=dict(reference.named_parameters()),
        )
        self.of_epoch += [sample.losses for sample in samples]
        self.calls.clear()
        self.looks.clear()
        for name, seen in self.seen.items():
            self.labels[name] = seen[-1]
            seen.clear()
        return step

    def _sample(self, calls: list[Call], number: int | None = None) -> Sample:
        reference, names = self.reference, self.trainer.task_name
        reps: dict[str, Tensor] = {}
        hooks = [
            reference.decoders[name].register_forward_pre_hook(
                lambda _, args, name=name: reps.__setitem__(name, args[0])
            )
            for name in names
        ]
        out = {}
        for inputs, task, state, epoch in calls:
            torch.set_rng_state(state)
            reference.epoch = epoch
            out.update(reference(inputs) if task is None else reference(inputs, task))
        for hook in hooks:
            hook.remove()
        live = dict(reference.named_parameters())
        losses, gradients, rep_gradients = [], [], []
        for name in names:
            labels = self.labels[name] if number is None else self.seen[name][number]
            size = self.trainer.meter.losses[name].size
            loss = size * nn.functional.cross_entropy(out[name], labels)
            *found, of_rep = torch.autograd.grad(
                loss, [*live.values(), reps[name]], retain_graph=True, allow_unused=True
            )
            losses.append(loss.detach())
            pairs = zip(live, found, strict=True)
            gradients.append({n: g for n, g in pairs if g is not None})
            rep_gradients.append(of_rep)
        return Sample(torch.stack(losses), gradients, [reps[name] for name in names], rep_gradients)

    def _spread(self, step: Step, expected: Expected) -> dict[str, Tensor]:
        """Return the expected gradient of each parameter."""
        found = {name: torch.zeros_like(p) for name, p in step.parameters.items()}
        shared = set(step.shared)
        for name in found:
            if name in expected.own:
                found[name] = expected.own[name]
            elif expected.whole is not None and not name.startswith("decoders."):
                found[name] = expected.whole.get(name, found[name])
            elif name not in shared:
                scale = expected.decoders if name.startswith("decoders.") else expected.scale
                for sample in step.samples:
                    for task, gradients in enumerate(sample.gradients):
                        if name in gradients:
                            found[name] = found[name] + scale[task] * gradients[name]
        if expected.shared is not None:
            widths = [step.parameters[name].numel() for name in step.shared]
            for name, part in zip(step.shared, expected.shared.split(widths), strict=True):
                found[name] = part.view_as(found[name])
        return found

    def _compare(self, step: Step, expected: dict[str, Tensor]) -> None:
        largest = max(float(g.abs().max()) for g in expected.values())
        wrong, worst = [], 0.0
        for name, parameter in self.model.named_parameters():
            # RotoGrad creates its rotations in the first step, and leaves no gradient on them.
            want = expected.get(name, torch.zeros_like(parameter))
            got = torch.zeros_like(want) if parameter.grad is None else parameter.grad
            off = float((got - want).abs().max())
            size = float(want.abs().max())
            if not off <= _RELATIVE * size + _ABSOLUTE * largest:
                wrong.append(name)
                worst = max(worst, off / (size or largest))
        if wrong:
            self.faults.append(
                f"the gradients of {len(wrong)} of {len(expected)} parameters ({wrong[0]}, …) are "
                f"not those of the closed form in step {self.steps - 1} (off by {worst:.1g} of "
                "their size)"
            )

    def judge(self) -> list[str]:
        """Return all faults, after the end of the training."""
        parameters = dict(self.model.named_parameters())
        if not torch.isfinite(torch.tensor(self.model.train_loss_buffer)).all():
            self.faults.append("a loss is not finite")
        elif not all(bool(torch.isfinite(p).all()) for p in parameters.values()):
            self.faults.append("a parameter is not finite")
        expected = self.reached if self.form.watched else set(parameters) - _idle(self.model)
        still = [n for n in sorted(expected) if torch.equal(parameters[n], self.start[n])]
        if still:
            self.faults.append(
                f"{len(still)} of {len(expected)} parameters never change ({still[0]}, …)"
            )
        return self.faults


def _idle(model: nn.Module) -> set[str]:
    """Return the biases that a batch norm cancels, whose gradients are rounding errors."""
    idle = {
        first.bias
        for module in model.modules()
        if isinstance(module, nn.Sequential)
        for first, second in itertools.pairwise(module)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    }
    return {name for name, parameter in model.named_parameters() if parameter in idle}
