"""Recon as a LibMTL architecture: hard parameter sharing, but for the layers that conflict."""

from __future__ import annotations

import inspect
from typing import Any

from LibMTL.architecture import HPS
from torch import Tensor, nn

from libmtl_recon.architecture.bundle import pick
from libmtl_recon.architecture.split import only_task, shared_parameters, split_layers
from libmtl_recon.commands import scoring_command
from libmtl_recon.conflict.layers import layers_of
from libmtl_recon.conflict.selection import select_layers
from libmtl_recon.errors import UsageError

# What LibMTL's weightings take the gradients of the shared parameters from.
_GRADIENTS = {"_get_grads", "_compute_grad", "_compute_grad_dim", "get_share_params"}


class Recon(HPS):  # type: ignore[misc]  # LibMTL is untyped
    """``--arch Recon``: each task has its own copy of the K layers that conflict most.

    Source: Algorithm 1 of the Recon paper. The network is built anew, its worst layers are split,
    and it is trained from scratch with any weighting. Split layers, like decoders, are updated by
    their own task's gradient.
    """

    def __init__(
        self,
        task_name: list[str],
        encoder_class: type[nn.Module],
        decoders: nn.ModuleDict,
        rep_grad: bool,
        multi_input: bool,
        device: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            task_name, encoder_class, decoders, rep_grad, multi_input, device, **kwargs
        )
        layers = layers_of(self.encoder)
        selection = select_layers(
            layers,
            kwargs["recon_k"],
            kwargs["recon_s"],
            kwargs["recon_layers"],
            command=scoring_command(),
            select=kwargs.get("recon_select", "conflict"),
            seed=kwargs.get("recon_select_seed", 0),
        )
        before = _count(self.encoder)
        split_layers(self.encoder, selection.names, task_name)
        self._refuse_nothing_shared(len(selection.names))
        print("=" * 40)
        print("Recon:", selection.note)
        print(f"Recon: {len(selection.names)} of {len(layers)} layers are task-specific now:")
        print("\t" + ", ".join(selection.names))
        print(f"Recon: encoder parameters {before:,} -> {_count(self.encoder):,}")

    def forward(self, inputs: Tensor, task_name: str | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            inputs: One batch.
            task_name: The only task wanted (``multi_input``); its branch alone is computed.

        Returns:
            The prediction of each task.
        """
        if task_name is not None:
            with only_task(self.encoder, task_name):
                encoded = self.encoder(inputs)
            # The encoder computed this task only: its list has every task's place, no bundles.
            index = self.task_name.index(task_name)
            representations = {task_name: _of_task(encoded, index)}
        else:
            encoded = self.encoder(inputs)
            representations = {
                task: _of_task(encoded, index) for index, task in enumerate(self.task_name)
            }
        return {
            task: self.decoders[task](self._prepare_rep(representation, task, same_rep=False))
            for task, representation in representations.items()
        }

    def get_share_params(self) -> list[nn.Parameter]:
        """The parameters that are still shared."""
        return shared_parameters(self.encoder)

    def zero_grad_share_params(self) -> None:
        """Zero the gradients of the parameters that are still shared, in place."""
        for parameter in self.get_share_params():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.detach().zero_()

    def _refuse_nothing_shared(self, split: int) -> None:
        """Refuse a weighting of shared gradients if there are none to weigh."""
        if any(parameter.requires_grad for parameter in self.get_share_params()):
            return
        for parent in type(self).__mro__:
            code = getattr(inspect.unwrap(vars(parent).get("backward", str)), "__code__", None)
            if code is not None and _GRADIENTS & set(code.co_names):
                raise UsageError(
                    "--recon_k",
                    f"must leave a layer shared for --weighting {parent.__name__}, which weighs "
                    "the gradients of shared parameters; here every layer is task-specific",
                    split,
                    "Lower it, or use a weighting of losses such as EW.",
                )


def _of_task(encoded: Any, index: int) -> Any:
    """What the encoder computed for one task."""
    # LibMTL's convention: an encoder may return one representation a task, as a list.
    return pick(encoded[index] if isinstance(encoded, list) else encoded, index)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
