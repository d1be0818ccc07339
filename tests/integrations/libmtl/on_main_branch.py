"""What is asked of LibMTL's main branch in a process of its own; prints one JSON object.

Run by `test_main_branch.py`: `on_main_branch.py [without-ecos]`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

if "without-ecos" in sys.argv:
    sys.modules["ecos"] = None  # type: ignore[assignment]  # to Python: there is no such package

import libmtl_recon

# isort: split
import numpy as np
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from torch import nn
from trainer_arguments import classifications

TASKS = ("t0", "t1")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))))


class Renamed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())


def make(*flags: str, **changes: Any) -> Any:
    params = LibMTL_args.parse_args([*flags, "--optim", "sgd", "--lr", "0.1"])
    kwargs, optim_param, scheduler_param = prepare_args(params)
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "task_dict": classifications(TASKS),
        "weighting": params.weighting,
        "architecture": params.arch,
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({name: nn.Linear(6, 2) for name in TASKS}),
        "rep_grad": params.rep_grad,
        "multi_input": params.multi_input,
        "optim_param": optim_param,
        "scheduler_param": scheduler_param,
        **kwargs,
    }
    return Trainer(**{**given, **changes})


def batches() -> Any:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 5, generator=generator)
    samples = [(row, {t: (row[i] > 0).long() for i, t in enumerate(TASKS)}) for row in x]
    return torch.utils.data.DataLoader(samples, batch_size=16)


def train(trainer: Any, **more: Any) -> Any:
    return trainer.train(batches(), batches(), 2, **more)


def refusal(make_it: Any) -> str:
    try:
        make_it()
    except libmtl_recon.ReconError as error:
        return str(error)
    return ""


def recon(folder: str) -> tuple[str, ...]:
    layers = Path(folder) / "layers.json"
    layers.write_text('{"two": 9}', encoding="utf-8")
    return ("--arch", "Recon", "--recon_k", "1", "--recon_layers", str(layers))


def nash() -> Any:
    weights = train(make("--weighting", "Nash_MTL", "--arch", "HPS"), return_weight=True)
    return None if weights is None else np.unique(weights).tolist()


def layers_of_gradvac() -> dict[str, Any]:
    found = {}
    gates = ("--img_size", "5", "--num_experts", "2", "1", "1")
    for arch, more in (("HPS", ()), ("MMoE", gates)):
        flags = ("--weighting", "GradVac", "--GradVac_group_type", "1", "--arch", arch, *more)
        trainer = make(*flags)
        train(trainer)
        widths, parameters = trainer.model.k_idx, list(trainer.model.get_share_params())
        found[arch] = [widths, sum(p.numel() for p in parameters)]
    return found


def checkpoints() -> dict[str, Any]:
    flags = ("--weighting", "UW", "--arch", "HPS")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(*flags, save_path=folder)
        train(trainer)
        again = make(*flags, load_path=folder)
        own, saved = again.model.state_dict(), torch.load(Path(folder) / "best.pt")
        found["same"] = all(torch.equal(own[name], value) for name, value in saved.items())
        found["other weighting"] = refusal(lambda: make("--weighting", "EW", load_path=folder))
        found["split anew"] = refusal(lambda: make(*recon(folder), load_path=folder))
        found["other encoder"] = refusal(
            lambda: make(*flags, encoder_class=Renamed, load_path=folder)
        )
        split = Path(folder) / "split.pt"
        torch.save(make(*recon(folder)).model.state_dict(), split)
        found["already split"] = refusal(lambda: make(*flags, load_path=split))
    return found


def solver() -> str:
    sys.modules["quadprog"] = None  # type: ignore[assignment]
    try:
        return refusal(lambda: make("--weighting", "UPGrad"))
    finally:
        del sys.modules["quadprog"]


def bilevel() -> dict[str, Any]:
    found: dict[str, Any] = {"steps": refusal(lambda: make("--weighting", "MOML"))}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("MOML", "FORUM", "AutoLambda"):
            trainer = make("--weighting", name, "--inner_step", "1", *recon(folder))
            before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
            train(trainer)
            after = dict(trainer.model.named_parameters())
            found[name] = [n for n in after if torch.equal(after[n], before[n])]
    return found


def main() -> None:
    if "without-ecos" in sys.argv:
        found: dict[str, Any] = {"nash": nash()}
    else:
        found = {
            "nash": nash(),
            "gradvac": layers_of_gradvac(),
            "checkpoints": checkpoints(),
            "solver": solver(),
            "bilevel": bilevel(),
            "excess": refusal(lambda: make("--weighting", "ExcessMTL", "--rep_grad")),
        }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
